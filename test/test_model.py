# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole network: every intermediate equals the reference's, and invariances hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import (
    CASES,
    CONFIG,
    TOLERANCE,
    case,
    intermediates,
    intermediates_of,
    max_error,
    model,
    official,
)

from vggt_ros.errors import UserError
from vggt_ros.model import attention
from vggt_ros.model.attention import attend
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import HEAD_MODULES, PRESETS, abstract_model, functional
from vggt_ros.model.weights import abstract, flatten, read

pytestmark = pytest.mark.slow

FROM_GEOMETRY = {"out.extrinsic", "out.intrinsic", "out.unprojected"}  # see test_geometry


@pytest.mark.parametrize("name", CASES)
def test_every_intermediate_equals_the_reference(name):
    expected = {k: v for k, v in case(name).items() if not k.startswith("in.")}
    found = intermediates(name)
    wrong = []
    for key in expected.keys() - FROM_GEOMETRY:
        assert found[key].shape == expected[key].shape, key
        tolerance = TOLERANCE[name].get(key, {"suggested_atol": 0})["suggested_atol"]  # positions
        if not max_error(found[key], expected[key]) <= tolerance:
            wrong.append((key, max_error(found[key], expected[key]), tolerance))
    assert not wrong


# ---- invariances --------------------------------------------------------------------------------


def test_swapping_frames_after_the_first_swaps_the_outputs():
    golden, order = case("mini_square"), [0, 2, 1]
    straight = intermediates("mini_square")
    swapped = intermediates_of(golden["in.images"][:, order], golden["in.query_points"])
    for name in ("out.pose_enc", "out.depth", "out.depth_conf", "out.world_points"):
        tolerance = 2 * TOLERANCE["mini_square"][name]["suggested_atol"]
        assert max_error(swapped[name], straight[name][:, order]) <= tolerance
    assert max_error(swapped["track.coords.0"], straight["track.coords.0"][:, order]) <= 5e-4


def test_another_first_frame_changes_the_outputs():
    golden, order = case("mini_square"), [1, 0, 2]
    other = intermediates_of(golden["in.images"][:, order], golden["in.query_points"])
    assert max_error(other["out.depth"], intermediates("mini_square")["out.depth"][:, order]) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_a_track_starts_at_its_query(name):
    for i in range(4):
        start = intermediates(name)[f"track.coords.{i}"][:, 0]
        assert np.array_equal(start, case(name)["in.query_points"])


def test_a_dense_head_gives_the_same_result_in_chunks_of_frames():
    tap = np.concatenate(
        [intermediates("mini_square")["agg.frame.0"], intermediates("mini_square")["agg.global.0"]],
        axis=-1,
    )
    levels = [model().patches(jnp.asarray(tap))] * 4
    whole = jax.jit(lambda levels: model().depth_head(levels, (4, 4)))(levels)
    chunked = jax.jit(lambda levels: model().depth_head(levels, (4, 4), at_once=2))(levels)
    assert max_error(whole[0], chunked[0]) <= 2e-5
    assert max_error(whole[1], chunked[1]) <= 2e-5


def test_every_intermediate_of_more_frames_than_a_head_takes_at_once_is_captured():
    """Dense heads take eight frames at a time; the ninth is a chunk of its own."""
    golden = case("mini_square")
    images = np.concatenate([golden["in.images"]] * 3, axis=1)
    found = intermediates_of(images, golden["in.query_points"])
    straight = intermediates("mini_square")
    for name in straight.keys() - {"track.fmaps", "track.fmaps_norm"}:
        if name.startswith(("depth.", "point.", "track.fe.")):
            assert len(found[name]) == 3 * len(straight[name]), name
    chunks = [found["agg.frame.1"], found["agg.global.1"]]
    tap = jnp.asarray(np.concatenate(chunks, axis=-1))
    normed = jax.jit(lambda tap: model().depth_head.pyramid.norm(model().patches(tap)))(tap)
    assert max_error(found["depth.norm.1"], normed) <= 2e-5
    logits = found["depth.logits"][None, :, 0]
    assert max_error(found["out.depth"][..., 0], np.exp(logits)) <= 2e-5
    assert found["out.track"].shape == (1, 9, 6, 2)


@pytest.fixture(scope="module")
def track():
    """The track head on the feature maps of a case, as a function of queries, mask, query frame."""
    golden = intermediates("mini_square")
    maps = jnp.asarray(golden["track.fmaps"].transpose(0, 1, 3, 4, 2))

    @jax.jit
    def run(maps, queries, mask, frame):
        tracks, *scores = model().track_head(maps, queries, query_mask=mask, query_frame=frame)
        return tracks[-1], *scores

    def call(queries, mask=None, frame=0, maps=maps):
        mask = np.ones(queries.shape[:2], bool) if mask is None else mask
        return [np.asarray(x) for x in run(maps, jnp.asarray(queries), mask, jnp.int32(frame))]

    return call


def test_padded_queries_have_no_influence(track):
    queries = case("mini_square")["in.query_points"]
    mask = np.arange(queries.shape[1])[None] < 4
    elsewhere = np.where(mask[..., None], queries, 11.0).astype(np.float32)
    padded, padded_elsewhere = track(queries, mask), track(elsewhere, mask)
    alone = track(queries[:, :4])
    for x, y, z in zip(padded, padded_elsewhere, alone, strict=True):
        assert np.array_equal(x[:, :, :4], y[:, :, :4])
        assert max_error(x[:, :, :4], z) <= 5e-3  # another program: what rounding leaves of tracks


def test_queries_influence_each_other(track):
    """Trap 10: tracks depend on the other queries of a call, so none may be dropped silently."""
    queries = case("mini_square")["in.query_points"]
    assert max_error(track(queries)[0][:, :, :4], track(queries[:, :4])[0]) > 2e-2


def test_queries_may_be_in_any_frame(track):
    queries = case("mini_square")["in.query_points"]
    maps = jnp.asarray(intermediates("mini_square")["track.fmaps"].transpose(0, 1, 3, 4, 2))
    for frame in (1, 2):
        found = track(queries, frame=frame)
        rolled = track(queries, maps=jnp.roll(maps, -frame, axis=1))
        assert np.array_equal(found[0][:, frame], queries)
        assert max_error(found[0], np.roll(rolled[0], frame, axis=1)) <= 5e-3


# ---- attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "logits"), [(3, 1 << 20), (3, 99), (3, 1), (11, 3 * 11 * 11)])
def test_attention_in_chunks_gives_the_same_result(monkeypatch, queries, logits):
    """Chunks of queries, groups of heads, both, and heads alone."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 3, 11, 8)) for i in range(3))
    whole = attend(q, k, v)
    monkeypatch.setattr("vggt_ros.model.attention.QUERIES_AT_ONCE", queries)
    monkeypatch.setattr("vggt_ros.model.attention.LOGITS_AT_ONCE", {"cpu": logits})
    assert max_error(attend(q, k, v), whole) <= 1e-6
    logits = np.einsum("bnqd,bnkd->bnqk", q, k) / 8**0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.einsum("bnqk,bnkd->bnqd", weights / weights.sum(-1, keepdims=True), v)
    assert max_error(whole, expected) <= 1e-6


def test_flash_attention_is_used_where_it_runs_with_a_fallback(monkeypatch):
    calls = []

    def kernel(q, k, v, implementation):
        calls.append((q.shape, implementation))
        if len(calls) > 4:
            raise RuntimeError("no such kernel on this card")
        return q

    q = jnp.ones((1, 2, 5, 8), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    attention.flash_available.cache_clear()
    attend(q, q, q)
    assert calls == [((1, 8, 1, 8), "cudnn"), ((1, 5, 2, 8), "cudnn")]  # a probe, then the call
    attend(q.astype(jnp.float32), *(2 * (q.astype(jnp.float32),)))  # half precision only
    attend(q, q, q, jnp.ones((1, 1, 1, 5), bool))  # never with a mask
    assert len(calls) == 2
    calls += [None, None]
    attention.flash_available.cache_clear()
    assert attend(q, q, q).shape == q.shape  # the probe failed: plain attention
    attention.flash_available.cache_clear()


@pytest.mark.parametrize("tokens", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_flash_attention_has_gradients_at_any_length(monkeypatch, tokens):
    """cuDNN's backward pass takes even lengths only; XLA's attention replaces the kernel here."""
    kernel, lengths_of_calls = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, implementation, **lengths):
        lengths_of_calls.append((q.shape[1], k.shape[1]))
        return kernel(q, k, v, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    random = partial(jax.random.normal, dtype=jnp.float32)
    q, k, v = (random(jax.random.key(i), (2, 3, tokens[i > 0], 8)) for i in range(3))
    grad = random(jax.random.key(3), q.shape)
    found, backward = jax.vjp(attention.flash_attention, q, k, v)
    expected, plain = jax.vjp(lambda q, k, v: attention.plain_attention(q, k, v, None), q, k, v)
    assert max_error(found, expected) <= 1e-6
    assert all(max_error(x, y) <= 1e-5 for x, y in zip(backward(grad), plain(grad), strict=True))
    assert all(length % 2 == 0 for pair in lengths_of_calls for length in pair)
    lengths_of_calls.clear()
    assert max_error(attention.flash_attention(q, k, v), expected) <= 1e-6
    assert lengths_of_calls == [tokens]  # no padding without a gradient


# ---- assembly -----------------------------------------------------------------------------------


def test_heads_that_are_off_have_no_weights_and_no_outputs():
    every = {path[0] for path in flatten(abstract(CONFIG))}
    assert every == {"encoder", "aggregator", *HEAD_MODULES.values()}
    assert {path[0] for path in flatten(abstract(CONFIG, ("depth",)))} == {
        "encoder",
        "aggregator",
        "depth_head",
    }
    apply, shapes = functional(abstract_model(CONFIG, ("depth",)))
    out = jax.eval_shape(apply, shapes, jnp.zeros((1, 2, 28, 28, 3)), jnp.zeros((1, 3, 2)))
    assert out.depth.shape == (1, 2, 28, 28)
    assert out.pose_encoding is None and out.points is None and out.tracks is None


def test_tiny_is_a_whole_small_vggt():
    config, width, _ = PRESETS["tiny"]
    apply, shapes = functional(abstract_model(config))
    images = jnp.zeros((1, 4, width * 3 // 4, width, 3))
    out = jax.eval_shape(apply, shapes, images, jnp.zeros((1, 5, 2)))
    assert out.tracks.shape == (1, 4, 5, 2) and out.depth.shape == (1, 4, 168, 224)
    assert 2e6 < sum(x.size for x in jax.tree.leaves(shapes)) < 9e6


def test_only_matrices_of_encoder_and_aggregator_are_half_precision():
    leaves = flatten(abstract(CONFIG, dtype=jnp.bfloat16))
    for path, leaf in leaves.items():
        matrix = path[0] in ("encoder", "aggregator") and path[-2] in (
            "qkv",
            "proj",
            "fc1",
            "fc2",
            "patch_embed",
        )
        assert leaf.dtype == (jnp.bfloat16 if matrix else jnp.float32), path
    half = abstract_model(CONFIG, (), jnp.bfloat16, jnp.bfloat16)
    graph, state = nnx.split(half)

    def run(state, images):
        network = nnx.merge(graph, state)
        return network.aggregator(network.encode(images), (2, 2))

    taps = jax.eval_shape(run, state, jnp.zeros((1, 2, 28, 28, 3)))
    assert all(tap.dtype == jnp.float32 for tap in taps)  # the residual stream


def test_blocks_alternate_in_the_configured_order_and_groups():
    """Two global blocks, then two frame blocks, and so on; tap i is frame i beside global i."""
    tree = CONFIG.to_dict()
    tree["aggregator"] |= {"aa_order": ["global", "frame"], "aa_block_size": 2}
    config = Config.from_dict(tree)
    graph = nnx.split(abstract_model(config, ()))[0]
    loaded = read(config, official(), ())[0]

    @jax.jit
    def taps(weights, x):
        return nnx.merge(graph, weights).aggregator(x, (2, 2))[:4]

    @jax.jit
    def block_by_block(weights, x):
        aggregator = nnx.merge(graph, weights).aggregator
        x, out = aggregator.embed(x), {}
        for stage in aggregator.stages:  # of two each
            for kind, blocks in (("global", stage.global_blocks), ("frame", stage.frame_blocks)):
                for i in range(2):
                    block = jax.tree.map(lambda w, i=i: w[i], blocks)
                    x = aggregator.block(kind, block, x, aggregator.rope((2, 2)))
                    out.setdefault(kind, []).append(x)
        return [
            jnp.concatenate(pair, axis=-1) for pair in zip(out["frame"], out["global"], strict=True)
        ]

    x = jax.random.normal(jax.random.key(0), (1, 2, 4, 48))
    for found, expected in zip(taps(loaded, x), block_by_block(loaded, x), strict=True):
        assert max_error(found, expected) <= 5e-5


def test_faults_of_a_configuration_are_named():
    tree = CONFIG.to_dict()
    with pytest.raises(UserError, match="'trunk_dept'.*trunk_depth"):
        Config.from_dict(tree | {"camera_head": {"trunk_dept": 4}})
    with pytest.raises(UserError, match="aa_order"):
        Config.from_dict(tree | {"aggregator": tree["aggregator"] | {"aa_order": ["frame"]}})
    with pytest.raises(UserError, match="aa_block_size"):
        Config.from_dict(tree | {"aggregator": tree["aggregator"] | {"aa_block_size": 3}})
    with pytest.raises(UserError, match="intermediate_layer_idx"):
        Config.from_dict(tree | {"dpt": tree["dpt"] | {"intermediate_layer_idx": [0, 1, 2, 4]}})
    with pytest.raises(ValueError, match="multiples of 14"):
        model().grid(50, 56)
    assert Config.from_dict(tree) == CONFIG and Config() == PRESETS["vggt-1b"].config
