# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A step of the sliding window against a full pass over the same window; the second start."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from vggt_ros.tools.bench.dispatch import rows as dispatch_rows
from vggt_ros.tools.bench.full import full_forward
from vggt_ros.tools.bench.main import Options, Row, image_size, interleaved
from vggt_ros.tools.bench.plot import rows as plot_rows
from vggt_ros.tools.bench.rigs import rows as rig_rows
from vggt_ros.tools.bench.start import measured
from vggt_ros.tools.bench.step import Stepper


def rows(options: Options) -> Iterator[Row]:
    """Ratios and memory per window size, dispatch, and the time of a first and a second start.

    With a plot: only the step; with cameras: only the steps of rigs.
    """
    if options.cameras:
        yield from rig_rows(options)
        return
    if options.plot is not None:
        yield from plot_rows(options)
        return
    height, width = image_size(options)
    full = full_forward(options)
    stepper = Stepper(options)
    for s in options.windows:
        frames = np.random.default_rng(s).integers(0, 256, (s, height, width, 3), np.uint8)
        window = frames[None].astype(np.float32) / 255
        seconds = interleaved(
            {"step": sliding(options, frames), "full": full(window)},
            options.repeats,
        )
        ratio, name = seconds["step"] / seconds["full"], f"{options.model}/{width}x{height}/S{s}"
        against = f"step {seconds['step']:.3g} s, full {seconds['full']:.3g} s"
        yield Row(f"stream_over_full/{name}", ratio, "ratio", "lower", against)
        yield from stepper.memory_rows(s, name)
    yield from dispatch_rows(options)
    yield from start_rows(options)


def sliding(options: Options, frames: np.ndarray) -> Callable[[], object]:
    """A step: one new frame in a window of `len(frames)`; depth of the newest, cameras of all."""
    from vggt_ros.engine.engine import open_engine

    s = len(frames)
    engine = open_engine(options.model, dtype=options.dtype)
    engine.warm(frames.shape[1:3], [s], depth_frames=1)
    newest = count(s)

    def step() -> object:
        last = next(newest)
        ids = tuple(range(last - s, last))
        return engine.infer(ids, [frames[key % s] for key in ids], depth_frames=1)

    return step


def start_rows(options: Options) -> Iterator[Row]:
    """Two starts per window, each in a new process: the second one loads the compiled programs.

    The first of all, for the longest window, has an empty cache.
    """
    import jax

    height, width = image_size(options)
    on_cpu = jax.devices()[0].platform == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        for s in sorted(options.windows, reverse=True):
            starts = {which: measured(options, s, cache) for which in ("first", "second")}
            if s == max(options.windows):
                for which, against in (("first", "empty cache"), ("second", "below 3 for vggt-1b")):
                    name = f"ready_s/{which}_start/{options.model}"
                    yield Row(name, starts[which].seconds, "s", "lower", against)
            weights = starts["second"].weights if on_cpu else 0
            peak = starts["second"].host_peak - weights
            name = f"step_host_mb/{options.model}/{width}x{height}/S{s}"
            against = "peak of a running process; libraries included, weights not"
            yield Row(name, peak / 1e6, "MB", "lower", against)
