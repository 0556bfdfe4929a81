# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Latency from a camera's pixels on the host to depth, confidence and cameras on the host."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.engine.compiler import HEADS
from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled
from vggt_ros.engine.engine import Engine
from vggt_ros.errors import UserError
from vggt_ros.model.random_weights import random_weights
from vggt_ros.tools.bench.dispatch import rows as dispatch_rows
from vggt_ros.tools.bench.main import Row, preset
from vggt_ros.tools.bench.step import export_dir

CAMERA = (480, 640)  # height and width in pixels


def latency(setup: Setup) -> Iterator[Row]:
    """One frame of 640x480 at a time: resized as in the pipeline, sent, inference, fetched."""
    device = choose_device()
    dtype = choose_dtype(setup.options.dtype, device)
    keep_compiled(setup.programs)
    engine = Engine(
        setup.options.model,
        setup.config,
        random_weights(setup.config, HEADS, dtype, pooled_on=device),
        device=device,
        dtype=dtype,
        default_width=preset(setup.options.model).default_width,
        random=True,
        cache_dir=export_dir(setup.programs),
    )
    for s in sorted(setup.options.windows):
        engine.reset()
        yield from attempt(f"latency_ms/{setup.name(s)}", lambda s=s: _latency(setup, engine, s))


def _latency(setup: Setup, engine: Engine, s: int) -> Iterator[Row]:
    resize, note = _resizer(setup)
    camera = np.random.default_rng(0).integers(0, 256, (4, *CAMERA, 3), np.uint8)
    size = resize(camera[0]).shape[:2]
    engine.warm(size, [s], depth_frames=1)
    window = [resize(camera[i % 4]) for i in range(s)]
    whole, resizing = [], []
    for newest in range(s, s + setup.options.repeats + 2):
        began = time.perf_counter()
        window = [*window[1:], resize(camera[newest % 4])]
        resized = time.perf_counter()
        ids = tuple(range(newest - s + 1, newest + 1))
        result = engine.infer(ids, window, depth_frames=1)
        if result.notice:  # the memory was too small for this window
            raise UserError(result.notice)
        whole.append(time.perf_counter() - began)
        resizing.append(resized - began)
    whole, resizing = whole[2:], resizing[2:]  # the first ones fill the window
    against = f"640x480 in; {note} {1e3 * np.median(resizing):.3g} ms of it; "
    against += f"95 % within {1e3 * np.quantile(whole, 0.95):.4g} ms"
    name = f"{setup.options.model}/{size[1]}x{size[0]}/S{s}"
    yield Row(f"latency_ms/{name}", 1e3 * float(np.median(whole)), "ms", "lower", against)


def _resizer(setup: Setup) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    try:
        from vggt_ros.imaging.grid import grid_for, to_network
    except ModuleNotFoundError as missing:
        height, width = setup.size
        rows = np.arange(height) * CAMERA[0] // height
        columns = np.arange(width) * CAMERA[1] // width
        # Without Pillow's filter, whose time is missing then; the size is the same.
        note = f"nearest pixels ({missing.name} is missing) are"
        return lambda image: np.ascontiguousarray(image[rows][:, columns]), note
    grid = grid_for(CAMERA[1], CAMERA[0], setup.size[1])
    return lambda image: to_network(image, grid), "resizing is"


def dispatch(setup: Setup) -> Iterator[Row]:
    """Python's time for a call with all weights."""
    yield from dispatch_rows(setup.options)
