# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ray casting: the first surface along each of many rays from one origin, exact.

Vectors are component-major ([3 p]) and solids are scanned one by one: long elementwise loops over
rays, forty times faster on a CPU than a reduction over a [solids, rays] table.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vggt_ros.train.rooms.scenes import Layout, Solids, World

_INDEX = (1 << 7) - 1  # low bits of a distance that hold the solid's index during the minimum
_MISS = np.float32(np.inf).view(np.int32)
UP = ((0.0,), (0.0,), (1.0,))

# Three components that broadcast: an array, or in hot loops a list; lists fuse, stacks do not.
Vector = Array | Sequence[Array]


def prefers_large_kernels() -> bool:
    """Whether few large kernels are faster than many small ones on the default device.

    True on an accelerator, which launches kernels in every iteration of a loop and waits for each;
    false on a CPU, where large arrays leave the cache.
    """
    return jax.default_backend() != "cpu"


class Hit(NamedTuple):
    """The first surface along each ray."""

    t: Float[Array, "p"]  # distance in lengths of the ray's direction
    surface: Int[Array, "p"]  # 0, 1, 2: floor, walls, ceiling; from 3 on the solids


def cast(world: World, origin: Float[Array, "3"], directions: Float[Array, "3 p"]) -> Hit:
    """The first surface along each ray from one origin inside the room (metres)."""
    bits = _nearest(world.solids, world.layout, origin, directions)
    index = jnp.minimum(bits & _INDEX, world.solids.half.shape[0] - 1)
    # The minimum dropped low bits of the distance: intersect the nearest solid again, exactly.
    matrix, start = _unit_from_world(world.solids, origin)
    slope = times(jnp.moveaxis(matrix, 0, -1)[..., index], directions)
    start = start.T[:, index]
    boxes, round_ = world.layout.boxes, world.layout.boxes + world.layout.balls
    entry = jnp.where(index < boxes, _cube(start, slope)[0], _ball(start, slope)[0])
    entry = jnp.where(index < round_, entry, _cylinder(start, slope)[0])
    entry = jnp.where(bits < _MISS, entry, jnp.inf)

    half = (world.room / 2)[:, None]
    slope = jnp.where(jnp.abs(directions) < 1e-9, 1e-9, directions)
    leave = (jnp.sign(slope) * half - origin[:, None] + jnp.array(UP) * half) / slope
    leave_t = leave.min(axis=0)
    shell = jnp.where(leave[2] > leave_t, 1, jnp.where(slope[2] > 0, 2, 0))
    ahead = entry < leave_t
    return Hit(jnp.where(ahead, entry, leave_t), jnp.where(ahead, index + 3, shell))


def _nearest(solids: Solids, layout: Layout, origin: Array, directions: Array) -> Int[Array, "p"]:
    """Bits of the nearest entry distance, the solid's index in the lowest: one integer minimum."""
    matrix, start = _unit_from_world(solids, origin)
    indices = jnp.arange(matrix.shape[0], dtype=jnp.int32)
    best = jnp.full(directions.shape[1:], _MISS)
    first, second = layout.boxes, layout.boxes + layout.balls
    for shape, low, high in ((_cube, 0, first), (_ball, first, second), (_cylinder, second, None)):

        def closer(best: Array, solid: tuple[Array, ...], shape=shape) -> tuple[Array, None]:
            matrix, start, index = solid
            entry, leave = shape(start, [dot(row, directions) for row in matrix])
            entry = jnp.where((entry < leave) & (entry > 1e-4), entry, jnp.inf)
            return jnp.minimum(best, entry.view(jnp.int32) & ~_INDEX | index), None

        solid = matrix[low:high], start[low:high], indices[low:high]
        unroll = 8 if prefers_large_kernels() else 4 if low == 0 else 1
        best, _ = jax.lax.scan(closer, best, solid, unroll=unroll)
    return best


def _unit_from_world(solids: Solids, origin: Array) -> tuple[Array, Array]:
    """Per solid the linear map of directions into its unit frame, and the origin in that frame."""
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


def dot(a: Vector, b: Vector) -> Float[Array, "*p"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def times(matrix: Float[Array, "3 3 _"], x: Float[Array, "3 p"]) -> Float[Array, "3 p"]:
    return jnp.stack([dot(row, x) for row in matrix])
