# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Single operations against the reference, and for each known trap: the wrong choice would show.

Traps are numbered as in docs/numerics.md; number 10 is in test_model.py.
"""

from types import SimpleNamespace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import CONFIG, TOLERANCE, case, filled, model, off, stages, units, weights

from vggt_ros import geometry
from vggt_ros.model import correlation, heads, layers
from vggt_ros.model.aggregator import Encoder, cubic
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.heads import DenseHead, ResidualConv
from vggt_ros.model.tracks import TrackBlock
from vggt_ros.model.vggt import abstract_model

ATOL = 1e-5
WRONG = 100 * ATOL  # how far a wrong choice must be off to be sure of being noticed


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


# ---- encoder and tower ------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["392x518", "294x518", "140x140", "70x126", "700x518", "518x518"])
def test_position_embedding_fits_any_grid(size):
    height, width = (int(n) // 14 for n in size.split("x"))
    learned = jnp.asarray(units()["pos_embed.param"])
    encoder = SimpleNamespace(grid=37, antialias=True, offset=0.0, pos_embed=learned)
    found = Encoder.positions(cast(Encoder, encoder), height, width)
    assert off(found, units()[f"pos_embed.out.{size}"]) <= ATOL


def test_trap_4_the_resize_kernel_is_the_antialiased_one():
    """PyTorch's antialiased bicubic has a = -0.5, its plain one -0.75; growing shows it too."""
    grid = units()["pos_embed.param"][0, 1:].reshape(37, 37, 4)
    expected = units()["pos_embed.out.700x518"][0, 1:].reshape(50, 37, 4)

    def grown(antialias):
        return np.einsum("hi,iwd->hwd", cubic(37, 50, antialias=antialias), grid)

    assert off(grown(True), expected) <= ATOL
    assert off(grown(False), expected) > WRONG


def test_rotary_angles():
    rotation = layers.rotation(units()["rope.pos"][0], 16, 100.0)
    x = jnp.asarray(units()["rope.x"])
    assert off(layers.rotate(x, rotation), units()["rope.out"]) <= ATOL
    wide = jnp.concatenate([x, x], axis=2)  # two frames in one row of tokens turn alike
    assert off(layers.rotate(wide, rotation)[:, :, 29:], units()["rope.out"]) <= ATOL
    assert np.array_equal(units()["rope.pos"][0, :5], layers.positions(4, 6, 5)[:5])


def test_trap_6_each_norm_has_its_own_epsilon():
    network = abstract_model(VGGT_1B)
    block = network.tower.stages[0].frame
    assert network.encoder.norm.epsilon == network.encoder.blocks.norm1.epsilon == 1e-6
    assert block.norm1.epsilon == block.norm2.epsilon == block.attn.q_norm.epsilon == 1e-5
    assert network.camera.plain_norm.epsilon == 1e-6
    for norm in (network.camera.token_norm, network.depth.pyramid.norm, network.tracks.norm):
        assert norm.epsilon == 1e-5
    faint = 1e-3 * jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)), jnp.float32)
    right, wrong = (filled(lambda r, e=e: layers.norm(16, e, rngs=r), UNIT)(faint) for e in EPS)
    expected = (faint - faint.mean(-1, keepdims=True)) / np.sqrt(faint.var(-1) + 1e-6)[:, None]
    assert off(right, expected) <= ATOL and off(wrong, expected) > WRONG


EPS = (1e-6, 1e-5)
UNIT = {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}


# ---- camera -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def negative_views():
    """A camera head whose raw angles of view are below zero in every iteration."""
    from flax import nnx

    tree = jax.tree.map(lambda x: x, weights()["camera"])
    tree["pose_branch"]["fc2"]["bias"] = jnp.asarray(units()["camneg.fc2_bias"])
    return nnx.merge(nnx.split(abstract_model(CONFIG).camera)[0], tree)


def test_trap_7_iterations_feed_back_the_raw_pose(negative_views):
    tokens = jnp.asarray(units()["camneg.tokens"][:, :, 0])
    found = np.asarray(jax.jit(lambda x: negative_views(x))(tokens))
    expected = np.stack([units()[f"camneg.pose_enc.{i}"] for i in range(4)])
    assert off(found, expected) <= ATOL
    assert (expected[..., 7:] == 0).all()
    # Fed the activated pose, the second iteration would start from other angles.
    raw = units()["camneg.delta.0"]
    step = jax.jit(lambda p: negative_views.modulation(jax.nn.silu(negative_views.embed_pose(p))))
    assert off(step(jnp.asarray(raw)), step(heads.activate_pose(jnp.asarray(raw)))) > WRONG


def test_trap_8_vertical_view_first_and_quaternion_scalar_last():
    encoding = units()["pose.enc"]
    intrinsics = geometry.intrinsics_from_pose_encoding(encoding, 392, 518)
    assert off(intrinsics, units()["pose.intrinsic"]) <= 5e-3
    other = encoding[..., [0, 1, 2, 3, 4, 5, 6, 8, 7]]
    other = geometry.intrinsics_from_pose_encoding(other, 392, 518)
    assert off(other, units()["pose.intrinsic"]) > 1
    extrinsics = geometry.extrinsics_from_pose_encoding(encoding)
    assert off(extrinsics, units()["pose.extrinsic"]) <= ATOL
    other = geometry.extrinsics_from_pose_encoding(encoding[..., [0, 1, 2, 6, 3, 4, 5, 7, 8]])
    assert off(other, units()["pose.extrinsic"]) > WRONG


# ---- dense maps -------------------------------------------------------------------------------


def test_trap_1_residual_units_carry_relu_of_x():
    names = ("conv1", "conv2")
    parts = {}
    for name in names:
        parts[f"{name}/kernel"] = units()[f"rcu.w.{name}.weight"].transpose(2, 3, 1, 0)
        parts[f"{name}/bias"] = units()[f"rcu.w.{name}.bias"]
    unit = filled(lambda rngs: ResidualConv(8, rngs), parts)
    x, expected = nhwc(units()["rcu.x"]), nhwc(units()["rcu.out"])
    assert off(unit(x), expected) <= ATOL
    assert off(unit(x) - jax.nn.relu(x) + x, expected) > WRONG


def test_trap_5_resizes_align_corners():
    x = nhwc(units()["interp.x"])
    assert off(heads.resize(x, (11, 13)), nhwc(units()["interp.out"])) <= ATOL
    assert off(heads.resize(x, (10, 14)), nhwc(units()["interp.x2"])) <= ATOL
    row = nhwc(units()["interp_1row.x"])
    assert off(heads.resize(row, (4, 5)), nhwc(units()["interp_1row.out"])) <= ATOL
    half_pixel = jax.image.resize(x, (1, 11, 13, 3), "bilinear")
    assert off(half_pixel, nhwc(units()["interp.out"])) > WRONG


def test_cells_know_their_place_in_the_picture():
    span_x, span_y = heads.spans((392, 518))
    uv = np.stack(np.meshgrid(heads.axis(span_x, 37), heads.axis(span_y, 28)), axis=-1)
    assert off(uv, units()["dpt_pos.uv"]) <= ATOL
    assert heads.axis(1.0, 1) == [0]
    found = heads.add_position(jnp.zeros((1, 28, 37, 24)), (392, 518), 1.0)[0]
    assert off(found, units()["dpt_pos.embed"]) <= ATOL


def test_activations():
    x = nhwc(units()["act.x"])
    assert off(heads.inverse_log(x[..., :3]), units()["act.inv_log"]) <= ATOL
    assert off(heads.expp1(x[..., 3]), units()["act.expp1"]) <= ATOL
    assert off(jnp.exp(x[..., 2:3]), units()["act.exp"]) <= ATOL
    assert off(heads.activate_pose(jnp.asarray(units()["act.pose_raw"])), units()["act.pose"]) == 0


# ---- tracks -----------------------------------------------------------------------------------


def track_block(kind: str, attention: str):
    parts = {}
    for name, x in units().items():
        if not name.startswith(f"{kind}.w."):
            continue
        path = name.removeprefix(f"{kind}.w.").replace(f"{attention}.in_proj_", "attn.qkv.")
        path = path.replace(f"{attention}.out_proj", "attn.proj")
        kernel = "scale" if "norm" in path else "kernel"
        parts[path.replace("weight", kernel).replace(".", "/")] = x.T
    cross = kind == "crossblock"
    return filled(lambda rngs: TrackBlock(16, 4, 4.0, cross=cross, rngs=rngs), parts)


def test_trap_2_track_blocks_skip_from_the_normalised_input():
    x, context = jnp.asarray(units()["attnblock.x"]), jnp.asarray(units()["crossblock.context"])
    block = track_block("attnblock", "attn")
    assert off(block(x), units()["attnblock.out"]) <= ATOL
    cross = track_block("crossblock", "cross_attn")
    assert off(cross(x, context), units()["crossblock.out"]) <= ATOL
    y = x + block.attn(block.norm1(x))
    assert off(y + block.mlp(block.norm2(y)), units()["attnblock.out"]) > WRONG


@pytest.mark.parametrize(("name", "levels", "radius"), [("corr", 3, 3), ("corr_small", 2, 2)])
def test_correlation_windows(name, levels, radius):
    maps = nhwc(units()[f"{name}.fmaps"])
    targets, xy = jnp.asarray(units()[f"{name}.targets"]), jnp.asarray(units()[f"{name}.xy"])
    found = correlation.correlate(correlation.pyramid(maps, levels), targets, xy, radius)
    assert off(found, units()[f"{name}.out"]) <= ATOL


def test_trap_3_correlation_windows_run_along_y_first():
    maps, targets, xy = (units()[f"corr.{name}"] for name in ("fmaps", "targets", "xy"))
    found = correlation.window(nhwc(maps), jnp.asarray(targets), jnp.asarray(xy), 3)
    other = found.reshape(1, 2, 4, 7, 7).swapaxes(-1, -2).reshape(1, 2, 4, 49)
    assert off(found, units()["corr.out"][..., :49]) <= ATOL
    assert off(other, units()["corr.out"][..., :49]) > WRONG


def test_features_at_a_point():
    found = correlation.sample(nhwc(units()["sample.fmap"]), jnp.asarray(units()["sample.xy"]))
    assert off(found, units()["sample.out"]) <= ATOL


def test_trap_9_the_flow_is_multiplied_in_float32_before_the_sine():
    flow = units()["flow_emb.flow"]
    assert off(correlation.embed_flow(jnp.asarray(flow), 16), units()["flow_emb.out"]) <= 2e-6
    angles = flow[..., None].astype(np.float64) * (np.arange(0, 8, 2) * 1000 / 8)
    exact = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(2, 7, 16)
    assert off(exact, units()["flow_emb.out"]) > 1e-4
    # The first iteration has no flow: there tracks are as exact as anything else.
    tolerance = TOLERANCE["mini_square"]["track.uf_in.0"]["suggested_atol"]
    found, expected = stages("mini_square"), case("mini_square")
    assert off(found["track.uf_in.0"], expected["track.uf_in.0"]) <= tolerance


def test_positions_of_queries():
    embed = units()["track_pos.embed"][0].transpose(1, 2, 0)
    y, x = np.mgrid[:5, :9]
    points = jnp.asarray(np.stack([x, y], axis=-1).reshape(1, -1, 2), jnp.float32)
    assert off(correlation.sample_sines(points, (5, 9), 52)[0].reshape(5, 9, 52), embed) <= ATOL
    between = correlation.sample_sines(jnp.asarray([[[2.25, 3.5]]]), (5, 9), 52)[0, 0]
    rows = 0.75 * embed[3:5, 2] + 0.25 * embed[3:5, 3]
    assert off(between, rows.mean(0)) <= ATOL


def test_trap_11_track_features_know_no_place_unless_the_checkpoint_says_so():
    assert not VGGT_1B.track_head.pos_embed
    assert model().tracks.pyramid.position == 0
    tree = CONFIG.to_dict()
    tree["track_head"]["pos_embed"] = True
    fixed = abstract_model(type(CONFIG).from_dict(tree)).tracks.pyramid
    assert fixed.position == CONFIG.dpt.pos_embed_ratio
    assert isinstance(model().depth, DenseHead) and model().depth.position == fixed.position
    x = jnp.zeros((1, 4, 4, 16))
    assert off(heads.add_position(x, (4, 4), fixed.position), x) > WRONG


def test_maps_too_small_for_the_pyramid_are_refused():
    with pytest.raises(ValueError, match="at least 4 cells"):
        correlation.pyramid(jnp.zeros((1, 1, 3, 9, 2)), 3)
