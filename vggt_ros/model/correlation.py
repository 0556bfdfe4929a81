# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Inputs of a track's update: features at a point, correlations around it, embedded flow."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.positions import sincos


def correlation_pyramid(
    maps: Float[Array, "b s h w c"], levels: int
) -> list[Float[Array, "b s _h _w c"]]:
    """Feature maps halved `levels` - 1 times by means of 2 x 2 cells, without odd remainders."""
    out = [maps]
    for _ in range(levels - 1):
        b, s, h, w, c = out[-1].shape
        if min(h, w) < 2:
            raise ValueError(
                f"feature maps of {maps.shape[2]} x {maps.shape[3]} are too small for {levels} "
                f"pyramid levels; tracks need at least {2 ** (levels - 1)} cells a side"
            )
        cells = out[-1][:, :, : h // 2 * 2, : w // 2 * 2]
        out.append(cells.reshape(b, s, h // 2, 2, w // 2, 2, c).mean((3, 5)))
    return out


def correlate(
    pyramid: Sequence[Float[Array, "b s _h _w c"]],
    targets: Float[Array, "b s n c"],
    coords: Float[Array, "b s n 2"],
    radius: int,
) -> Float[Array, "b s n k"]:
    """Similarity of each target to the features around its `coords`, at every pyramid level."""
    windows = [
        window(maps, targets, coords / 2**level, radius) for level, maps in enumerate(pyramid)
    ]
    return jnp.concatenate(windows, axis=-1)


def window(
    maps: Float[Array, "b s h w c"],
    targets: Float[Array, "b s n c"],
    coords: Float[Array, "b s n 2"],
    radius: int,
) -> Float[Array, "b s n k"]:
    """Correlations at `coords` + (-radius..radius) squared, bilinear, zero outside the map.

    All samples of a window share one fraction, so the features of (2 radius + 2)^2 whole cells are
    enough; the reference correlates with the entire map first, a hundred times the work.
    """
    h, w = maps.shape[2:4]
    corner = jnp.floor(coords)
    fraction = coords - corner
    cells = corner.astype(jnp.int32)[..., None] + np.arange(-radius, radius + 2)  # b s n 2 k
    x, x_inside = _inside(cells[..., 0, :], w)
    y, y_inside = _inside(cells[..., 1, :], h)
    pick = jax.vmap(jax.vmap(lambda grid, y, x: grid[y[:, :, None], x[:, None, :]]))
    near = jnp.einsum("bsnyxc,bsnc->bsnyx", pick(maps, y, x), targets) / maps.shape[-1] ** 0.5
    near = near * (y_inside[..., :, None] & x_inside[..., None, :])
    fx, fy = fraction[..., 0, None, None], fraction[..., 1, None, None]
    near = near[..., :-1, :] * (1 - fy) + near[..., 1:, :] * fy
    near = near[..., :-1] * (1 - fx) + near[..., 1:] * fx
    return near.swapaxes(-1, -2).reshape(*coords.shape[:3], -1)  # x is the slow index


def _inside(index: Int[Array, "*b k"], n: int) -> tuple[Int[Array, "*b k"], Bool[Array, "*b k"]]:
    """Clamped indices, and which were inside; in the reference a single cell is never outside."""
    inside = (index >= 0) & (index < n) | (n == 1)
    return jnp.clip(index, 0, n - 1), inside


def sample(maps: Float[Array, "b h w c"], points: Float[Array, "b n 2"]) -> Float[Array, "b n c"]:
    """Bilinear features at (x, y); points outside take the border's."""
    (left, right, fx), (top, bottom, fy) = (
        _between(points[..., i], maps.shape[2 - i]) for i in (0, 1)
    )
    at = jax.vmap(lambda grid, y, x: grid[y, x])
    upper = at(maps, top, left) * (1 - fx) + at(maps, top, right) * fx
    lower = at(maps, bottom, left) * (1 - fx) + at(maps, bottom, right) * fx
    return upper * (1 - fy) + lower * fy


def _between(x: Float[Array, "b n"], n: int) -> tuple[Array, Array, Float[Array, "b n 1"]]:
    """The two cells around each coordinate, and the fraction of the way to the second."""
    x = jnp.clip(x, 0, n - 1)
    low = jnp.floor(x).astype(jnp.int32)
    return low, jnp.minimum(low + 1, n - 1), (x - low)[..., None]


def embed_flow(flow: Float[Array, "*b 2"], dim: int) -> Float[Array, "*b d"]:
    """Displacement as interleaved sines and cosines: those of x, then those of y.

    Rates reach a thousand radians a cell.  The product must round in float32 before the sine, as
    in the reference, or results differ visibly.
    """
    rates = np.arange(0, dim // 2, 2, dtype=np.float32) * np.float32(1000 / (dim // 2))
    angles = flow[..., None] * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*flow.shape[:-1], dim)


def sample_sincos(
    points: Float[Array, "b n 2"], size: tuple[int, int], dim: int
) -> Float[Array, "b n d"]:
    """The position embedding of a whole map, sampled at (x, y): separable, a table an axis."""
    parts = []
    for i in (0, 1):
        n = size[1 - i]
        table = jnp.asarray(sincos(np.arange(n, dtype=float), dim // 2, base=10_000.0))
        low, high, fraction = _between(points[..., i], n)
        parts.append(table[low] * (1 - fraction) + table[high] * fraction)
    return jnp.concatenate(parts, axis=-1)
