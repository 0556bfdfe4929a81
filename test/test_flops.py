# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cost model: equal to the operations of the traced programs."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vggt_ros.model import stream
from vggt_ros.model.config import TINY, VGGT_1B, Config
from vggt_ros.model.vggt import abstract_model, functional
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.flops import Work

pytestmark = pytest.mark.slow

# Attention among more tokens runs in padded chunks, which multiply some zeros.
SIZE = (112, 140)


def counted(jaxpr) -> Work:
    """Operations of a traced program: batched products are attention, others use weights."""
    work = Work()
    for equation in jaxpr.eqns:
        kind, (out, *_) = equation.primitive.name, equation.outvars
        if kind == "dot_general":
            ((left, _), (batch, _)) = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            operations = 2 * inner * math.prod(out.aval.shape)
            work = flops.plus(work, Work(0, operations) if batch else Work(operations))
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # rows, columns, inputs, outputs
            work = flops.plus(work, Work(2 * math.prod(kernel[:3]) * math.prod(out.aval.shape)))
        times = equation.params["length"] if kind == "scan" else 1
        for inner in programs_in(equation.params):
            work = flops.plus(work, counted(inner) * times)
    return work


def programs_in(parameters):
    """Traced programs inside a call, a loop or a branch."""
    for value in jax.tree.leaves(list(parameters.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def full(config: Config, frames: int, queries: int = 0, views: int = 0) -> Work:
    apply, weights = functional(abstract_model(config))
    lead = (1, frames // views, views) if views else (1, frames)
    images = jax.ShapeDtypeStruct((*lead, *SIZE, 3), jnp.float32)
    points = jax.ShapeDtypeStruct((1, queries, 2), jnp.float32) if queries else None
    return counted(jax.make_jaxpr(apply)(weights, images, points).jaxpr)


def streamed(config: Config, frames: int, depth_frames: int, queries: int = 0) -> Work:
    model = abstract_model(config, ("camera", "depth", "tracks"))
    graph, weights = nnx.split(model)
    cache = jax.eval_shape(lambda: stream.empty_cache(model, frames, SIZE))

    def run(weights, cache, image, slots, queries):
        model = nnx.merge(graph, weights)
        cache = stream.encode_frame(model, cache, image, jnp.int32(0))
        return stream.infer_window(model, cache, slots, SIZE, depth_frames, queries)

    arguments = (
        jax.ShapeDtypeStruct((*SIZE, 3), jnp.uint8),
        jax.ShapeDtypeStruct((frames,), jnp.int32),
        jax.ShapeDtypeStruct((queries, 2), jnp.float32) if queries else None,
    )
    return counted(jax.make_jaxpr(run)(weights, cache, *arguments).jaxpr)


def interpolation(config: Config) -> int:
    """Operations of resizing the position table, which the cost model leaves out."""
    model = abstract_model(config, ())
    table = nnx.split(model.encoder)
    rows, columns = flops.grid_of(config, SIZE)

    def run(state):
        return nnx.merge(table[0], state).position_embedding(rows, columns)

    return counted(jax.make_jaxpr(run)(table[1]).jaxpr).gemm


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("config", [TINY, VGGT_1B], ids=["tiny", "vggt-1b"])
def test_a_full_pass_has_the_operations_of_the_cost_model(config, frames):
    expected = flops.full_pass(config, frames, SIZE).total
    found = full(config, frames)
    assert found.attention == expected.attention
    assert found.gemm - interpolation(config) == expected.gemm


@pytest.mark.parametrize(
    "layout",
    [
        {"layout": "view_time"},
        {"layout": "dual_stream"},
        {"layout": "sparse_global", "landmarks": 7},
        {"layout": "sparse_global", "strategy": "memory_bank", "memory_tokens": 5},
    ],
    ids=lambda layout: "-".join(map(str, layout.values())),
)
def test_a_layout_has_the_operations_of_the_cost_model(layout):
    config = replace(TINY, **layout)
    expected = flops.full_pass(config, 4, SIZE, views=2).total
    found = full(config, 4, views=2)
    assert found.attention == expected.attention
    assert found.gemm - interpolation(config) == expected.gemm


@pytest.mark.parametrize("frames, depth_frames", [(1, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("config", [TINY, VGGT_1B], ids=["tiny", "vggt-1b"])
def test_a_step_has_the_operations_of_the_cost_model(config, frames, depth_frames):
    expected = flops.step(config, frames, SIZE, depth_frames=depth_frames).total
    found = streamed(config, frames, depth_frames)
    assert found.attention == expected.attention
    assert found.gemm - interpolation(config) == expected.gemm


def test_tracks_have_the_operations_of_the_cost_model():
    config, frames, queries = TINY, 3, 16
    heads = ("camera", "depth", "points", "tracks")
    expected = flops.full_pass(config, frames, SIZE, heads, queries).total
    found = full(config, frames, queries)
    assert found.total - interpolation(config) == expected.total
    expected = flops.step(config, frames, SIZE, queries=queries).total
    found = streamed(config, frames, 1, queries)
    assert found.total - interpolation(config) == expected.total


def test_the_stages_add_up_and_no_stage_of_a_step_exceeds_the_full_pass():
    size = (392, 518)
    for frames in (1, 4, 8, 16):
        full, step = (f(VGGT_1B, frames, size) for f in (flops.full_pass, flops.step))
        assert full.total.total == sum(stage.total for stage in full)
        more = [name for name in flops.Cost._fields
                if getattr(step, name).total > getattr(full, name).total]  # fmt: skip
        assert more == (["frame_blocks"] if frames == 1 else [])  # the frame runs in both roles
    assert flops.full_pass(VGGT_1B, 8, size).global_blocks.attention == 24 * 4 * 8328**2 * 1024
