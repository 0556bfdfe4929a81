# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All figures of one GPU in one call and one table, on a machine with few packages.

    python benchmarks/gpu.py --reference CHECKOUT > table.md

Needs jax, flax, numpy and safetensors (PyTorch for `--reference`).  Groups of rows run in processes
of their own, in order of priority: a crash or a hang loses the rows of its group only, memory is
counted from zero, and groups for which no time is left are listed as skipped.
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
MIN_SECONDS = 10  # a group is not started with less time left


class Group(NamedTuple):
    """Rows with common preparations: the function of the group's name in gpu_rows/MODULE.py."""

    module: str
    seconds: int  # limit on a GPU; the process is killed after it


GROUPS = {  # in order of priority
    "machine": Group("ceiling", 60),
    "golden": Group("correctness", 120),
    "starts": Group("starts", 180),
    "stream": Group("speed", 300),
    "memory": Group("starts", 90),
    "latency": Group("latency", 60),
    "stages": Group("parts", 120),
    "attention": Group("parts", 120),
    "tracks": Group("parts", 120),
    "errors": Group("correctness", 150),
    "train": Group("learning", 150),
    "load": Group("starts", 120),
    "compiled": Group("speed", 200),
    "scan": Group("parts", 200),
    "dispatch": Group("latency", 60),
    "traced": Group("starts", 150),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 even if rows failed, since each one states its failure."""
    options = _options(arguments)
    _make_importable()
    if options.child:
        return child(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `finally` kills the children
    print(f"Machine: {_machine()}\n\nCommand: `{shlex.join(['python', *sys.argv])}`\n")
    print("| figure | value | unit | against |\n|---|---|---|---|", flush=True)
    with _folder(options.keep) as folder:
        deadline = time.monotonic() + 60 * options.minutes
        for name in sorted(options.groups or GROUPS, key=list(GROUPS).index):
            left = deadline - time.monotonic()
            if left < MIN_SECONDS:
                _show({"name": f"skipped/{name}", "value": math.nan, "unit": "-",
                       "against": f"{options.minutes:g} minutes are over"})  # fmt: skip
                continue
            limit = left if options.device == "cpu" else min(left, GROUPS[name].seconds)
            for row in run(name, options, Path(folder), limit):
                _show(row)
                if row["name"] == f"unfinished/{name}" and options.reference is not None:
                    left = deadline - time.monotonic()
                    if name == "stream" and left > MIN_SECONDS:  # repeat without the official model
                        for again in run(name, options, Path(folder), left, "--alone"):
                            _show(again)
    return 0


def run(
    name: str, options: argparse.Namespace, folder: Path, limit: float, *more: str
) -> Iterator[dict]:
    """Rows of a group as its process reports them, and one more if the process failed."""
    print(f"-- {name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
    command = [sys.executable, str(Path(__file__).resolve()), *options.given]
    command += ["--child", name, "--folder", str(folder), *more]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    timed_out = threading.Event()

    def end() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # and its own children
        except ProcessLookupError:
            pass

    timer = threading.Timer(limit, lambda: (timed_out.set(), end()))
    timer.start()
    try:
        for line in process.stdout:
            if line.endswith("\n"):  # otherwise the process was killed within the line
                yield json.loads(line)
        code = process.wait()
    finally:
        timer.cancel()
        end()
        process.stdout.close()
        process.wait()
    if code:
        why = f"not done after {limit:.0f} s" if timed_out.is_set() else f"ended with code {code}"
        yield {"name": f"unfinished/{name}", "value": math.nan, "unit": "-",
               "against": f"failed: {why}"}  # fmt: skip
    print(f"-- {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def child(options: argparse.Namespace) -> int:
    """Run one group in this process: rows as JSON lines; other output goes to stderr."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from benchmarks.gpu_rows.setup import Setup, attempt
    from vggt_ros.errors import UserError
    from vggt_ros.tools.bench.main import Options

    bench_options = Options(
        options.model, tuple(options.windows), options.width, options.height, options.repeats,
        None if options.alone else options.reference, options.dtype,
    )  # fmt: skip
    setup, name = Setup(bench_options, options.folder), options.child
    module = f"benchmarks.gpu_rows.{GROUPS[name].module}"

    def rows() -> Iterator["Row"]:
        import jax

        if options.device == "auto" and jax.default_backend() == "cpu":
            raise UserError("JAX finds no accelerator; for a test on the CPU add --device cpu")
        yield from getattr(import_module(module), name)(setup)

    for row in attempt(name, rows):
        print(json.dumps(row._asdict()), file=report, flush=True)
    report.flush()
    return 0


@contextmanager
def _folder(kept: Path | None) -> Iterator[str]:
    """Folder of compiled programs: temporary, or kept for the next call."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="vggt_gpu_") as folder:
            yield folder
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield str(kept.resolve())


def _make_importable() -> None:
    """Put this repository, and stand-ins for missing packages, on the path of all processes."""
    paths = [str(ROOT)]
    for folder in sorted((ROOT / "benchmarks" / "absent").iterdir()):
        if find_spec(folder.name) is None:
            paths.append(str(folder))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in given if path and path not in paths]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *kept])


def _show(row: dict) -> None:
    """Print a line of the table, and of the progress."""
    value = "-" if math.isnan(row["value"]) else f"{row['value']:.4g}"
    print(f"| `{row['name']}` | {value} | {row['unit']} | {row['against']} |", flush=True)
    print(f"{row['name']:<56} {value:>10} {row['unit']}  {row['against']}", file=sys.stderr)


def _machine() -> str:
    """GPU, driver, processors and versions, without initialising the GPU."""
    parts = []
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        parts += [f"{line.strip()} (driver second)" for line in found.stdout.splitlines()]
    except (OSError, subprocess.SubprocessError):
        parts.append("no NVIDIA driver")
    parts += [f"{os.cpu_count()} cores {platform.machine()}", f"Python {platform.python_version()}"]
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"no {package}")
    return ", ".join(parts)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="vggt-1b", help="preset; weights are untrained (default: vggt-1b)")
    add("--windows", type=int, nargs="+", default=[4, 8, 16], help="window sizes S")
    add("--width", type=int, default=518, help="of the network's image, a multiple of 14")
    add("--height", type=int, default=392, help="of the network's image, a multiple of 14")
    add("--repeats", type=int, default=20, help="timed runs of each side; medians are printed")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="arithmetic")
    add("--device", choices=["auto", "cpu"], default="auto", help="cpu: test run")
    add("--reference", type=Path, help="checkout of the official VGGT, for comparison")
    add("--keep", type=Path, help="folder of compiled programs, reused by the next call;"
        " `starts` needs an empty one")  # fmt: skip
    add("--minutes", type=float, default=9.0, help="limit; groups that are left are skipped")
    add("--groups", nargs="+", choices=list(GROUPS), metavar="GROUP",
        help=f"only these, of: {' '.join(GROUPS)}")  # fmt: skip
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
    # JAX would allocate most of the memory at once, and PyTorch needs some of the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    return options


if __name__ == "__main__":
    sys.exit(main())
