# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in two dimensions (RoPE): queries and keys turned by row and column."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int


class RotaryAngles(NamedTuple):
    """Cosines and sines for the tokens of one frame; axis 1 is (row, column)."""

    cos: Float[Array, "t 2 f"]
    sin: Float[Array, "t 2 f"]


def token_positions(height: int, width: int, special: int) -> Int[np.ndarray, "t 2"]:
    """(row, column) of every token: `special` tokens at (0, 0), patches from (1, 1)."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) + 1
    return np.concatenate([np.zeros((special, 2), int), grid.reshape(-1, 2)]).astype(np.int32)


def rotary_angles(positions: Int[np.ndarray, "t 2"], head_dim: int, base: float) -> RotaryAngles:
    """Angles for half of a head's channels by row, half by column, at head_dim / 4 rates each."""
    rates = 1 / np.float32(base) ** (
        np.arange(0, head_dim // 2, 2, dtype=np.float32) * 2 / head_dim
    )
    angles = positions[..., None].astype(np.float32) * rates
    return RotaryAngles(jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles)))


def apply_rope(x: Float[Array, "b n t d"], rope: RotaryAngles) -> Float[Array, "b n t d"]:
    """Queries or keys, rotated; the tokens of several frames in `x` get the same angles each."""
    pairs = x.reshape(*x.shape[:2], -1, len(rope.cos), 2, 2, rope.cos.shape[-1])
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    rotated = jnp.stack([a * rope.cos - b * rope.sin, b * rope.cos + a * rope.sin], axis=-2)
    return rotated.reshape(x.shape)
