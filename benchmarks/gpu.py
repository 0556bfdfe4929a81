# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every figure of one GPU in one call and one table, on a machine that has next to nothing.

    python benchmarks/gpu.py --reference CHECKOUT > table.md

Needs jax, flax, numpy and safetensors (PyTorch for `--reference`).  Groups of rows run in processes
of their own, the most wanted first: one that crashes or hangs costs its own rows only, memory is
counted from nothing, and when the minutes are over the rest is skipped and named.
"""

import argparse
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vggt_ros.tools.bench.main import Row

ROOT = Path(__file__).resolve().parents[1]
LEAST = 10  # seconds; a group that has less is not begun


class Group(NamedTuple):
    """Rows that share what they need: `benchmarks/gpu_rows/MODULE.py`, a function of our name."""

    module: str
    seconds: int  # on a GPU, at most: what takes longer is ended


GROUPS = {  # in order of priority
    "machine": Group("ceiling", 60),
    "golden": Group("correctness", 120),
    "starts": Group("starts", 180),
    "stream": Group("speed", 300),
    "memory": Group("starts", 90),
    "latency": Group("latency", 60),
    "stages": Group("parts", 120),
    "attention": Group("parts", 120),
    "errors": Group("correctness", 150),
    "train": Group("learning", 150),
    "load": Group("starts", 120),
    "compiled": Group("speed", 200),
    "scan": Group("parts", 200),
    "dispatch": Group("latency", 60),
    "traced": Group("starts", 150),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 also where rows failed, since they say so."""
    options = _options(arguments)
    _make_importable()
    if options.child:
        return child(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children end in `finally`
    print(f"Machine: {_machine()}\n\nCommand: `{shlex.join(['python', *sys.argv])}`\n")
    print("| figure | value | unit | against |\n|---|---|---|---|", flush=True)
    with _folder(options.keep) as folder:
        deadline = time.monotonic() + 60 * options.minutes
        for name in sorted(options.groups or GROUPS, key=list(GROUPS).index):
            left = deadline - time.monotonic()
            if left < LEAST:
                _show({"name": f"skipped/{name}", "value": math.nan, "unit": "-",
                       "against": f"{options.minutes:g} minutes are over"})  # fmt: skip
                continue
            limit = left if options.device == "cpu" else min(left, GROUPS[name].seconds)
            for row in run(name, options, Path(folder), limit):
                _show(row)
                if row["name"] == f"unfinished/{name}" and options.reference is not None:
                    left = deadline - time.monotonic()
                    if name == "stream" and left > LEAST:  # ours are wanted without theirs too
                        for again in run(name, options, Path(folder), left, "--alone"):
                            _show(again)
    return 0


def run(
    name: str, options: argparse.Namespace, folder: Path, limit: float, *more: str
) -> Iterator[dict]:
    """Rows of a group as its process reports them, and one more if it did not end well."""
    print(f"-- {name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
    command = [sys.executable, str(Path(__file__).resolve()), *options.given]
    command += ["--child", name, "--folder", str(folder), *more]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    late = threading.Event()

    def end() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its own children too
        except ProcessLookupError:
            pass

    timer = threading.Timer(limit, lambda: (late.set(), end()))
    timer.start()
    try:
        for line in process.stdout:
            if line.endswith("\n"):  # or it was cut by the end of the process
                yield json.loads(line)
        code = process.wait()
    finally:
        timer.cancel()
        end()
        process.stdout.close()
        process.wait()
    if code:
        why = f"not done after {limit:.0f} s" if late.is_set() else f"ended with code {code}"
        yield {"name": f"unfinished/{name}", "value": math.nan, "unit": "-",
               "against": f"failed: {why}"}  # fmt: skip
    print(f"-- {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def child(options: argparse.Namespace) -> int:
    """One group in this process: rows as JSON lines; whatever else is printed goes to stderr."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from benchmarks.gpu_rows.setup import Setup, attempt
    from vggt_ros.errors import UserError
    from vggt_ros.tools.bench.main import Options

    asked = Options(
        options.model, tuple(options.windows), options.width, options.height, options.repeats,
        None if options.alone else options.reference, options.dtype,
    )  # fmt: skip
    setup, name = Setup(asked, options.folder), options.child
    module = f"benchmarks.gpu_rows.{GROUPS[name].module}"

    def rows() -> Iterator["Row"]:
        import jax

        if options.device == "auto" and jax.default_backend() == "cpu":
            raise UserError("JAX finds no accelerator; to rehearse, add --device cpu")
        yield from getattr(import_module(module), name)(setup)

    for row in attempt(name, rows):
        print(json.dumps(row._asdict()), file=report, flush=True)
    report.flush()
    return 0


@contextmanager
def _folder(kept: Path | None) -> Iterator[str]:
    """Where compiled programs lie until the end, or for the next call."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="vggt_gpu_") as folder:
            yield folder
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield str(kept.resolve())


def _make_importable() -> None:
    """Us, here and in processes we start; stand-ins only for what is missing."""
    paths = [str(ROOT)]
    for folder in sorted((ROOT / "benchmarks" / "absent").iterdir()):
        if find_spec(folder.name) is None:
            paths.append(str(folder))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in given if path and path not in paths]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *kept])


def _show(row: dict) -> None:
    """A line of the table, and of the progress."""
    value = "-" if math.isnan(row["value"]) else f"{row['value']:.4g}"
    print(f"| `{row['name']}` | {value} | {row['unit']} | {row['against']} |", flush=True)
    print(f"{row['name']:<56} {value:>10} {row['unit']}  {row['against']}", file=sys.stderr)


def _machine() -> str:
    """Card, driver, processors and versions, without waking the card."""
    words = []
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        words += [f"{line.strip()} (driver second)" for line in found.stdout.splitlines()]
    except (OSError, subprocess.SubprocessError):
        words.append("no NVIDIA driver")
    words += [f"{os.cpu_count()} cores {platform.machine()}", f"Python {platform.python_version()}"]
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            words.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            words.append(f"no {package}")
    return ", ".join(words)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="vggt-1b", help="preset; weights are untrained (default: vggt-1b)")
    add("--windows", type=int, nargs="+", default=[4, 8, 16], help="window sizes S")
    add("--width", type=int, default=518, help="of the network's picture, a multiple of 14")
    add("--height", type=int, default=392, help="of the network's picture, a multiple of 14")
    add("--repeats", type=int, default=20, help="timed runs of each side; medians are given")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="arithmetic")
    add("--device", choices=["auto", "cpu"], default="auto", help="cpu: to rehearse")
    add("--reference", type=Path, help="checkout of the official VGGT, for the ratios to it")
    add("--keep", type=Path, help="folder of compiled programs, to begin where a call ended;"
        " `starts` needs an empty one")  # fmt: skip
    add("--minutes", type=float, default=9.0, help="what is not done by then is skipped")
    add("--groups", nargs="+", choices=list(GROUPS), metavar="GROUP",
        help=f"only these; in order of priority: {' '.join(GROUPS)}")  # fmt: skip
    add("--child", choices=list(GROUPS), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(options.windows) < 1 or options.repeats < 1:
        parser.error("--windows and --repeats start at 1")
    if options.width % 14 or options.height % 14 or min(options.width, options.height) < 14:
        parser.error("--width and --height must be multiples of 14")
    if options.reference is not None:
        options.reference = options.reference.resolve()
    options.given = list(sys.argv[1:] if arguments is None else arguments)
    # JAX would take most of the memory at once, and PyTorch wants some on the same card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    return options


if __name__ == "__main__":
    sys.exit(main())
