# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The aggregator in each layout against the official one: operations, time, memory.

Operations are those of the cost model (`flops.py`), time and scratch memory those of the compiled
programs. Weights are random. In view_time the frames are those of four cameras.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from vggt_ros.model.config import Config
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.main import Options, Row, image_size, interleaved, preset

VIEWS = 4


def rows(options: Options) -> Iterator[Row]:
    """Ratios to layout joint, for each number of frames and each layout."""
    config, size = preset(options.model).config, image_size(options)
    layouts = {
        "joint": config,
        "landmark64": replace(config, layout="sparse_global"),
        "memory32": replace(config, layout="sparse_global", strategy="memory_bank"),
        "dual_stream": replace(config, layout="dual_stream"),
        "view_time": replace(config, layout="view_time"),
    }
    for s in options.windows:
        used = {name: c for name, c in layouts.items() if name != "view_time" or s % VIEWS == 0}
        programs = {name: _program(c, size, s, options.dtype) for name, c in used.items()}
        runs = {name: run for name, (run, _) in programs.items()}
        seconds = interleaved(runs, options.repeats)
        work = {name: operations(c, s, size) for name, c in used.items()}
        memory = {name: scratch for name, (_, scratch) in programs.items()}
        where = f"{options.model}/{size[1]}x{size[0]}/S{s}"
        for kind, found, unit, scale in (
            ("operations", work, "TFLOP", 1e-12),
            ("time", seconds, "s", 1.0),
            ("memory", memory, "MB", 1e-6),
        ):
            for name, value in found.items():
                if name == "joint":
                    continue
                base = f"joint, {found['joint'] * scale:.3g} {unit}"
                ratio = value / found["joint"]
                yield Row(f"{kind}_over_joint/{name}/{where}", ratio, "ratio", "lower", base)


def operations(config: Config, frames: int, size: tuple[int, int]) -> int:
    """Of the aggregator; `size` is (height, width)."""
    cost = flops.full_pass(config, frames, size, (), views=VIEWS)
    return flops.plus(cost.frame_blocks, cost.global_blocks).total


def _program(
    config: Config, size: tuple[int, int], frames: int, dtype: str
) -> tuple[Callable[[], object], int]:
    """A run of the compiled aggregator on random tokens, and its scratch memory in bytes."""
    import jax
    from flax import nnx

    from vggt_ros.engine.device import choose_device, choose_dtype
    from vggt_ros.model.random_weights import random_weights
    from vggt_ros.model.vggt import abstract_model

    device = choose_device()
    number = choose_dtype(dtype, device)
    weights = random_weights(config, (), number, pooled_on=device)
    graph = nnx.split(abstract_model(config, (), number, number))[0]
    grid = flops.grid_of(config, size)
    views = VIEWS if config.layout == "view_time" else None

    def aggregate(weights: Any, patches: Any) -> Any:
        return nnx.merge(graph, weights).aggregator(patches, grid, views)

    shape = (1, frames, grid[0] * grid[1], config.aggregator.embed_dim)
    patches = jax.device_put(np.random.default_rng(0).random(shape, np.float32), device)
    compiled = jax.jit(aggregate).lower(weights, patches).compile()
    scratch = compiled.memory_analysis().temp_size_in_bytes
    return lambda: jax.block_until_ready(compiled(weights, patches)), scratch
