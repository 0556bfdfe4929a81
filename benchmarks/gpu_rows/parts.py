# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Times of parts: stages of the network, kernels of attention, scanned or unrolled layers."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
from flax import nnx

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.engine.device import choose_device, choose_dtype
from vggt_ros.errors import UserError
from vggt_ros.model import attention as kernels
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.scan import scan_layers
from vggt_ros.model.vggt import HEADS, VGGT, abstract_model
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.main import Row, interleaved
from vggt_ros.tools.bench.step import Stepper

QUERIES = 64
TRACKED = 16, 256  # queries of steps that track
LABELS = {  # in the names of rows
    "frame_blocks": "frame",
    "global_blocks": "global",
    "tracks": "track",
}


def stages(setup: Setup) -> Iterator[Row]:
    """Each stage by itself, on random inputs; blocks of the aggregator for all frames."""
    s, device = setup.middle, choose_device()
    dtype = choose_dtype(setup.options.dtype, device)
    model = abstract_model(setup.config, HEADS, dtype, dtype)
    graph = nnx.split(model)[0]
    weights = random_weights(setup.config, HEADS, dtype, pooled_on=device)
    whole = flops.full_pass(setup.config, s, setup.size, HEADS, QUERIES)
    once = flops.step(setup.config, s, setup.size)
    works = whole._replace(encoder=once.encoder, depth=once.depth)
    for name, (function, *inputs) in _stages(setup, model, s).items():
        placed = jax.device_put(inputs, device)
        run = jax.jit(lambda weights, *x, f=function: f(nnx.merge(graph, weights), *x))
        row = f"stage_ms/{setup.name(s)}/{LABELS.get(name, name)}"

        def measure(run=run, placed=placed, row=row, name=name) -> list[Row]:
            sides = {name: lambda: jax.block_until_ready(run(weights, *placed))}
            seconds = interleaved(sides, setup.options.repeats)[name]
            work = getattr(works, name).total
            against = f"{work / 1e12:.4g} TFLOP, {work / seconds / 1e12:.4g} TFLOP/s"
            return [Row(row, 1e3 * seconds, "ms", "lower", against)]

        yield from attempt(row, measure)


def _stages(setup: Setup, model: VGGT, s: int) -> dict[str, tuple[Any, ...]]:
    """Functions of the model, and their inputs.  Encoder and depth: one frame, as in a step."""
    random, grid = np.random.default_rng(0), model.grid(*setup.size)
    dim, patches = setup.config.aggregator.embed_dim, grid[0] * grid[1]
    tokens = patches + model.aggregator.num_special_tokens

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    def blocks(kind: str) -> Callable:
        def run(model: VGGT, x: jax.Array) -> jax.Array:
            aggregator, rope = model.aggregator, model.aggregator.rope(grid)
            for stage in aggregator.stages:
                x = scan_layers(
                    lambda x, block: aggregator.block(kind, block, x, rope),
                    x,
                    getattr(stage, f"{kind}_blocks"),
                )
            return x

        return run

    def track(model: VGGT, levels: Any, queries: jax.Array) -> Any:
        return model.track_head(model.track_head.features(levels, grid)[None], queries)

    queries = random.random((1, QUERIES, 2), np.float32) * np.float32(setup.size[::-1])
    window = normal(1, s, tokens, dim)
    images = random.random((1, 1, *setup.size, 3), np.float32)
    one, all_frames = ([normal(n, patches, 2 * dim) for _ in range(4)] for n in (1, s))
    return {
        "encoder": (lambda model, x: model.encode(x), images),
        "frame_blocks": (blocks("frame"), window),
        "global_blocks": (blocks("global"), window),
        "camera": (lambda model, x: model.camera_head(x), normal(1, s, 2 * dim)),
        "depth": (lambda model, levels: model.depth_head(levels, grid), one),
        "tracks": (track, all_frames, queries),
    }


def attention(setup: Setup) -> Iterator[Row]:
    """cuDNN's kernel and XLA's products: alone, then within a step."""
    aggregator = setup.config.aggregator
    tokens = flops.tokens_of(setup.config, setup.size)
    head = aggregator.embed_dim // aggregator.num_heads
    shapes = {"frame": (setup.middle, tokens)}
    shapes |= {f"global/S{s}": (1, s * tokens) for s in setup.options.windows}
    dtype = choose_dtype(setup.options.dtype, choose_device())
    for place, (batch, length) in shapes.items():
        keys = jax.random.split(jax.random.key(0), 3)
        shape = (batch, aggregator.num_heads, length, head)
        qkv = [jax.random.normal(key, shape, dtype) for key in keys]
        for kernel in ("cudnn", "xla"):
            row = f"attention_ms/{kernel}/{setup.options.model}/{place}"
            yield from attempt(row, lambda r=row, k=kernel, x=qkv: [_kernel(setup, r, k, x)])
    row = f"cudnn_over_xla/{setup.name(setup.middle)}"
    yield from attempt(row, lambda: [_kernels_in_step(setup, row)])


def _kernel(setup: Setup, row: str, kernel: str, qkv: list[jax.Array]) -> Row:
    if kernel == "cudnn":
        _need_cudnn(qkv[0].dtype, qkv[0].shape[-1])
    with patch.object(kernels, "flash_available", lambda dtype, head: kernel == "cudnn"):
        run = jax.jit(lambda q, k, v: kernels.attend(q, k, v))
        jax.block_until_ready(run(*qkv))
    sides = {kernel: lambda: jax.block_until_ready(run(*qkv))}
    seconds = interleaved(sides, setup.options.repeats)[kernel]
    batch, heads, length, head = qkv[0].shape
    rate = 4 * batch * heads * length**2 * head / seconds
    return Row(row, 1e3 * seconds, "ms", "lower", f"{rate / 1e12:.4g} TFLOP/s")


def _kernels_in_step(setup: Setup, row: str) -> Row:
    aggregator = setup.config.aggregator
    stepper = Stepper(setup.options)
    _need_cudnn(stepper.dtype, aggregator.embed_dim // aggregator.num_heads)
    with patch.object(kernels, "flash_available", lambda dtype, head: False):
        plain = Stepper(setup.options).at(setup.middle)
    return _ratio(setup, row, {"cudnn": stepper.at(setup.middle), "xla": plain})


def _need_cudnn(dtype: Any, head: int) -> None:
    if not kernels.flash_available(dtype, head):
        raise UserError(f"cuDNN attention does not run here ({jax.default_backend()}, {dtype})")


def scan(setup: Setup) -> Iterator[Row]:
    """A step with layers as a loop over stacked weights, and with unrolled layers."""
    steps = {}
    for name, unrolled in (("scan", False), ("unrolled", True)):
        stepper = Stepper(setup.options, unrolled=unrolled)  # no cache: it compiles
        began = time.perf_counter()
        stepper.compiled(setup.middle)
        seconds = time.perf_counter() - began
        steps[name] = stepper.at(setup.middle)
        row = f"compile_s/{name}/{setup.name(setup.middle)}"
        yield Row(row, seconds, "s", "lower", "both programs of a step at once, traced too")
    yield _ratio(setup, f"scan_over_unrolled/{setup.name(setup.middle)}", steps)


def tracks(setup: Setup) -> Iterator[Row]:
    """A step that tracks points of the oldest frame over one that does not, alternating."""
    s = setup.middle
    stepper = Stepper(setup.options, setup.programs)
    without = stepper.at(s)
    for queries in TRACKED:
        row = f"tracks_over_step/{setup.name(s)}/N{queries}"
        yield from attempt(
            row,
            lambda n=queries, row=row: [
                _ratio(setup, row, {f"{n} tracks": stepper.at(s, n), "none": without})
            ],
        )


def _ratio(setup: Setup, row: str, sides: dict[str, Callable[[], object]]) -> Row:
    seconds = interleaved(sides, setup.options.repeats)
    (ours, first), (theirs, second) = seconds.items()
    against = f"a step: {ours} {1e3 * first:.4g} ms, {theirs} {1e3 * second:.4g} ms"
    return Row(row, first / second, "ratio", "lower", against)
