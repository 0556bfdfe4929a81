# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What training tells patches of their motion, on cases worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vggt_ros.geometry import pose_encoding_from, unproject
from vggt_ros.model.aggregator import Tower
from vggt_ros.model.layers import Block, OneKey
from vggt_ros.train import auxiliary
from vggt_ros.train.data import Batch

SIZE, ROWS, COLUMNS, FOCAL = 14, 3, 4, 56.0
WALL = 2.0  # metres ahead


def beside(*shifts: float) -> Batch:
    """Cameras side by side, `shifts` metres to the right, before a wall."""
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


def test_patches_move_as_the_wall_passes_and_are_known_where_the_first_camera_looked():
    # 0.5 m at 2 m: 56 * 0.25 = 14 pixels, one patch; 1.5 m: three, all but the first out of sight
    truth = auxiliary.motion_of(beside(0.0, 0.5, 1.5), SIZE)
    expected = np.broadcast_to(np.array([0, 1, 3])[:, None, None], (3, ROWS, COLUMNS))
    np.testing.assert_allclose(truth.moved[0, ..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(truth.moved[..., 1], 0, atol=1e-5)
    np.testing.assert_allclose(truth.there[0, 1, 2], [[1, 2], [2, 2], [3, 2], [4, 2]], atol=1e-5)
    assert truth.known[0, :, 0].tolist() == [[False] * 4, [True] * 4, [True, True, False, False]]


def test_a_readout_that_says_nothing_is_wrong_by_the_motion_and_the_place():
    truth = auxiliary.motion_of(beside(0.0, 0.5), SIZE)
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, ROWS, COLUMNS, 6)))
    maps = {0: {"predict": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}}}
    # places: x is 1.5, 0.5, 0.5, 1.5 from the middle, y is 1, 0, 1
    place = 1.0 + 2 / 3
    assert float(auxiliary.reading_loss(maps, [tokens], truth)) == pytest.approx(
        1.0 + auxiliary.PLACE * place, abs=1e-5
    )
    maps[0]["predict"]["bias"] = jnp.array([1.0, 0, 0, 0]) / auxiliary.GAIN
    loss = auxiliary.reading_loss(maps, [tokens], truth)
    assert float(loss) == pytest.approx(auxiliary.PLACE * place, abs=1e-5)


def block(dim: int) -> Block:
    return Block(dim, 1, 2.0, dtype=jnp.float32, param_dtype=jnp.float32, rngs=OneKey())


def test_attention_is_asked_for_the_place_in_the_first_frame():
    batch = beside(0.0, 0.5)
    truth, cells, dim = auxiliary.motion_of(batch, SIZE), ROWS * COLUMNS, 2 * ROWS * COLUMNS
    special, sharp = 1, 6.0
    tokens = np.zeros((1, 2, special + cells, dim), np.float32)
    # Each patch of the first frame has its own channel; one of the second that of its place.
    there = (truth.there[0, 1].round() @ jnp.array([1, COLUMNS])).ravel().astype(int)
    tokens[0, 0, special:] = np.eye(cells, dim)
    tokens[0, 1, special:] = np.roll(np.eye(dim), cells, axis=1)[np.asarray(there) % cells]
    attend = block(dim)
    normed = attend.norm1
    normed.scale[...], normed.bias[...] = jnp.ones(dim), jnp.zeros(dim)
    blind = jnp.zeros((dim, 3 * dim))
    attend.attn.qkv.kernel[...] = blind
    attend.attn.qkv.bias[...] = jnp.zeros(3 * dim)
    loss = auxiliary.attention_loss(attend, jnp.asarray(tokens), None, truth)
    assert float(loss) == pytest.approx(np.log(2 * (special + cells)), abs=1e-5)
    # Queries read the second half of the channels, keys the first: each finds its like.
    sight = blind.at[jnp.arange(cells) + cells, jnp.arange(cells)].set(sharp)
    sight = sight.at[jnp.arange(cells), dim + jnp.arange(cells)].set(1.0)
    attend.attn.qkv.kernel[...] = sight
    found = auxiliary.attention_loss(attend, jnp.asarray(tokens), None, truth)
    assert float(found) < 0.1
    far = truth._replace(there=truth.there - jnp.array([1.0, 0.0]))
    assert float(auxiliary.attention_loss(attend, jnp.asarray(tokens), None, far)) > 5


def test_the_blocks_that_are_asked_take_the_taps():
    tower = Tower(16, 6, 1, 2.0, taps=(1, 2, 4, 5), registers=0, rngs=OneKey())
    asked = auxiliary.askable(tower)
    for found, stage in zip(asked, (1, 2, 3), strict=True):
        expected = tower.stages[stage].scene.attn.qkv.kernel[-1]
        np.testing.assert_array_equal(found.attn.qkv.kernel[...], expected)
    assert len(jax.tree.leaves(tower.stages[3].scene)[0]) == 2  # rounds 3 and 4: the last is asked
