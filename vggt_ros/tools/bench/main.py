# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt bench NAME`: figures as a table or JSON.  Both sides of a ratio alternate in one run.

A benchmark is the module NAME in this folder; its `rows(options)` yields each row once measured.
"""

import json as json_format
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.tools.option_sets import refuse_unused

if TYPE_CHECKING:
    from vggt_ros.model.vggt import Preset

SIZE = ("model", "width", "height")
USED = {  # options of each benchmark, besides --json
    "callbacks": ("repeats",),
    "dispatch": (*SIZE, "windows", "repeats"),
    "full": (*SIZE, "windows", "repeats", "dtype", "reference"),
    "layouts": (*SIZE, "windows", "repeats", "dtype"),
    "load": ("model", "dtype"),
    "map": ("width", "height", "windows", "repeats"),
    "messages": ("repeats",),
    "stream": (*SIZE, "windows", "repeats", "dtype", "plot", "cameras"),
    "train": (*SIZE, "windows", "repeats", "dtype"),
}


class Row(NamedTuple):
    """One figure; `against` is what it is compared with, or its target."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    against: str = ""


@dataclass(frozen=True)
class Options:
    """Options of a benchmark."""

    model: str
    windows: tuple[int, ...]
    width: int  # network pixels; 0: the model's own
    height: int  # 0: three quarters of the width, in whole patches
    repeats: int
    reference: Path | None
    dtype: Literal["auto", "float32", "bfloat16"]
    plot: Path | None = None  # file for a plot of the times of `stream` and the cost model
    cameras: tuple[int, ...] = ()  # of rigs whose steps `stream` times


def bench(
    name: Literal[
        "callbacks", "dispatch", "full", "layouts", "load", "map", "messages", "stream", "train"
    ],
    *,
    json: bool = False,
    model: str = "tiny",
    windows: tuple[int, ...] = (),
    width: int = 0,
    height: int = 0,
    repeats: int = 7,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    reference: Path | None = None,
    plot: Path | None = None,
    cameras: tuple[int, ...] = (),
) -> None:
    """Run one benchmark and print its figures.

    Args:
        name: callbacks (images that the busy node drops, a busy /tf), dispatch (Python's time for
            the call of a compiled step), full (a forward pass with all heads), layouts (operations,
            time and memory of the aggregator in each layout over the official one's), load (a
            checkpoint: time, memory), map (registration, scale and the map's cloud on one core),
            messages (an inference without the network: images and messages), stream (a step of a
            sliding window against a full pass; memory; the second start), train (samples a second
            of the training loop on synthetic rooms).
        json: print one object with machine and rows; the progress goes to stderr.
        model: preset or checkpoint.
        windows: window sizes S; by default 1 2 4, for layouts 4 8 16 32, and 1 to 16 for a plot.
        width: width of the network's image; 0 is the model's own.
        height: height of the network's image; 0 is three quarters of the width.
        repeats: timed runs of each side, after a warm-up run; the medians are printed.
        dtype: arithmetic; auto is float32 on a CPU and bfloat16 on an accelerator.
        reference: checkout of the official VGGT, to compare `full` with (needs PyTorch).
        plot: with `stream`, time only the step and write a plot of it and the cost model here.
        cameras: with `stream`, time only steps of rigs of so many cameras; windows are instants.
    """
    given = locals()
    of = {key: [other for other in USED if key in USED[other]] for key in given.keys() - {"json"}}
    refuse_unused(bench, given, {
        key: f"is of {', '.join(others)}, and {name} does not use it: leave it out"
        for key, others in of.items() if others and name not in others
    })  # fmt: skip
    module = f"vggt_ros.tools.bench.{name}"
    usual = (4, 8, 16, 32) if name == "layouts" else (1, 2, 4)
    windows = windows or (usual if plot is None else tuple(range(1, 17)))
    options = Options(model, windows, width, height, repeats, reference, dtype, plot, cameras)
    if cameras and min(cameras) < 2:
        raise UserError("--cameras takes numbers from 2 on: vggt bench stream --cameras 2 3 4")
    if cameras and plot is not None:
        raise UserError("--plot is of one camera, and --cameras of several: leave one of them out")
    if repeats < 1 or min(windows) < 1:
        raise UserError("--repeats and --windows start at 1")
    rows = []
    with redirect_stdout(sys.stderr):
        for row in import_module(module).rows(options):
            print(line(row), flush=True)
            rows.append(row)
    if json:
        report = {"machine": machine(), "rows": [row._asdict() for row in rows]}
        print(json_format.dumps(report, indent=2))
    else:
        print(table(rows))


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each side; the sides alternate, so that a disturbance affects all."""
    for run in sides.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def preset(model: str) -> "Preset":
    """The preset of that name; benchmarks need no trained weights."""
    from vggt_ros.model.vggt import PRESETS

    if model not in PRESETS:
        raise UserError(f"{model} is no preset; choose from: {', '.join(PRESETS)}")
    return PRESETS[model]


def image_size(options: Options) -> tuple[int, int]:
    """Height and width of the network's image, multiples of 14 pixels."""
    width = options.width or preset(options.model).default_width
    height = options.height or round(width * 0.75 / 14) * 14
    if width % 14 or height % 14:
        raise UserError(f"{width}x{height}: --width and --height must be multiples of 14")
    return height, width


def line(row: Row) -> str:
    """One row of the table."""
    against = f"   {row.against}" if row.against else ""
    return f"{row.name:<44} {row.value:>10.4g} {row.unit:<6}{against}"


def table(rows: list[Row]) -> str:
    """The rows in Markdown, as in benchmarks/README.md."""
    lines = [f"Machine: {machine()}", "", "| figure | value | unit | against |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| `{r.name}` | {r.value:.4g} | {r.unit} | {r.against} |" for r in rows]
    return "\n".join(lines)


def machine() -> str:
    """Processor, cores and versions; the accelerator if JAX is loaded."""
    words = [_processor(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}"]
    if jax := sys.modules.get("jax"):
        words += [f"JAX {jax.__version__}", jax.devices()[0].device_kind]
    if torch := sys.modules.get("torch"):
        words.append(f"PyTorch {torch.__version__}")
    return ", ".join(words)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.machine()
