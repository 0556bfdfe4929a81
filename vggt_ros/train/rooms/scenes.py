# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic furnished rooms as a function of a random key, the same on every device.

A room is a box seen from inside plus a fixed number of solids: boxes, then ellipsoids, then
upright cylinders, each a unit shape that is scaled, rotated and placed.  Solids that a room does
not use lie below its floor: all rooms have the same array shapes, and a batch is one `vmap`.
World axes: x and y along the walls, z up, origin in the middle of the floor, metres.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vggt_ros.train.rooms import materials
from vggt_ros.train.rooms.furniture import PARTS, PIECES, sample_furniture
from vggt_ros.train.rooms.materials import Material, indices
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.solids import Solids, about_z, removed, static

T = TypeVar("T", "Solids", Material)


BOXES, BALLS, CYLINDERS = PIECES * PARTS + 8 + 1 + 4 + 5 + 3, 3 + 1 + 1, 3 + 2 + 2 + 1
# Groups of solids that are removed together (an ornament with the furniture that it stands on), in
# the order of `sample_world`.
_GROUPS = np.concatenate([
    np.repeat(np.arange(PIECES), PARTS), np.arange(7, 25), [0, 1, 2],
    [25, 26, 27, 3, 28], [29, 30, 31, 4, 5, 32, 33, 28],
])  # fmt: skip


@jax.tree_util.register_static
@dataclass(frozen=True)
class Layout:
    """How many of a world's solids are of which shape, in this order: known while tracing."""

    boxes: int
    balls: int  # cylinders follow
    groups: tuple[int, ...]  # of each solid: those of one group are removed together


ROOM = Layout(BOXES, BALLS, tuple(_GROUPS.tolist()))


class Surroundings(NamedTuple):
    """What only varied scenes have: a sky, fog, and finer properties of surfaces."""

    is_open: Float[Array, ""]  # 1: sky instead of walls and ceiling
    horizon: Float[Array, "3"]  # colour of the sky there and of the fog, linear RGB
    zenith: Float[Array, "3"]
    fog: Float[Array, ""]  # extinction, 1 / m
    zoom: Float[Array, "m"]  # factor on the frequencies of a surface's pattern
    shine: Float[Array, "m"]  # strength of highlights
    gloss: Float[Array, "m"]  # share of the light that a surface mirrors, seen straight on


class World(NamedTuple):
    """One furnished room.  Rows 0, 1, 2 of `paint` are floor, walls, ceiling; solids follow."""

    room: Float[Array, "3"]  # its size, metres
    solids: Solids
    paint: Material
    lamps: Float[Array, "l 3"]  # positions
    power: Float[Array, "l 3"]  # linear RGB
    ambient: Float[Array, "3"]  # linear RGB
    layout: Layout = ROOM
    surroundings: Surroundings | None = None


def sample_world(key: PRNGKeyArray) -> World:
    """A room of 5-9 by 4-7 m with furniture, posters, windows, lamps, clutter, moving things."""
    random = RandomStream(key, 1400)
    room = random.between(jnp.array([5.0, 4.0, 2.4]), jnp.array([9.0, 7.0, 3.2]))
    furniture = sample_furniture(random, room)
    panels, panel_kinds = _wall_panels(random, room)
    clutter, clutter_kinds = _clutter(random, room)
    ornaments, ornament_kinds = _ornaments(random, furniture.tops)
    lamps, fixtures, plant = _lamps(random, room), _fixtures(random, room), _plant(random, room)
    rows = [
        furniture.solids, panels, fixtures, _rows(clutter, 0, 5), _rows(ornaments, 0, 3),
        _rows(clutter, 5, 8), _rows(ornaments, 3, 4), _rows(plant, 0, 1),
        _rows(clutter, 8, 11), _rows(ornaments, 4, 6), lamps, _rows(plant, 1, 2),
    ]  # fmt: skip
    kinds = [
        panel_kinds, indices("rug", *["painted"] * 4), clutter_kinds[:5], ornament_kinds[:3],
        clutter_kinds[5:8], ornament_kinds[3:4], indices("leaves"),
        clutter_kinds[8:11], ornament_kinds[4:6], indices("lamp", "lamp", "painted"),
    ]  # fmt: skip
    shell_paint = materials.sample(random, jnp.stack([random.choice(names) for names in _SHELL]))
    rest_paint = materials.sample(random, jnp.concatenate(kinds))
    warm, cool = jnp.array([1.0, 0.95, 0.86]), jnp.array([0.95, 1.0, 1.05])
    share, power = random(low=0.3, high=0.7), random(low=2.5, high=5.0) * warm
    return World(
        room=room,
        solids=_concatenated(rows),
        paint=_concatenated([shell_paint, furniture.paint, rest_paint]),
        lamps=lamps.centre - jnp.array([0.0, 0.0, 0.12]),
        power=jnp.stack([share * power, (1 - share) * power]),
        ambient=random(low=0.12, high=0.28) * cool,
    )


_SHELL = (
    indices("planks", "planks", "tiles", "checkered", "carpet", "panels"),
    indices("plaster", "plaster", "wallpaper", "bricks", "panels", "painted"),
    indices("plaster", "painted", "plaster"),
)


def cleared(
    world: World, path: Float[Array, "s 3"], clearance: float | Float[Array, ""] = 0.6
) -> World:
    """The room without the objects within `clearance` metres of a camera `path` (m)."""
    solids = world.solids
    offset = path[:, None] - solids.centre
    local = jnp.einsum("nji,snj->sni", solids.world_from_solid, offset)
    outside = jnp.maximum(jnp.abs(local) - solids.half - jnp.abs(solids.swing), 0.0)
    hit = jnp.linalg.norm(outside, axis=-1).min(axis=0) < clearance
    groups = np.array(world.layout.groups)
    gone = jax.ops.segment_max(hit.astype(jnp.int32), groups, num_segments=max(groups) + 1)
    gone = gone[groups] > 0
    return world._replace(solids=removed(solids, gone))


def _wall_panels(random: RandomStream, room: Array) -> tuple[Solids, Int[Array, "8"]]:
    """Two thin boxes on every wall: posters, windows, doors."""
    names = ("poster", "poster", "poster", "daylight", "door")
    pick = random.integers(len(names), 8)
    low = jnp.array([[0.5, 0.4], [0.4, 0.6], [0.8, 0.6], [1.1, 1.0], [0.85, 2.0]])[pick]
    high = jnp.array([[1.2, 0.9], [0.7, 1.0], [1.8, 1.2], [1.9, 1.4], [0.95, 2.1]])[pick]
    size = low + (high - low) * random(8, 2)
    height = jnp.array([1.55, 1.55, 1.5, 1.5, 0.0])[pick]
    height = jnp.where(pick == 4, size[:, 1] / 2, height)
    height += jnp.where(pick < 3, 0.2, 0.0) * (random(8) - 0.5)
    yaw = jnp.repeat(jnp.array([0.0, jnp.pi, -jnp.pi / 2, jnp.pi / 2]), 2)
    wall = jnp.array([1, 1, 1, 1, 0, 0, 0, 0])
    side = jnp.tile(jnp.array([-0.25, 0.25]), 4) + 0.1 * (random(8) - 0.5)
    place = jnp.stack([side * (room[1 - wall] - 0.8), -room[wall] / 2, height], -1)
    rotation = about_z(yaw)
    half = jnp.stack([size[:, 0] / 2, jnp.full(8, 0.025), size[:, 1] / 2], -1)
    solids = static(rotation, jnp.einsum("nij,nj->ni", rotation, place), half)
    gone = random(8) > 0.85
    return removed(solids, gone), jnp.asarray(indices(*names))[pick]


def _fixtures(random: RandomStream, room: Array) -> Solids:
    """A rug, and the skirting boards of the four walls."""
    size = random.between(jnp.array([0.7, 0.5]), jnp.array([1.6, 1.1]))
    place = random(2, low=-0.2, high=0.2) * room[:2]
    tall = random(low=0.04, high=0.09)
    x, y = room[0] / 2, room[1] / 2
    zero, thin = jnp.float32(0.0), jnp.float32(0.012)
    centre = [(*place, zero), (zero, y, tall), (zero, -y, tall), (x, zero, tall), (-x, zero, tall)]
    half = [(*size, thin), (x, thin, tall), (x, thin, tall), (thin, y, tall), (thin, y, tall)]
    return static(about_z(jnp.zeros(5)), jnp.array(centre), jnp.array(half))


def _clutter(random: RandomStream, room: Array) -> tuple[Solids, Int[Array, "11"]]:
    """Five boxes, three balls, three cylinders on the floor; the first box and ball may move."""
    low = jnp.array([[0.08, 0.08, 0.06]] * 5 + [[0.1] * 3] * 3 + [[0.1, 0.1, 0.12]] * 3)
    high = jnp.array([[0.35, 0.3, 0.35]] * 5 + [[0.3] * 3] * 3 + [[0.22, 0.22, 0.4]] * 3)
    half = low + (high - low) * random(11, 3)
    half = half.at[5:8].set(half[5:8, :1]).at[8:, 1].set(half[8:, 0])
    place = random(11, 2, low=-0.5, high=0.5) * (room[:2] - 0.9)
    yaw = random(11, high=2 * jnp.pi)
    moves = jnp.zeros(11).at[jnp.array([0, 5])].set(1.0)
    moves *= random(11) < 0.5
    swing = random(11, 2, low=-0.8, high=0.8) * moves[:, None]
    swing = jnp.pad(swing, ((0, 0), (0, 1)))
    oscillation = random.between(jnp.tile(jnp.array([0.3, 0.0]), (11, 1)), jnp.array([2.0, 6.28]))
    centre = jnp.concatenate([place, half[:, 2:]], axis=-1)
    solids = Solids(about_z(yaw), centre, half, swing, oscillation)
    gone = random(11) > 0.8
    names = ("painted", "cloth", "wood", "poster", "spines", "checkered", "wallpaper", "bricks")
    pick = random.integers(len(names), 11)
    return removed(solids, gone), jnp.asarray(indices(*names))[pick]


def _ornaments(random: RandomStream, tops: Float[Array, "k 3"]) -> tuple[Solids, Int[Array, "6"]]:
    """Three boxes, a ball and two cylinders on top of the furniture along the walls."""
    low = jnp.array([[0.06, 0.05, 0.05]] * 3 + [[0.08] * 3] + [[0.05, 0.05, 0.1]] * 2)
    high = jnp.array([[0.16, 0.12, 0.22]] * 3 + [[0.15] * 3] + [[0.1, 0.1, 0.25]] * 2)
    half = low + (high - low) * random(6, 3)
    half = half.at[3].set(half[3, 0]).at[4:, 1].set(half[4:, 0])
    top = tops[:6]
    shift = random(6, 2, low=-0.12, high=0.12)
    centre = jnp.concatenate([top[:, :2] + shift, top[:, 2:3] + half[:, 2:]], -1)
    solids = static(about_z(random(6, high=6.28)), centre, half)
    names = ("painted", "wood", "poster", "cloth", "bricks", "spines")
    pick = random.integers(len(names), 6)
    return solids, jnp.asarray(indices(*names))[pick]


def _lamps(random: RandomStream, room: Array) -> Solids:
    """Two flat ceiling lamps."""
    radius = random(low=0.16, high=0.32)
    spread = random(low=0.15, high=0.3)
    ends = jnp.array([[-1.0, -0.35], [1.0, 0.35]]) * spread * room[:2]
    centre = jnp.concatenate([ends, jnp.full((2, 1), room[2] - 0.04)], -1)
    half = jnp.broadcast_to(jnp.stack([radius, radius, jnp.float32(0.05)]), (2, 3))
    return static(about_z(jnp.zeros(2)), centre, half)


def _plant(random: RandomStream, room: Array) -> Solids:
    """A pot in a corner with an ellipsoid of leaves on it."""
    corner = jnp.where(random(2) < 0.5, 1.0, -1.0)
    place = corner * (room[:2] / 2 - 0.4)
    pot = random.between(jnp.array([0.14, 0.14, 0.15]), jnp.array([0.2, 0.2, 0.3]))
    leaves = jnp.array([0.32, 0.32, 0.45])
    pot = pot.at[1].set(pot[0])
    centre = jnp.stack([
        jnp.append(place, 2 * pot[2] + 0.85 * leaves[2]), jnp.append(place, pot[2])
    ])  # fmt: skip
    return static(about_z(jnp.zeros(2)), centre, jnp.stack([leaves, pot]))


def _rows(solids: Solids, low: int, high: int) -> Solids:
    return jax.tree.map(lambda a: a[low:high], solids)


def _concatenated(parts: list[T]) -> T:
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
