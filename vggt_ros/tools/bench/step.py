# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The programs of a streaming step on the device alone, for measurements of time and cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vggt_ros.engine.compiler import HEADS, Compiler
from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled
from vggt_ros.engine.frame_cache import FrameCache
from vggt_ros.engine.shapes import EncoderProgram, Shape, WindowProgram
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import select_heads
from vggt_ros.tools.bench.main import Options, Row, image_size, preset


class Stepper:
    """Steps of windows of any length with one set of untrained weights, each with its own cache."""

    def __init__(
        self, options: Options, cache_dir: Path | None = None, weights: Any = None,
        *, unrolled: bool | None = None,
    ):  # fmt: skip
        """`weights` may hold more heads than a step needs."""
        self.size = image_size(options)
        self.config = preset(options.model).config
        self.device = choose_device()
        self.dtype = choose_dtype(options.dtype, self.device)
        keep_compiled(cache_dir)
        self.compile = Compiler(
            self.config, self.dtype, self.device, export_dir(cache_dir), unrolled=unrolled
        )
        self._programs: dict[Shape, Any] = {}
        if weights is None:
            weights = random_weights(self.config, HEADS, self.dtype, pooled_on=self.device)
        self.weights = self.compile.place_weights(select_heads(weights, HEADS))

    def compiled(self, s: int, queries: int = 0) -> tuple[Any, Any]:
        """Programs of a window of `s`: a frame into the cache; an inference with one depth."""
        return self._programs_of([s], queries)[0]

    def prepare(self, windows: Sequence[int]) -> None:
        """Compile the programs of these window lengths, on all cores."""
        self._programs_of(windows)

    def _programs_of(self, windows: Sequence[int], queries: int = 0) -> list[tuple[Any, Any]]:
        pairs = [
            (EncoderProgram(self.size, s), WindowProgram(self.size, s, s, 1, queries))
            for s in windows
        ]
        missing = [shape for pair in pairs for shape in pair if shape not in self._programs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._programs |= zip(missing, pool.map(self.compile, missing), strict=True)
        return [(self._programs[encode], self._programs[infer]) for encode, infer in pairs]

    def at(self, s: int, queries: int = 0) -> Callable[..., Any]:
        """A step of a full window: `step(wait=False)` returns while the device still computes.

        It tracks so many points of the oldest frame, a number that programs are compiled for.
        """
        encode, infer = self.compiled(s, queries)
        images = np.random.default_rng(s).integers(0, 256, (2, *self.size, 3), np.uint8)
        frames = [jax.device_put(image, self.device) for image in images]
        cache = self.empty_cache(s)
        for slot in range(s):
            cache = encode(self.weights, cache, frames[0], np.int32(slot))
        count = 0
        points = np.random.default_rng(s).random((queries, 2), np.float32)
        tracked = points * np.float32(self.size[::-1]), np.ones(queries, bool), np.int32(0)

        def step(wait: bool = True) -> Any:
            nonlocal cache, count
            slot, count = count % s, count + 1
            cache = encode(self.weights, cache, frames[count % 2], np.int32(slot))
            order = ((count + np.arange(s)) % s).astype(np.int32)
            output = infer(self.weights, cache, order, *tracked)
            return jax.block_until_ready(output) if wait else output

        return step

    def at_instant(self, instants: int, cameras: int, *, at_once: bool) -> Callable[[], Any]:
        """A step of a full window of a rig: all images of an instant are new, and get depth.

        They are encoded `at_once`, or one by one.
        """
        s, together = instants * cameras, cameras if at_once else 1
        encode = self.compile(EncoderProgram(self.size, s, together))
        infer = self.compile(WindowProgram(self.size, s, s, cameras, 0))
        images = np.random.default_rng(s).integers(0, 256, (cameras, *self.size, 3), np.uint8)
        batches = np.split(images, cameras // together)
        frames = [jax.device_put(b if at_once else b[0], self.device) for b in batches]
        cache, count = self.empty_cache(s), 0
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, bool), np.int32(0)

        def step() -> Any:
            nonlocal cache, count
            first, count = count % instants * cameras, count + 1
            slots = first + np.arange(cameras, dtype=np.int32)
            for frame, slot in zip(frames, [slots] if at_once else slots, strict=True):
                cache = encode(self.weights, cache, frame, slot)
            order = ((first + cameras + np.arange(s)) % s).astype(np.int32)
            return jax.block_until_ready(infer(self.weights, cache, order, *nothing))

        return step

    def empty_cache(self, s: int) -> tuple[jax.Array, ...]:
        """A frame cache for `s` frames."""
        cache = FrameCache(self.config, self.device)
        cache.resize(self.size, s)
        return cache.arrays

    def memory_rows(self, s: int, name: str) -> Iterator[Row]:
        """Device memory that the compiler reserves for a window of `s`."""
        plans = [program.memory_analysis() for program in self.compiled(s)]
        if None in plans:
            return
        scratch = max(plan.temp_size_in_bytes for plan in plans)
        held = plans[1].argument_size_in_bytes
        out = plans[1].output_size_in_bytes
        against = f"weights and frames {held / 1e6:.4g}, results {out / 1e6:.3g}, scratch"
        whole = held + out + scratch
        yield Row(f"step_scratch_mb/{name}", scratch / 1e6, "MB", "lower", "as compiled")
        yield Row(f"step_device_mb/{name}", whole / 1e6, "MB", "lower", against)


def export_dir(cache_dir: Path | None) -> Path | None:
    """Folder of traced programs; None if flatbuffers is missing, which writes them."""
    return cache_dir if find_spec("flatbuffers") else None
