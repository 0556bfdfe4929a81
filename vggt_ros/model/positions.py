# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sine and cosine embeddings of positions in an image, for the dense heads and the tracks."""

import numpy as np
from jax import Array
from jaxtyping import Float


def add_position_embedding(
    x: Float[Array, "n h w d"], aspect: tuple[int, int], gain: float
) -> Float[Array, "n h w d"]:
    """`x` plus `gain` times the embedding of each cell's place in an image of (height, width).

    Half of the channels embed x, half y: two small tables, zero in each other's channels, so that
    their sum is never built at full size.
    """
    if not gain:
        return x
    _, h, w, d = x.shape
    extent_x, extent_y = half_extents(aspect)
    columns = sincos(cell_centres(extent_x, w), d // 2)
    rows = sincos(cell_centres(extent_y, h), d // 2)
    columns = np.pad(gain * columns, ((0, 0), (0, d // 2)))
    rows = np.pad(gain * rows, ((0, 0), (d // 2, 0)))
    return x + columns + rows[:, None]


def half_extents(aspect: tuple[int, int]) -> tuple[float, float]:
    """Half extents (x, y) of an image of this (height, width) whose half diagonal is 1."""
    height, width = aspect
    diagonal = np.hypot(height, width)
    return width / diagonal, height / diagonal


def cell_centres(extent: float, n: int) -> Float[np.ndarray, "n"]:
    """Centres of `n` cells over [-extent, extent]."""
    return np.linspace(-extent * (n - 1) / n, extent * (n - 1) / n, n)


def sincos(
    positions: Float[np.ndarray, "n"], dim: int, base: float = 100.0
) -> Float[np.ndarray, "n d"]:
    """[sin, cos] of positions at `dim / 2` falling rates; in float64, then rounded once."""
    angles = positions[:, None] / base ** (np.arange(dim // 2) / (dim / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)
