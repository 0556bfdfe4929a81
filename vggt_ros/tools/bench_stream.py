# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The step of a sliding window against the full pass over the same window, and the second start."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.bench import Options, Row, interleaved, picture_size
from vggt_ros.tools.bench_dispatch import rows as dispatch_rows
from vggt_ros.tools.bench_full import full_forward


def rows(options: Options) -> Iterator[Row]:
    """Ratios per window size, dispatch, and the seconds until a second start is ready."""
    height, width = picture_size(options)
    full = full_forward(options)
    for s in options.windows:
        frames = np.random.default_rng(s).integers(0, 256, (s, height, width, 3), np.uint8)
        window = frames[None].astype(np.float32) / 255
        seconds = interleaved(
            {"step": sliding(options, frames), "full": lambda window=window: full(window)},
            options.repeats,
        )
        ratio, name = seconds["step"] / seconds["full"], f"{options.model}/{width}x{height}/S{s}"
        against = f"step {seconds['step']:.3g} s, full {seconds['full']:.3g} s"
        yield Row(f"stream_over_full/{name}", ratio, "ratio", "lower", against)
    yield from dispatch_rows(options)
    yield from start_rows(options)


def sliding(options: Options, frames: np.ndarray) -> Callable[[], object]:
    """One more frame into a window of this many; depth of the newest, cameras of all."""
    from vggt_ros.infer import open_engine

    s = len(frames)
    engine = open_engine(options.model, dtype=options.dtype)
    engine.warm(frames.shape[1:3], [s], depth_frames=1)
    newest = count(s)

    def step() -> object:
        last = next(newest)
        ids = tuple(range(last - s, last))
        return engine.look(ids, [frames[key % s] for key in ids], depth_frames=1)

    return step


def start_rows(options: Options) -> Iterator[Row]:
    """Two starts with one compilation cache, each in a process of its own; weights set aside."""
    height, width = picture_size(options)
    with tempfile.TemporaryDirectory() as cache:
        for start in ("first", "second"):
            command = [sys.executable, "-m", "vggt_ros.tools.bench_start", options.model]
            command += [options.dtype, str(width), str(height), str(max(options.windows)), cache]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"the {start} start failed: {done.stderr.strip()[-300:]}")
            seconds = float(done.stdout.split()[-1])
            against = "below 3 for vggt-1b" if start == "second" else "empty cache"
            yield Row(f"ready_s/{start}_start/{options.model}", seconds, "s", "lower", against)
