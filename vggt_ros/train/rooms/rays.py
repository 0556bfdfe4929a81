# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rays against rooms: which surface comes first, exactly, for many rays from one place.

Vectors are component-major ([3 p]) and solids are scanned one by one: long plain loops over rays,
forty times faster on a CPU than a reduction over a [solids, rays] table.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vggt_ros.train.rooms.scenes import BALLS, BOXES, Solids, World

_NUMBER = (1 << 7) - 1  # low bits of a distance that carry the solid's number while they compete
_NOTHING = np.float32(np.inf).view(np.int32)
UP = ((0.0,), (0.0,), (1.0,))

# Three components that broadcast: an array, or in hot loops a list; lists fuse, stacks do not.
Vector = Array | Sequence[Array]


def wide() -> bool:
    """Whether many numbers at a time are drawn faster than few: not where they leave the cache.

    An accelerator starts kernels for every turn of a loop, and waits for each.
    """
    return jax.default_backend() != "cpu"


class Hit(NamedTuple):
    """What rays meet first, in lengths of their direction; 0, 1, 2 are floor, walls, ceiling."""

    t: Float[Array, "p"]
    what: Int[Array, "p"]


def cast(world: World, origin: Float[Array, "3"], directions: Float[Array, "3 p"]) -> Hit:
    """The first surface along each ray from one origin inside the room."""
    bits = _nearest(world.solids, origin, directions)
    number = jnp.minimum(bits & _NUMBER, world.solids.half.shape[0] - 1)
    # The contest dropped low bits of the distance; meet the winner again at full precision.
    matrix, start = _unit_from_world(world.solids, origin)
    slope = times(jnp.moveaxis(matrix, 0, -1)[..., number], directions)
    start = start.T[:, number]
    entry = jnp.where(number < BOXES, _cube(start, slope)[0], _ball(start, slope)[0])
    entry = jnp.where(number < BOXES + BALLS, entry, _cylinder(start, slope)[0])
    entry = jnp.where(bits < _NOTHING, entry, jnp.inf)

    half = (world.room / 2)[:, None]
    slope = jnp.where(jnp.abs(directions) < 1e-9, 1e-9, directions)
    leave = (jnp.sign(slope) * half - origin[:, None] + jnp.array(UP) * half) / slope
    leave_t = leave.min(axis=0)
    shell = jnp.where(leave[2] > leave_t, 1, jnp.where(slope[2] > 0, 2, 0))
    ahead = entry < leave_t
    return Hit(jnp.where(ahead, entry, leave_t), jnp.where(ahead, number + 3, shell))


def _nearest(solids: Solids, origin: Array, directions: Array) -> Int[Array, "p"]:
    """Bits of the nearest entry with the solid's number in the lowest: one integer minimum."""
    matrix, start = _unit_from_world(solids, origin)
    numbers = jnp.arange(matrix.shape[0], dtype=jnp.int32)
    best = jnp.full(directions.shape[1:], _NOTHING)
    for shape, low, high in _SHAPES:

        def meet(best: Array, solid: tuple[Array, Array, Array], shape=shape) -> tuple[Array, None]:
            matrix, start, number = solid
            entry, leave = shape(start, [dot(row, directions) for row in matrix])
            entry = jnp.where((entry < leave) & (entry > 1e-4), entry, jnp.inf)
            return jnp.minimum(best, entry.view(jnp.int32) & ~_NUMBER | number), None

        solid = matrix[low:high], start[low:high], numbers[low:high]
        at_once = 8 if wide() else 4 if low == 0 else 1
        best, _ = jax.lax.scan(meet, best, solid, unroll=at_once)
    return best


def _unit_from_world(solids: Solids, origin: Array) -> tuple[Array, Array]:
    """Per solid the map of directions into its unit shape, and the origin in there."""
    matrix = jnp.swapaxes(solids.world_from_solid, 1, 2) / solids.half[:, :, None]
    return matrix, jnp.einsum("nij,nj->ni", matrix, origin - solids.centre)


def _cube(start: Vector, slope: Vector) -> tuple[Array, Array]:
    """Where a line enters and leaves the cube -1..1."""
    inverse = [1 / jnp.where(jnp.abs(x) < 1e-9, 1e-9, x) for x in slope]
    first = [(-1 - x) * i for x, i in zip(start, inverse, strict=True)]
    second = [(1 - x) * i for x, i in zip(start, inverse, strict=True)]
    near = [jnp.minimum(a, b) for a, b in zip(first, second, strict=True)]
    far = [jnp.maximum(a, b) for a, b in zip(first, second, strict=True)]
    return reduce(jnp.maximum, near), reduce(jnp.minimum, far)


def _ball(start: Vector, slope: Vector) -> tuple[Array, Array]:
    """Where a line enters and leaves the unit ball; infinite if it misses."""
    square, middle = dot(slope, slope), dot(start, slope)
    rest = middle**2 - square * (dot(start, start) - 1)
    root = jnp.sqrt(jnp.maximum(rest, 0.0))
    return jnp.where(rest > 0, (-middle - root) / square, jnp.inf), (-middle + root) / square


def _cylinder(start: Vector, slope: Vector) -> tuple[Array, Array]:
    """Where a line enters and leaves the upright cylinder of radius 1 and height -1..1."""
    square = jnp.maximum(slope[0] ** 2 + slope[1] ** 2, 1e-12)
    middle = start[0] * slope[0] + start[1] * slope[1]
    rest = middle**2 - square * (start[0] ** 2 + start[1] ** 2 - 1)
    root = jnp.sqrt(jnp.maximum(rest, 0.0))
    inverse = 1 / jnp.where(jnp.abs(slope[2]) < 1e-9, 1e-9, slope[2])
    a, b = (-1 - start[2]) * inverse, (1 - start[2]) * inverse
    entry = jnp.maximum((-middle - root) / square, jnp.minimum(a, b))
    leave = jnp.minimum((-middle + root) / square, jnp.maximum(a, b))
    return jnp.where(rest > 0, entry, jnp.inf), leave


_SHAPES = (
    (_cube, 0, BOXES),
    (_ball, BOXES, BOXES + BALLS),
    (_cylinder, BOXES + BALLS, None),
)


def dot(a: Vector, b: Vector) -> Float[Array, "*p"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def times(matrix: Float[Array, "3 3 _"], x: Float[Array, "3 p"]) -> Float[Array, "3 p"]:
    return jnp.stack([dot(row, x) for row in matrix])
