# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole network: every stage equals the reference, and what must not matter does not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CASES, CONFIG, TOLERANCE, case, model, off, official, recorded, stages

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.layers import attend
from vggt_ros.model.vggt import HEADS, PRESETS, abstract_model, functional
from vggt_ros.model.weights import abstract, flatten, read

BY_GEOMETRY = {"out.extrinsic", "out.intrinsic", "out.unprojected"}  # see test_geometry


@pytest.mark.parametrize("name", CASES)
def test_every_stage_equals_the_reference(name):
    expected = {k: v for k, v in case(name).items() if not k.startswith("in.")}
    found = stages(name)
    wrong = []
    for key in expected.keys() - BY_GEOMETRY:
        assert found[key].shape == expected[key].shape, key
        tolerance = TOLERANCE[name].get(key, {"suggested_atol": 0})["suggested_atol"]  # positions
        if not off(found[key], expected[key]) <= tolerance:
            wrong.append((key, off(found[key], expected[key]), tolerance))
    assert not wrong


# ---- laws -------------------------------------------------------------------------------------


def test_swapping_frames_after_the_first_swaps_the_outputs():
    golden, order = case("mini_square"), [0, 2, 1]
    straight = stages("mini_square")
    swapped = recorded(golden["in.images"][:, order], golden["in.query_points"])
    for name in ("out.pose_enc", "out.depth", "out.depth_conf", "out.world_points"):
        tolerance = 2 * TOLERANCE["mini_square"][name]["suggested_atol"]
        assert off(swapped[name], straight[name][:, order]) <= tolerance
    assert off(swapped["track.coords.0"], straight["track.coords.0"][:, order]) <= 5e-4


def test_another_first_frame_changes_everything():
    golden, order = case("mini_square"), [1, 0, 2]
    other = recorded(golden["in.images"][:, order], golden["in.query_points"])
    assert off(other["out.depth"], stages("mini_square")["out.depth"][:, order]) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_a_track_starts_at_its_query(name):
    for i in range(4):
        start = stages(name)[f"track.coords.{i}"][:, 0]
        assert np.array_equal(start, case(name)["in.query_points"])


def test_how_many_frames_pass_a_dense_head_at_once_changes_nothing():
    tap = np.concatenate(
        [stages("mini_square")["agg.frame.0"], stages("mini_square")["agg.global.0"]], axis=-1
    )
    levels = [model().patches(jnp.asarray(tap))] * 4
    together = jax.jit(lambda levels: model().depth(levels, (4, 4)))(levels)
    apart = jax.jit(lambda levels: model().depth(levels, (4, 4), at_once=2))(levels)
    assert off(together[0], apart[0]) <= 2e-5
    assert off(together[1], apart[1]) <= 2e-5


@pytest.fixture(scope="module")
def track():
    """The track head on the maps of a case: queries, mask and query frame are free."""
    golden = stages("mini_square")
    maps = jnp.asarray(golden["track.fmaps"].transpose(0, 1, 3, 4, 2))

    @jax.jit
    def run(maps, queries, mask, frame):
        tracks, *sureness = model().tracks(maps, queries, query_mask=mask, query_frame=frame)
        return tracks[-1], *sureness

    def call(queries, mask=None, frame=0, maps=maps):
        mask = np.ones(queries.shape[:2], bool) if mask is None else mask
        return [np.asarray(x) for x in run(maps, jnp.asarray(queries), mask, jnp.int32(frame))]

    return call


def test_padded_queries_are_seen_by_nobody(track):
    queries = case("mini_square")["in.query_points"]
    mask = np.arange(queries.shape[1])[None] < 4
    elsewhere = np.where(mask[..., None], queries, 11.0).astype(np.float32)
    padded, padded_elsewhere = track(queries, mask), track(elsewhere, mask)
    alone = track(queries[:, :4])
    for x, y, z in zip(padded, padded_elsewhere, alone, strict=True):
        assert np.array_equal(x[:, :, :4], y[:, :, :4])
        assert off(x[:, :, :4], z) <= 5e-3  # another program: what rounding leaves of tracks


def test_queries_do_see_each_other(track):
    """Trap 10: tracks depend on the other queries of a call, so nobody may drop any silently."""
    queries = case("mini_square")["in.query_points"]
    assert off(track(queries)[0][:, :, :4], track(queries[:, :4])[0]) > 2e-2


def test_queries_may_live_in_any_frame(track):
    queries = case("mini_square")["in.query_points"]
    maps = jnp.asarray(stages("mini_square")["track.fmaps"].transpose(0, 1, 3, 4, 2))
    for frame in (1, 2):
        found = track(queries, frame=frame)
        rolled = track(queries, maps=jnp.roll(maps, -frame, axis=1))
        assert np.array_equal(found[0][:, frame], queries)
        assert off(found[0], np.roll(rolled[0], frame, axis=1)) <= 5e-3


# ---- attention --------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "logits"), [(3, 1 << 20), (3, 99), (3, 1), (11, 3 * 11 * 11)])
def test_attention_in_pieces_changes_nothing(monkeypatch, queries, logits):
    """Chunks of queries, groups of heads, both, and heads alone."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 3, 11, 8)) for i in range(3))
    whole = attend(q, k, v)
    monkeypatch.setattr("vggt_ros.model.layers.QUERIES_AT_ONCE", queries)
    monkeypatch.setattr("vggt_ros.model.layers.LOGITS_AT_ONCE", {"cpu": logits})
    assert off(attend(q, k, v), whole) <= 1e-6
    logits = np.einsum("bnqd,bnkd->bnqk", q, k) / 8**0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.einsum("bnqk,bnkd->bnqd", weights / weights.sum(-1, keepdims=True), v)
    assert off(whole, expected) <= 1e-6


def test_flash_attention_is_asked_for_by_name_and_has_a_way_out(monkeypatch):
    from vggt_ros.model import layers

    asked = []

    def kernel(q, k, v, implementation):
        asked.append((q.shape, implementation))
        if len(asked) > 4:
            raise RuntimeError("no such kernel on this card")
        return q

    q = jnp.ones((1, 2, 5, 8), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    layers.flash_runs.cache_clear()
    attend(q, q, q)
    assert asked == [((1, 8, 1, 8), "cudnn"), ((1, 5, 2, 8), "cudnn")]  # a probe, then the call
    attend(q.astype(jnp.float32), *(2 * (q.astype(jnp.float32),)))  # half precision only
    attend(q, q, q, jnp.ones((1, 1, 1, 5), bool))  # never with a mask
    assert len(asked) == 2
    asked += [None, None]
    layers.flash_runs.cache_clear()
    assert attend(q, q, q).shape == q.shape  # the probe failed; the plain path serves
    layers.flash_runs.cache_clear()


@pytest.mark.parametrize("tokens", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_flash_attention_learns_at_any_length(monkeypatch, tokens):
    """cuDNN's backward pass takes even lengths only; the kernel's place is taken by XLA's here."""
    from vggt_ros.model import layers

    kernel, seen = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, implementation, **lengths):
        seen.append((q.shape[1], k.shape[1]))
        return kernel(q, k, v, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    random = partial(jax.random.normal, dtype=jnp.float32)
    q, k, v = (random(jax.random.key(i), (2, 3, tokens[i > 0], 8)) for i in range(3))
    slope = random(jax.random.key(3), q.shape)
    found, back = jax.vjp(layers._flash, q, k, v)
    expected, plain = jax.vjp(lambda q, k, v: layers._attend_whole(q, k, v, None), q, k, v)
    assert off(found, expected) <= 1e-6
    assert all(off(x, y) <= 1e-5 for x, y in zip(back(slope), plain(slope), strict=True))
    assert all(length % 2 == 0 for pair in seen for length in pair)
    seen.clear()
    assert off(layers._flash(q, k, v), expected) <= 1e-6
    assert seen == [tokens]  # nothing is added where nothing is learned


# ---- assembly ---------------------------------------------------------------------------------


def test_heads_left_out_cost_nothing():
    every = {path[0] for path in flatten(abstract(CONFIG))}
    assert every == {"encoder", "tower", *HEADS}
    assert {path[0] for path in flatten(abstract(CONFIG, ("depth",)))} == {
        "encoder",
        "tower",
        "depth",
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


def test_what_is_half_precision_and_what_never_is():
    leaves = flatten(abstract(CONFIG, dtype=jnp.bfloat16))
    for path, leaf in leaves.items():
        matrix = path[0] in ("encoder", "tower") and path[-2] in (
            "qkv",
            "proj",
            "fc1",
            "fc2",
            "patch",
        )
        assert leaf.dtype == (jnp.bfloat16 if matrix else jnp.float32), path
    half = abstract_model(CONFIG, (), jnp.bfloat16, jnp.bfloat16)
    graph, state = nnx.split(half)

    def run(state, images):
        network = nnx.merge(graph, state)
        return network.tower(network.encode(images), (2, 2))

    taps = jax.eval_shape(run, state, jnp.zeros((1, 2, 28, 28, 3)))
    assert all(tap.dtype == jnp.float32 for tap in taps)  # the residual stream


def test_blocks_alternate_in_the_order_and_groups_asked_for():
    """Two global blocks, then two frame blocks, and so on; tap i is frame i beside global i."""
    tree = CONFIG.to_dict()
    tree["aggregator"] |= {"aa_order": ["global", "frame"], "aa_block_size": 2}
    config = Config.from_dict(tree)
    graph = nnx.split(abstract_model(config, ()))[0]
    loaded = read(config, official(), ())[0]

    @jax.jit
    def taps(weights, x):
        return nnx.merge(graph, weights).tower(x, (2, 2))[:4]

    @jax.jit
    def plainly(weights, x):
        tower = nnx.merge(graph, weights).tower
        x, out = tower.embed(x), {}
        for stage in tower.stages:  # of two each
            for kind, blocks in (("global", stage.scene), ("frame", stage.frame)):
                for i in range(2):
                    block = jax.tree.map(lambda w, i=i: w[i], blocks)
                    x = tower.block(kind, block, x, tower.turn((2, 2)))
                    out.setdefault(kind, []).append(x)
        return [
            jnp.concatenate(pair, axis=-1) for pair in zip(out["frame"], out["global"], strict=True)
        ]

    x = jax.random.normal(jax.random.key(0), (1, 2, 4, 48))
    for found, expected in zip(taps(loaded, x), plainly(loaded, x), strict=True):
        assert off(found, expected) <= 5e-5


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
