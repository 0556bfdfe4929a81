# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt app`: a page (Gradio) to which images or a video are uploaded, and that shows the result.

It is served on this machine only unless another host is given, and asks nothing of other hosts.
"""

import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.app_page import layout
from vggt_ros.tools.app_sessions import Limits, Sessions
from vggt_ros.tools.option_sets import PORTS, check_limits
from vggt_ros.tools.runs.network import Engine
from vggt_ros.tools.viewer import reachable

QUEUE = 16  # requests that wait for the network; more are refused
CLEANING_S = 60.0  # between two searches for sessions that are not used any more
LOCAL_FONTS = ["system-ui", "sans-serif", "monospace"]  # Gradio's own come from another host
DEFAULT = Limits()


def app(
    *,
    model: str = "small",
    port: int = 7860,
    host: str = "127.0.0.1",
    max_images: int = DEFAULT.images,
    max_megabytes: int = DEFAULT.megabytes,
    keep_minutes: int = DEFAULT.minutes,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    cache_dir: Path | None = Path("~/.cache/vggt_ros"),
) -> None:
    """Serve a page that reconstructs what is uploaded to it, until Ctrl-C.

    Args:
        model: Preset, Hugging Face id, file or folder.
        port: Port of the page; 0 takes a free one.
        host: Address to serve on; with 0.0.0.0 all who reach this machine can use the page.
        max_images: Files of an upload, and frames of a reconstruction, at most.
        max_megabytes: Size of an upload at most.
        keep_minutes: How long uploads and results of an open page are kept without use.
        dtype: Number format of the network; auto is bfloat16 on accelerators.
        device: JAX platform (cpu, gpu); auto is the first one available.
        cache_dir: Directory of compiled programs, reused by later starts.
    """
    some = (1, math.inf)
    check_limits(locals(), port=PORTS, max_images=some, max_megabytes=some, keep_minutes=some)
    if find_spec("gradio") is None:
        raise UserError(f"the page needs Gradio; install it {install_extra('app')}")
    from vggt_ros.engine.engine import open_engine

    engine = open_engine(model, dtype=dtype, device=device,
                         cache_dir=cache_dir and cache_dir.expanduser(),
                         progress=lambda line: print(line, file=sys.stderr))  # fmt: skip
    limits = Limits(max_images, max_megabytes, keep_minutes)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # deletes as Ctrl-C
    with page(engine, limits, host=host, port=port) as address:
        print(f"{address}   (Ctrl-C ends, and deletes all uploads)", flush=True)
        while True:
            time.sleep(3600)


@contextmanager
def page(engine: Engine, limits: Limits, *, host: str, port: int) -> Iterator[str]:
    """Serve the page while the block runs; gives its address. All files are deleted at the end.

    Raises `UserError` for a port that is taken.
    """
    port = port or free_port(host)
    root = Path(tempfile.mkdtemp(prefix="vggt_app_"))  # of this user alone
    transfer = root / "transfer"
    gradio = _import_gradio(transfer)
    sessions = Sessions(root / "sessions", engine, limits)
    gradio.set_static_paths(sessions.root)  # served from there; copies would outlive the session
    served = layout(gradio, sessions)
    served.queue(max_size=QUEUE, api_open=False)
    ended = threading.Event()
    threading.Thread(target=_clean, args=(sessions, transfer, ended), daemon=True).start()
    try:
        _launch(served, gradio.themes.Default(font=LOCAL_FONTS, font_mono=LOCAL_FONTS[1:]),
                limits, host, port)  # fmt: skip
        yield f"http://{reachable(host)}:{port}"
    finally:
        ended.set()
        served.close(verbose=False)
        sessions.close()
        shutil.rmtree(root, ignore_errors=True)


def _launch(served: Any, theme: Any, limits: Limits, host: str, port: int) -> None:
    """Start the server.  Raises `UserError` for a port that is taken, and without an answer."""
    try:
        served.launch(
            server_name=host, server_port=port, share=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, max_file_size=f"{limits.megabytes}mb", ssr_mode=False,
            enable_monitoring=False, footer_links=[], pwa=False, mcp_server=False, theme=theme,
        )  # fmt: skip
    except OSError as error:
        if "port" not in str(error):
            raise
        raise UserError(f"port {port} is taken; choose another --port, or 0") from None
    except ValueError as error:
        if "localhost" not in str(error):
            raise
        raise UserError(
            f"the page at {host}:{port} does not answer within 3 s: this machine is too busy, or a"
            " proxy is used for its own addresses (NO_PROXY); try again"
        ) from None


def _import_gradio(transfer: Path) -> Any:
    """The module, without its reports on use; uploads lie in `transfer` until received."""
    os.environ |= {"GRADIO_TEMP_DIR": str(transfer), "GRADIO_ANALYTICS_ENABLED": "False",
                   "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    for name in ("NO_PROXY", "no_proxy"):  # it asks its own page whether that is up
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))
    import gradio  # pyright: ignore[reportMissingImports]

    return gradio


def _clean(sessions: Sessions, transfer: Path, ended: threading.Event) -> None:
    while not ended.wait(CLEANING_S):
        sessions.delete_unused()
        for path in transfer.glob("tmp*"):  # Gradio makes an empty file for each one it receives
            if path.is_file() and not path.stat().st_size:
                path.unlink()


def free_port(host: str) -> int:
    """A port that nothing listens on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
