# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Auxiliary losses on patch motion and attention, on cases worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vggt_ros.geometry import pose_encoding_from, unproject
from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.layers import Block
from vggt_ros.train import auxiliary
from vggt_ros.train.data import Batch

pytestmark = pytest.mark.slow

SIZE, ROWS, COLUMNS, FOCAL = 14, 3, 4, 56.0
WALL = 2.0  # metres ahead
patch_motion = jax.jit(partial(auxiliary.patch_motion, size=SIZE))


def cameras_at(*shifts: float) -> Batch:
    """A window of cameras side by side, `shifts` metres to the right, in front of a wall."""
    height, width, frames = ROWS * SIZE, COLUMNS * SIZE, len(shifts)
    intrinsics = np.array([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]])
    camera_from_first = np.tile(np.eye(4)[:3], (frames, 1, 1))
    camera_from_first[:, 0, 3] = -np.array(shifts)
    depth = np.full((frames, height, width), WALL)
    points = (
        unproject(depth, np.tile(intrinsics, (frames, 1, 1)))
        - camera_from_first[:, None, None, :, 3]
    )
    encoding = pose_encoding_from(
        camera_from_first, np.tile(intrinsics, (frames, 1, 1)), height, width
    )
    fields = {
        "images": np.zeros((frames, height, width, 3)), "pose_encoding": encoding, "depth": depth,
        "points": points, "valid": np.ones(depth.shape, bool), "queries": np.zeros((1, 2)),
        "tracks": np.zeros((frames, 1, 2)), "visible": np.ones((frames, 1), bool),
    }  # fmt: skip
    return Batch(**{name: jnp.asarray(value)[None] for name, value in fields.items()})


def test_patch_motion_is_the_parallax_of_the_wall_and_valid_in_view_of_the_first_camera():
    # 0.5 m at 2 m: 56 * 0.25 = 14 pixels, one patch; 1.5 m: three, all but the first out of view
    truth = patch_motion(cameras_at(0.0, 0.5, 1.5))
    expected = np.broadcast_to(np.array([0, 1, 3])[:, None, None], (3, ROWS, COLUMNS))
    np.testing.assert_allclose(truth.displacement[0, ..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(truth.displacement[..., 1], 0, atol=1e-5)
    np.testing.assert_allclose(truth.position[0, 1, 2], [[1, 2], [2, 2], [3, 2], [4, 2]], atol=1e-5)
    assert truth.valid[0, :, 0].tolist() == [[False] * 4, [True] * 4, [True, True, False, False]]


def test_the_loss_of_a_zero_probe_is_the_displacement_plus_the_position():
    truth = patch_motion(cameras_at(0.0, 0.5))
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, ROWS, COLUMNS, 6)))
    probes = {0: {"predict": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}}}
    # positions: x is 1.5, 0.5, 0.5, 1.5 from the middle, y is 1, 0, 1
    position = 1.0 + 2 / 3
    assert float(auxiliary.probe_loss(probes, [tokens], truth)) == pytest.approx(
        1.0 + auxiliary.POSITION_WEIGHT * position, abs=1e-5
    )
    probes[0]["predict"]["bias"] = jnp.array([1.0, 0, 0, 0]) / auxiliary.GAIN
    loss = auxiliary.probe_loss(probes, [tokens], truth)
    assert float(loss) == pytest.approx(auxiliary.POSITION_WEIGHT * position, abs=1e-5)


def block(dim: int) -> Block:
    return Block(dim, 1, 2.0, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_attention_loss_is_low_where_attention_is_on_the_position_in_the_first_frame():
    batch = cameras_at(0.0, 0.5)
    truth, cells, dim = patch_motion(batch), ROWS * COLUMNS, 2 * ROWS * COLUMNS
    special, sharp = 1, 6.0
    tokens = np.zeros((1, 2, special + cells, dim), np.float32)
    # Each patch of the first frame has its own channel; one of the second that of its position.
    target = (truth.position[0, 1].round() @ jnp.array([1, COLUMNS])).ravel().astype(int)
    tokens[0, 0, special:] = np.eye(cells, dim)
    tokens[0, 1, special:] = np.roll(np.eye(dim), cells, axis=1)[np.asarray(target) % cells]
    attend = block(dim)
    normed = attend.norm1
    normed.scale[...], normed.bias[...] = jnp.ones(dim), jnp.zeros(dim)
    uniform = jnp.zeros((dim, 3 * dim))
    attend.attn.qkv.kernel[...] = uniform
    attend.attn.qkv.bias[...] = jnp.zeros(3 * dim)
    loss = auxiliary.attention_loss(attend, jnp.asarray(tokens), None, truth)
    assert float(loss) == pytest.approx(np.log(2 * (special + cells)), abs=1e-5)
    # Queries read the second half of the channels, keys the first: corresponding patches match.
    matching = uniform.at[jnp.arange(cells) + cells, jnp.arange(cells)].set(sharp)
    matching = matching.at[jnp.arange(cells), dim + jnp.arange(cells)].set(1.0)
    attend.attn.qkv.kernel[...] = matching
    found = auxiliary.attention_loss(attend, jnp.asarray(tokens), None, truth)
    assert float(found) < 0.1
    shifted = truth._replace(position=truth.position - jnp.array([1.0, 0.0]))
    assert float(auxiliary.attention_loss(attend, jnp.asarray(tokens), None, shifted)) > 5


def test_the_supervised_blocks_are_the_global_ones_at_the_taps():
    aggregator = Aggregator(16, 6, 1, 2.0, taps=(1, 2, 4, 5), registers=0, rngs=nnx.Rngs(0))
    blocks = auxiliary.supervised_blocks(aggregator)
    for found, stage in zip(blocks, (1, 2, 3), strict=True):
        expected = aggregator.stages[stage].global_blocks.attn.qkv.kernel[-1]
        np.testing.assert_array_equal(found.attn.qkv.kernel[...], expected)
    depth = len(jax.tree.leaves(aggregator.stages[3].global_blocks)[0])
    assert depth == 2  # blocks 3 and 4: the last one has the loss
