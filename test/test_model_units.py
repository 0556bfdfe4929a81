# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Single operations against the reference; for each known trap, the wrong choice is detected.

Traps are numbered as in docs/numerics.md; number 10 is in test_model.py.
"""

from types import SimpleNamespace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import (
    CONFIG,
    TOLERANCE,
    case,
    filled,
    intermediates,
    max_error,
    model,
    units,
    weights,
)

from vggt_ros import geometry
from vggt_ros.model import correlation, heads, layers, positions, rope
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.encoder import Encoder, bicubic_matrix
from vggt_ros.model.heads import DPTHead, ResidualConvUnit
from vggt_ros.model.tracks import TrackBlock
from vggt_ros.model.vggt import abstract_model

pytestmark = pytest.mark.slow

ATOL = 1e-5
WRONG = 100 * ATOL  # the least error of a wrong choice


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


# ---- encoder and aggregator ---------------------------------------------------------------------


@pytest.mark.parametrize("size", ["392x518", "294x518", "140x140", "70x126", "700x518", "518x518"])
def test_position_embedding_fits_any_grid(size):
    height, width = (int(n) // 14 for n in size.split("x"))
    learned = jnp.asarray(units()["pos_embed.param"])
    encoder = SimpleNamespace(grid=37, antialias=True, offset=0.0, pos_embed=learned)
    found = Encoder.position_embedding(cast(Encoder, encoder), height, width)
    assert max_error(found, units()[f"pos_embed.out.{size}"]) <= ATOL


def test_trap_4_the_resize_kernel_is_the_antialiased_one():
    """PyTorch's antialiased bicubic has a = -0.5, its plain one -0.75; growing shows it too."""
    grid = units()["pos_embed.param"][0, 1:].reshape(37, 37, 4)
    expected = units()["pos_embed.out.700x518"][0, 1:].reshape(50, 37, 4)

    def grown(antialias):
        return np.einsum("hi,iwd->hwd", bicubic_matrix(37, 50, antialias=antialias), grid)

    assert max_error(grown(True), expected) <= ATOL
    assert max_error(grown(False), expected) > WRONG


def test_rotary_angles():
    angles = rope.rotary_angles(units()["rope.pos"][0], 16, 100.0)
    x = jnp.asarray(units()["rope.x"])
    assert max_error(rope.apply_rope(x, angles), units()["rope.out"]) <= ATOL
    wide = jnp.concatenate([x, x], axis=2)  # two frames in one row of tokens have the same angles
    assert max_error(rope.apply_rope(wide, angles)[:, :, 29:], units()["rope.out"]) <= ATOL
    assert np.array_equal(units()["rope.pos"][0, :5], rope.token_positions(4, 6, 5)[:5])


def test_trap_6_each_norm_has_its_own_epsilon():
    network = abstract_model(VGGT_1B)
    block = network.aggregator.stages[0].frame_blocks
    assert network.encoder.norm.epsilon == network.encoder.blocks.norm1.epsilon == 1e-6
    assert block.norm1.epsilon == block.norm2.epsilon == block.attn.q_norm.epsilon == 1e-5
    assert network.camera_head.adaln_norm.epsilon == 1e-6
    norms = (
        network.camera_head.token_norm,
        network.depth_head.pyramid.norm,
        network.track_head.fmap_norm,
    )
    assert all(norm.epsilon == 1e-5 for norm in norms)
    faint = 1e-3 * jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)), jnp.float32)
    right, wrong = (
        filled(lambda r, e=e: layers.layer_norm(16, e, rngs=r), UNIT)(faint) for e in EPS
    )
    expected = (faint - faint.mean(-1, keepdims=True)) / np.sqrt(faint.var(-1) + 1e-6)[:, None]
    assert max_error(right, expected) <= ATOL and max_error(wrong, expected) > WRONG


EPS = (1e-6, 1e-5)
UNIT = {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}


# ---- camera -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def negative_views():
    """A camera head whose raw angles of view are below zero in every iteration."""
    from flax import nnx

    tree = jax.tree.map(lambda x: x, weights()["camera_head"])
    tree["pose_branch"]["fc2"]["bias"] = jnp.asarray(units()["camneg.fc2_bias"])
    return nnx.merge(nnx.split(abstract_model(CONFIG).camera_head)[0], tree)


def test_trap_7_iterations_feed_back_the_raw_pose(negative_views):
    tokens = jnp.asarray(units()["camneg.tokens"][:, :, 0])
    found = np.asarray(jax.jit(lambda x: negative_views(x))(tokens))
    expected = np.stack([units()[f"camneg.pose_enc.{i}"] for i in range(4)])
    assert max_error(found, expected) <= ATOL
    assert (expected[..., 7:] == 0).all()
    # Fed the activated pose, the second iteration would start from other angles.
    raw = units()["camneg.delta.0"]
    step = jax.jit(lambda p: negative_views.modulation(jax.nn.silu(negative_views.embed_pose(p))))
    assert max_error(step(jnp.asarray(raw)), step(heads.activate_pose(jnp.asarray(raw)))) > WRONG


def test_trap_8_vertical_view_first_and_quaternion_scalar_last():
    encoding = units()["pose.enc"]
    intrinsics = geometry.intrinsics_from_pose_encoding(encoding, 392, 518)
    assert max_error(intrinsics, units()["pose.intrinsic"]) <= 5e-3
    other = encoding[..., [0, 1, 2, 3, 4, 5, 6, 8, 7]]
    other = geometry.intrinsics_from_pose_encoding(other, 392, 518)
    assert max_error(other, units()["pose.intrinsic"]) > 1
    extrinsics = geometry.extrinsics_from_pose_encoding(encoding)
    assert max_error(extrinsics, units()["pose.extrinsic"]) <= ATOL
    other = geometry.extrinsics_from_pose_encoding(encoding[..., [0, 1, 2, 6, 3, 4, 5, 7, 8]])
    assert max_error(other, units()["pose.extrinsic"]) > WRONG


# ---- dense maps ---------------------------------------------------------------------------------


def test_trap_1_residual_units_carry_relu_of_x():
    names = ("conv1", "conv2")
    parts = {}
    for name in names:
        parts[f"{name}/kernel"] = units()[f"rcu.w.{name}.weight"].transpose(2, 3, 1, 0)
        parts[f"{name}/bias"] = units()[f"rcu.w.{name}.bias"]
    unit = filled(lambda rngs: ResidualConvUnit(8, rngs), parts)
    x, expected = nhwc(units()["rcu.x"]), nhwc(units()["rcu.out"])
    assert max_error(unit(x), expected) <= ATOL
    assert max_error(unit(x) - jax.nn.relu(x) + x, expected) > WRONG


def test_trap_5_resizes_align_corners():
    x = nhwc(units()["interp.x"])
    assert max_error(heads.resize(x, (11, 13)), nhwc(units()["interp.out"])) <= ATOL
    assert max_error(heads.resize(x, (10, 14)), nhwc(units()["interp.x2"])) <= ATOL
    row = nhwc(units()["interp_1row.x"])
    assert max_error(heads.resize(row, (4, 5)), nhwc(units()["interp_1row.out"])) <= ATOL
    half_pixel = jax.image.resize(x, (1, 11, 13, 3), "bilinear")
    assert max_error(half_pixel, nhwc(units()["interp.out"])) > WRONG


def test_position_embedding_of_dense_maps():
    extent_x, extent_y = positions.half_extents((392, 518))
    x, y = positions.cell_centres(extent_x, 37), positions.cell_centres(extent_y, 28)
    uv = np.stack(np.meshgrid(x, y), axis=-1)
    assert max_error(uv, units()["dpt_pos.uv"]) <= ATOL
    assert positions.cell_centres(1.0, 1) == [0]
    found = positions.add_position_embedding(jnp.zeros((1, 28, 37, 24)), (392, 518), 1.0)[0]
    assert max_error(found, units()["dpt_pos.embed"]) <= ATOL


def test_activations():
    x = nhwc(units()["act.x"])
    assert max_error(heads.inverse_log(x[..., :3]), units()["act.inv_log"]) <= ATOL
    assert max_error(heads.expp1(x[..., 3]), units()["act.expp1"]) <= ATOL
    assert max_error(jnp.exp(x[..., 2:3]), units()["act.exp"]) <= ATOL
    assert (
        max_error(heads.activate_pose(jnp.asarray(units()["act.pose_raw"])), units()["act.pose"])
        == 0
    )


# ---- tracks -------------------------------------------------------------------------------------


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
    assert max_error(block(x), units()["attnblock.out"]) <= ATOL
    cross = track_block("crossblock", "cross_attn")
    assert max_error(cross(x, context), units()["crossblock.out"]) <= ATOL
    y = x + block.attn(block.norm1(x))
    assert max_error(y + block.mlp(block.norm2(y)), units()["attnblock.out"]) > WRONG


@pytest.mark.parametrize(("name", "levels", "radius"), [("corr", 3, 3), ("corr_small", 2, 2)])
def test_correlation_windows(name, levels, radius):
    maps = nhwc(units()[f"{name}.fmaps"])
    targets, xy = jnp.asarray(units()[f"{name}.targets"]), jnp.asarray(units()[f"{name}.xy"])
    found = correlation.correlate(
        correlation.correlation_pyramid(maps, levels), targets, xy, radius
    )
    assert max_error(found, units()[f"{name}.out"]) <= ATOL


def test_trap_3_correlation_windows_run_along_y_first():
    maps, targets, xy = (units()[f"corr.{name}"] for name in ("fmaps", "targets", "xy"))
    found = correlation.window(nhwc(maps), jnp.asarray(targets), jnp.asarray(xy), 3)
    other = found.reshape(1, 2, 4, 7, 7).swapaxes(-1, -2).reshape(1, 2, 4, 49)
    assert max_error(found, units()["corr.out"][..., :49]) <= ATOL
    assert max_error(other, units()["corr.out"][..., :49]) > WRONG


def test_features_at_a_point():
    found = correlation.sample(nhwc(units()["sample.fmap"]), jnp.asarray(units()["sample.xy"]))
    assert max_error(found, units()["sample.out"]) <= ATOL


def test_trap_9_the_flow_is_multiplied_in_float32_before_the_sine():
    flow = units()["flow_emb.flow"]
    assert max_error(correlation.embed_flow(jnp.asarray(flow), 16), units()["flow_emb.out"]) <= 2e-6
    angles = flow[..., None].astype(np.float64) * (np.arange(0, 8, 2) * 1000 / 8)
    exact = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(2, 7, 16)
    assert max_error(exact, units()["flow_emb.out"]) > 1e-4
    # The first iteration has no flow: there tracks are as exact as anything else.
    tolerance = TOLERANCE["mini_square"]["track.uf_in.0"]["suggested_atol"]
    found, expected = intermediates("mini_square"), case("mini_square")
    assert max_error(found["track.uf_in.0"], expected["track.uf_in.0"]) <= tolerance


def test_positions_of_queries():
    embed = units()["track_pos.embed"][0].transpose(1, 2, 0)
    y, x = np.mgrid[:5, :9]
    points = jnp.asarray(np.stack([x, y], axis=-1).reshape(1, -1, 2), jnp.float32)
    assert (
        max_error(correlation.sample_sincos(points, (5, 9), 52)[0].reshape(5, 9, 52), embed) <= ATOL
    )
    between = correlation.sample_sincos(jnp.asarray([[[2.25, 3.5]]]), (5, 9), 52)[0, 0]
    rows = 0.75 * embed[3:5, 2] + 0.25 * embed[3:5, 3]
    assert max_error(between, rows.mean(0)) <= ATOL


def test_trap_11_track_features_have_no_position_embedding_unless_configured():
    assert not VGGT_1B.track_head.pos_embed
    assert model().track_head.feature_extractor.position == 0
    tree = CONFIG.to_dict()
    tree["track_head"]["pos_embed"] = True
    fixed = abstract_model(type(CONFIG).from_dict(tree)).track_head.feature_extractor
    assert fixed.position == CONFIG.dpt.pos_embed_ratio
    head = model().depth_head
    assert isinstance(head, DPTHead) and head.position == fixed.position
    x = jnp.zeros((1, 4, 4, 16))
    assert max_error(positions.add_position_embedding(x, (4, 4), fixed.position), x) > WRONG


def test_maps_too_small_for_the_pyramid_are_refused():
    with pytest.raises(ValueError, match="at least 4 cells"):
        correlation.correlation_pyramid(jnp.zeros((1, 1, 3, 9, 2)), 3)
