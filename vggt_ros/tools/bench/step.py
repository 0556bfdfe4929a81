# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The programs of a streaming step on the device alone: for whoever times or weighs them."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.engine.compiler import HEADS, Compiler
from vggt_ros.engine.device import Device, choose_device, choose_dtype, keep_compiled
from vggt_ros.engine.shapes import Encode, See, Shape
from vggt_ros.model.config import Config
from vggt_ros.tools.bench.main import Options, Row, picture_size, preset

POOL = 1 << 22  # random numbers that all weights are cut from


class Stepper:
    """Windows of any length over one set of untrained weights, each with a memory of its own."""

    def __init__(
        self, options: Options, cache_dir: Path | None = None, weights: Any = None,
        *, written_out: bool | None = None,
    ):  # fmt: skip
        """`weights` may hold more heads than a step needs."""
        self.size = picture_size(options)
        self.config = preset(options.model).config
        self.device = choose_device()
        self.dtype = choose_dtype(options.dtype, self.device)
        keep_compiled(cache_dir)
        self.compile = Compiler(
            self.config, self.dtype, self.device, export_dir(cache_dir), written_out=written_out
        )
        self._programs: dict[Shape, Any] = {}
        if weights is None:
            weights = quick_weights(self.config, HEADS, self.dtype, self.device)
        used = {part: weights[part] for part in ("encoder", "tower", *HEADS)}
        self.weights = self.compile.taken(used)

    def compiled(self, s: int) -> tuple[Any, Any]:
        """Programs of a window of `s`: a frame into the memory; a look, depth of the newest."""
        return self._programs_of([s])[0]

    def prepare(self, windows: Sequence[int]) -> None:
        """Compile what windows of these lengths need, on as many cores as there are."""
        self._programs_of(windows)

    def _programs_of(self, windows: Sequence[int]) -> list[tuple[Any, Any]]:
        pairs = [(Encode(self.size, s), See(self.size, s, s, 1, 0)) for s in windows]
        missing = [shape for pair in pairs for shape in pair if shape not in self._programs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._programs |= zip(missing, pool.map(self.compile, missing), strict=True)
        return [(self._programs[encode], self._programs[see]) for encode, see in pairs]

    def at(self, s: int) -> Callable[..., Any]:
        """A step of a full window: `step(wait=False)` returns while the device still computes."""
        encode, see = self.compiled(s)
        pictures = np.random.default_rng(s).integers(0, 256, (2, *self.size, 3), np.uint8)
        frames = [jax.device_put(picture, self.device) for picture in pictures]
        memory = self.blank(s)
        for slot in range(s):
            memory = encode(self.weights, memory, frames[0], np.int32(slot))
        taken = 0
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, bool), np.int32(0)

        def step(wait: bool = True) -> Any:
            nonlocal memory, taken
            slot, taken = taken % s, taken + 1
            memory = encode(self.weights, memory, frames[taken % 2], np.int32(slot))
            order = ((taken + np.arange(s)) % s).astype(np.int32)
            sight = see(self.weights, memory, order, *nothing)
            return jax.block_until_ready(sight) if wait else sight

        return step

    def blank(self, s: int) -> tuple[jax.Array, ...]:
        """Memory for `s` frames, as `model/stream.py` has it."""
        tower = self.config.aggregator
        patches = math.prod(side // tower.patch_size for side in self.size)
        special = 1 + tower.num_register_tokens
        with jax.default_device(self.device):
            return tuple(
                jnp.zeros((s, length, tower.embed_dim), jnp.float32)
                for length in (patches, special + patches)
            )

    def memory_rows(self, s: int, name: str) -> Iterator[Row]:
        """What the compiler has reserved on the device for a window of `s`."""
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
    """Where traced programs are kept: nowhere on a machine that cannot write them."""
    return cache_dir if find_spec("flatbuffers") else None


def quick_weights(config: Config, heads: Sequence[str], dtype: Any, device: Device) -> Any:
    """Untrained weights on the device, within seconds where they are a thousand million.

    Every array is a cut of one pool of normal numbers, repeated, with the variance that keeps
    activations at their size; the host never holds more than one array.
    """
    from vggt_ros.model.weights import abstract

    random = np.random.default_rng(0)
    pool = random.standard_normal(POOL, np.float32)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = str(path[-1].key)
        if name in ("scale", "gamma", "bias"):
            value = {"scale": 1.0, "gamma": 0.1, "bias": 0.0}[name]
            return jax.device_put(np.full(leaf.shape, value, leaf.dtype), device)
        inputs = math.prod(leaf.shape[:3]) if leaf.ndim == 4 else leaf.shape[-2:][0]
        spread = np.float32(inputs**-0.5 if name == "kernel" else 0.02)
        cut = pool[random.integers(POOL // 2) :] * spread
        values = np.resize(cut.astype(leaf.dtype), leaf.shape)
        return jax.block_until_ready(jax.device_put(values, device))

    return jax.tree_util.tree_map_with_path(draw, abstract(config, tuple(heads), dtype))
