# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Furnished rooms from a random key: endless, the same on every device, nothing to download.

A room is a box seen from inside plus a fixed number of solids: boxes, then ellipsoids, then
upright cylinders, each a unit shape that was scaled, turned and moved.  What a room does not use
lies under its floor, so every room has the same shapes and a batch of them is one `vmap`.
World axes: x and y along the walls, z up, origin in the middle of the floor, metres.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vggt_ros.train.rooms import materials
from vggt_ros.train.rooms.materials import Material, indices
from vggt_ros.train.rooms.sampling import Dice

T = TypeVar("T", "Solids", Material)


class Solids(NamedTuple):
    """Unit shapes (cube, ball, upright cylinder; all spanning -1..1) placed in the world."""

    world_from_solid: Float[Array, "n 3 3"]  # a rotation
    centre: Float[Array, "n 3"]
    half: Float[Array, "n 3"]
    swing: Float[Array, "n 3"]  # moving things travel to and fro by this much
    pace: Float[Array, "n 2"]  # rad/s, and the phase at time 0


class World(NamedTuple):
    """One furnished room.  Rows 0, 1, 2 of `paint` are floor, walls, ceiling; solids follow."""

    room: Float[Array, "3"]
    solids: Solids
    paint: Material
    lamps: Float[Array, "l 3"]
    power: Float[Array, "l 3"]
    ambient: Float[Array, "3"]


# Furniture as boxes: centre x y z, half extents x y z, material.  x and y run -1..1 over width and
# depth (the back is -1), z runs 0..1 over the height.  Materials: body, soft, books, picture.
_LEGS = tuple((x, y, 0.46, 0.05, 0.07, 0.46, 0) for x in (-0.92, 0.92) for y in (-0.9, 0.9))
_FURNITURE = {  # name: (width, depth, height ranges), boxes
    "table": (((1.0, 1.8), (0.6, 0.9), (0.65, 0.8)), ((0, 0, 0.96, 1, 1, 0.04, 0), *_LEGS, (0, 0, 0.87, 0.88, 0.8, 0.06, 0))),
    "chair": (((0.42, 0.5), (0.42, 0.5), (0.85, 1.0)), ((0, 0, 0.49, 1, 1, 0.04, 1), (0, -0.92, 0.75, 1, 0.08, 0.25, 1), *((x, y, 0.23, h, w, 0.23, m) for x, y, _, h, w, _, m in _LEGS))),
    "shelf": (((0.8, 1.4), (0.28, 0.35), (1.6, 2.1)), ((-0.97, 0, 0.5, 0.03, 1, 0.5, 0), (0.97, 0, 0.5, 0.03, 1, 0.5, 0), *((0, 0, z, 0.97, 1, 0.013, 0) for z in (0.03, 0.35, 0.67, 0.985)), (-0.25, -0.1, 0.16, 0.65, 0.75, 0.11, 2), (0.15, -0.1, 0.48, 0.75, 0.75, 0.11, 2))),
    "sofa": (((1.6, 2.2), (0.8, 0.95), (0.75, 0.9)), ((0, 0, 0.22, 1, 1, 0.22, 1), (0, -0.75, 0.6, 1, 0.25, 0.4, 1), (-0.9, 0, 0.35, 0.1, 1, 0.35, 1), (0.9, 0, 0.35, 0.1, 1, 0.35, 1), (-0.4, 0.22, 0.5, 0.385, 0.73, 0.1, 1), (0.4, 0.22, 0.5, 0.385, 0.73, 0.1, 1), (-0.55, -0.35, 0.75, 0.17, 0.16, 0.18, 3))),
    "bed": (((1.9, 2.1), (0.9, 1.3), (0.6, 0.95)), ((0, 0, 0.2, 1, 1, 0.2, 0), (0, 0, 0.5, 0.98, 0.96, 0.14, 1), (-0.97, 0, 0.5, 0.03, 1, 0.5, 0), (-0.72, -0.4, 0.69, 0.2, 0.36, 0.07, 3), (-0.72, 0.45, 0.69, 0.2, 0.36, 0.07, 3), (0.3, 0, 0.55, 0.7, 1.02, 0.13, 1))),
    "cabinet": (((0.8, 1.4), (0.4, 0.55), (0.8, 2.1)), ((0, 0, 0.52, 1, 0.94, 0.46, 0), (0, 0, 0.03, 0.95, 0.85, 0.03, 0), (-0.5, 0.97, 0.52, 0.47, 0.03, 0.44, 0), (0.5, 0.97, 0.52, 0.47, 0.03, 0.44, 0), (0, 0, 0.99, 1.03, 1.03, 0.012, 0), (-0.1, 1.05, 0.55, 0.012, 0.04, 0.06, 2), (0.1, 1.05, 0.55, 0.012, 0.04, 0.06, 2))),
    "desk": (((1.2, 1.6), (0.6, 0.75), (1.1, 1.25)), ((0, 0, 0.61, 1, 1, 0.02, 0), (-0.95, 0, 0.3, 0.03, 0.95, 0.3, 0), (0.72, 0, 0.3, 0.26, 0.9, 0.29, 0), (0.72, 0.92, 0.15, 0.23, 0.04, 0.11, 1), (0.72, 0.92, 0.43, 0.23, 0.04, 0.13, 1), (-0.15, -0.4, 0.83, 0.4, 0.04, 0.17, 3), (-0.15, -0.4, 0.67, 0.06, 0.06, 0.06, 1), (-0.15, 0.3, 0.635, 0.3, 0.22, 0.008, 1))),
}  # fmt: skip
_PARTS = 8
_SIZES = np.array([sizes for sizes, _ in _FURNITURE.values()], np.float32)
_BOXES = np.array(
    [[*boxes, *[(0, 0, 0.1, 0, 0, 0, 0)] * (_PARTS - len(boxes))] for _, boxes in _FURNITURE.values()],
    np.float32,
)  # fmt: skip

_SLOTS = 6  # pieces of furniture along the walls; one more stands in the room
_WALL_YAW = np.array([0.0, 0.0, np.pi, np.pi, -np.pi / 2, np.pi / 2], np.float32)
_WALL_SIDE = np.array([-0.5, 0.5, -0.5, 0.5, 0.0, 0.0], np.float32)
BOXES, BALLS, CYLINDERS = (_SLOTS + 1) * _PARTS + 8 + 1 + 4 + 5 + 3, 3 + 1 + 1, 3 + 2 + 2 + 1
# Solids that vanish together, in the order of `sample_world`: an ornament goes with its furniture.
_GROUPS = np.concatenate([
    np.repeat(np.arange(7), _PARTS), np.arange(7, 25), [0, 1, 2],
    [25, 26, 27, 3, 28], [29, 30, 31, 4, 5, 32, 33, 28],
])  # fmt: skip


def sample_world(key: PRNGKeyArray) -> World:
    """A room of 5-9 by 4-7 m with furniture, pictures, a window, lamps, clutter, moving things."""
    dice = Dice(key, 1400)
    room = dice.between(jnp.array([5.0, 4.0, 2.4]), jnp.array([9.0, 7.0, 3.2]))
    furniture, tops, furniture_paint = _furniture(dice, room)
    pictures, picture_kinds = _pictures(dice, room)
    clutter, clutter_kinds = _clutter(dice, room)
    ornaments, ornament_kinds = _ornaments(dice, tops)
    lamps, fixtures, plant = _lamps(dice, room), _fixtures(dice, room), _plant(dice, room)
    rows = [
        furniture, pictures, fixtures, _rows(clutter, 0, 5), _rows(ornaments, 0, 3),
        _rows(clutter, 5, 8), _rows(ornaments, 3, 4), _rows(plant, 0, 1),
        _rows(clutter, 8, 11), _rows(ornaments, 4, 6), lamps, _rows(plant, 1, 2),
    ]  # fmt: skip
    kinds = [
        picture_kinds, indices("rug", *["painted"] * 4), clutter_kinds[:5], ornament_kinds[:3],
        clutter_kinds[5:8], ornament_kinds[3:4], indices("leaves"),
        clutter_kinds[8:11], ornament_kinds[4:6], indices("lamp", "lamp", "painted"),
    ]  # fmt: skip
    shell_paint = materials.sample(dice, jnp.stack([dice.pick(names) for names in _SHELL]))
    rest_paint = materials.sample(dice, jnp.concatenate(kinds))
    warm, cool = jnp.array([1.0, 0.95, 0.86]), jnp.array([0.95, 1.0, 1.05])
    share, power = dice(low=0.3, high=0.7), dice(low=2.5, high=5.0) * warm
    return World(
        room=room,
        solids=_stacked(rows),
        paint=_stacked([shell_paint, furniture_paint, rest_paint]),
        lamps=lamps.centre - jnp.array([0.0, 0.0, 0.12]),
        power=jnp.stack([share * power, (1 - share) * power]),
        ambient=dice(low=0.12, high=0.28) * cool,
    )


_SHELL = (
    indices("planks", "planks", "tiles", "checkered", "carpet", "panels"),
    indices("plaster", "plaster", "wallpaper", "bricks", "panels", "painted"),
    indices("plaster", "painted", "plaster"),
)


def at(solids: Solids, seconds: Float[Array, ""]) -> Solids:
    """The solids where they are at that time."""
    beat = jnp.sin(solids.pace[:, 0] * seconds + solids.pace[:, 1])
    return solids._replace(centre=solids.centre + solids.swing * beat[:, None])


def cleared(world: World, path: Float[Array, "s 3"], clearance: float = 0.6) -> World:
    """The room without the things that a camera on `path` would come too near to."""
    solids = world.solids
    offset = path[:, None] - solids.centre
    local = jnp.einsum("nji,snj->sni", solids.world_from_solid, offset)
    outside = jnp.maximum(jnp.abs(local) - solids.half - jnp.abs(solids.swing), 0.0)
    hit = jnp.linalg.norm(outside, axis=-1).min(axis=0) < clearance
    gone = jax.ops.segment_max(hit.astype(jnp.int32), _GROUPS, num_segments=34)[_GROUPS] > 0
    return world._replace(solids=_sunk(solids, gone))


def _furniture(dice: Dice, room: Array) -> tuple[Solids, Array, Material]:
    """Furniture along the walls and one piece in the room; also tops to put things on."""
    count = _SLOTS + 1
    kind = dice.below(len(_FURNITURE), count)
    low, high = jnp.asarray(_SIZES[..., 0])[kind], jnp.asarray(_SIZES[..., 1])[kind]
    size = low + (high - low) * dice(count, 3)
    wall = jnp.array([1, 1, 1, 1, 0, 0])
    length, reach = room[1 - wall], room[wall] / 2
    jitter = dice(_SLOTS, low=-0.1, high=0.1)
    along = (_WALL_SIDE * 0.5 + jitter) * (length - 1.2)
    back = reach - size[:_SLOTS, 1] / 2 - 0.03
    yaw = jnp.asarray(_WALL_YAW)
    place = jnp.stack([along, -back], -1)
    place = jnp.einsum("nij,nj->ni", _turn(yaw)[:, :2, :2], place)
    yaw = jnp.append(yaw, dice(high=2 * jnp.pi))
    middle = dice(2, low=-0.3, high=0.3) * (room[:2] - 2.0)
    place = jnp.concatenate([place, middle[None]])

    boxes = jnp.asarray(_BOXES)[kind]
    scale = jnp.stack([size[:, 0] / 2, size[:, 1] / 2, size[:, 2]], -1)[:, None]
    rotation = _turn(yaw)
    centre = jnp.einsum("nij,nkj->nki", rotation, boxes[..., :3] * scale)
    centre += jnp.pad(place, ((0, 0), (0, 1)))[:, None]
    half = boxes[..., 3:6] * scale
    absent = dice(count) > 0.88
    gone = jnp.repeat(absent, _PARTS) | (half.reshape(-1, 3).min(axis=-1) <= 0)
    solids = _still(
        jnp.repeat(rotation, _PARTS, axis=0), centre.reshape(-1, 3), half.reshape(-1, 3)
    )
    top = jnp.array([0.99, 0.53, 0.995, 0.6, 0.68, 1.0, 0.63])[kind] * size[:, 2]
    top = jnp.where(absent, -20.0, top)
    tops = jnp.column_stack([place, top])

    looks = _looks(dice, count)
    part = jnp.arange(count)[:, None] * 4 + boxes[..., 6].astype(jnp.int32)
    return _sunk(solids, gone), tops, jax.tree.map(lambda a: a[part.reshape(-1)], looks)


def _looks(dice: Dice, count: int) -> Material:
    """Four materials for each piece of furniture: body, soft parts, books, pictures."""
    body = dice.pick(indices("wood", "wood", "painted", "panels"), count)
    soft = dice.pick(indices("cloth", "cloth", "painted"), count)
    rest = jnp.broadcast_to(indices("spines", "poster"), (count, 2))
    kinds = jnp.concatenate([body[:, None], soft[:, None], rest], axis=-1)
    return materials.sample(dice, kinds.reshape(-1))


def _pictures(dice: Dice, room: Array) -> tuple[Solids, Int[Array, "8"]]:
    """Two thin boxes on every wall: posters, windows, doors."""
    names = ("poster", "poster", "poster", "daylight", "door")
    pick = dice.below(len(names), 8)
    low = jnp.array([[0.5, 0.4], [0.4, 0.6], [0.8, 0.6], [1.1, 1.0], [0.85, 2.0]])[pick]
    high = jnp.array([[1.2, 0.9], [0.7, 1.0], [1.8, 1.2], [1.9, 1.4], [0.95, 2.1]])[pick]
    size = low + (high - low) * dice(8, 2)
    height = jnp.array([1.55, 1.55, 1.5, 1.5, 0.0])[pick]
    height = jnp.where(pick == 4, size[:, 1] / 2, height)
    height += jnp.where(pick < 3, 0.2, 0.0) * (dice(8) - 0.5)
    yaw = jnp.repeat(jnp.array([0.0, jnp.pi, -jnp.pi / 2, jnp.pi / 2]), 2)
    wall = jnp.array([1, 1, 1, 1, 0, 0, 0, 0])
    side = jnp.tile(jnp.array([-0.25, 0.25]), 4) + 0.1 * (dice(8) - 0.5)
    place = jnp.stack([side * (room[1 - wall] - 0.8), -room[wall] / 2, height], -1)
    rotation = _turn(yaw)
    half = jnp.stack([size[:, 0] / 2, jnp.full(8, 0.025), size[:, 1] / 2], -1)
    solids = _still(rotation, jnp.einsum("nij,nj->ni", rotation, place), half)
    gone = dice(8) > 0.85
    return _sunk(solids, gone), jnp.asarray(indices(*names))[pick]


def _fixtures(dice: Dice, room: Array) -> Solids:
    """A rug, and the skirting boards of the four walls."""
    size = dice.between(jnp.array([0.7, 0.5]), jnp.array([1.6, 1.1]))
    place = dice(2, low=-0.2, high=0.2) * room[:2]
    tall = dice(low=0.04, high=0.09)
    x, y = room[0] / 2, room[1] / 2
    zero, thin = jnp.float32(0.0), jnp.float32(0.012)
    centre = [(*place, zero), (zero, y, tall), (zero, -y, tall), (x, zero, tall), (-x, zero, tall)]
    half = [(*size, thin), (x, thin, tall), (x, thin, tall), (thin, y, tall), (thin, y, tall)]
    return _still(_turn(jnp.zeros(5)), jnp.array(centre), jnp.array(half))


def _clutter(dice: Dice, room: Array) -> tuple[Solids, Int[Array, "11"]]:
    """Five boxes, three balls, three cylinders on the floor; the first box and ball may move."""
    low = jnp.array([[0.08, 0.08, 0.06]] * 5 + [[0.1] * 3] * 3 + [[0.1, 0.1, 0.12]] * 3)
    high = jnp.array([[0.35, 0.3, 0.35]] * 5 + [[0.3] * 3] * 3 + [[0.22, 0.22, 0.4]] * 3)
    half = low + (high - low) * dice(11, 3)
    half = half.at[5:8].set(half[5:8, :1]).at[8:, 1].set(half[8:, 0])
    place = dice(11, 2, low=-0.5, high=0.5) * (room[:2] - 0.9)
    yaw = dice(11, high=2 * jnp.pi)
    moves = jnp.zeros(11).at[jnp.array([0, 5])].set(1.0)
    moves *= dice(11) < 0.5
    swing = dice(11, 2, low=-0.8, high=0.8) * moves[:, None]
    swing = jnp.pad(swing, ((0, 0), (0, 1)))
    pace = dice.between(jnp.tile(jnp.array([0.3, 0.0]), (11, 1)), jnp.array([2.0, 6.28]))
    centre = jnp.concatenate([place, half[:, 2:]], axis=-1)
    solids = Solids(_turn(yaw), centre, half, swing, pace)
    gone = dice(11) > 0.8
    names = ("painted", "cloth", "wood", "poster", "spines", "checkered", "wallpaper", "bricks")
    pick = dice.below(len(names), 11)
    return _sunk(solids, gone), jnp.asarray(indices(*names))[pick]


def _ornaments(dice: Dice, tops: Float[Array, "k 3"]) -> tuple[Solids, Int[Array, "6"]]:
    """Three boxes, a ball and two cylinders on top of the furniture along the walls."""
    low = jnp.array([[0.06, 0.05, 0.05]] * 3 + [[0.08] * 3] + [[0.05, 0.05, 0.1]] * 2)
    high = jnp.array([[0.16, 0.12, 0.22]] * 3 + [[0.15] * 3] + [[0.1, 0.1, 0.25]] * 2)
    half = low + (high - low) * dice(6, 3)
    half = half.at[3].set(half[3, 0]).at[4:, 1].set(half[4:, 0])
    top = tops[:6]
    shift = dice(6, 2, low=-0.12, high=0.12)
    centre = jnp.concatenate([top[:, :2] + shift, top[:, 2:3] + half[:, 2:]], -1)
    solids = _still(_turn(dice(6, high=6.28)), centre, half)
    names = ("painted", "wood", "poster", "cloth", "bricks", "spines")
    pick = dice.below(len(names), 6)
    return solids, jnp.asarray(indices(*names))[pick]


def _lamps(dice: Dice, room: Array) -> Solids:
    """Two flat ceiling lamps."""
    radius = dice(low=0.16, high=0.32)
    spread = dice(low=0.15, high=0.3)
    ends = jnp.array([[-1.0, -0.35], [1.0, 0.35]]) * spread * room[:2]
    centre = jnp.concatenate([ends, jnp.full((2, 1), room[2] - 0.04)], -1)
    half = jnp.broadcast_to(jnp.stack([radius, radius, jnp.float32(0.05)]), (2, 3))
    return _still(_turn(jnp.zeros(2)), centre, half)


def _plant(dice: Dice, room: Array) -> Solids:
    """A pot in a corner with an egg of leaves on it."""
    corner = jnp.where(dice(2) < 0.5, 1.0, -1.0)
    place = corner * (room[:2] / 2 - 0.4)
    pot = dice.between(jnp.array([0.14, 0.14, 0.15]), jnp.array([0.2, 0.2, 0.3]))
    leaves = jnp.array([0.32, 0.32, 0.45])
    pot = pot.at[1].set(pot[0])
    centre = jnp.stack([
        jnp.append(place, 2 * pot[2] + 0.85 * leaves[2]), jnp.append(place, pot[2])
    ])  # fmt: skip
    return _still(_turn(jnp.zeros(2)), centre, jnp.stack([leaves, pot]))


def _still(rotation: Array, centre: Array, half: Array) -> Solids:
    nowhere = jnp.zeros_like(centre)
    return Solids(rotation, centre, half, nowhere, nowhere[:, :2])


def _sunk(solids: Solids, gone: Bool[Array, "n"]) -> Solids:
    """The solids, with those that are `gone` laid under the floor as specks."""
    under = jnp.array([0.0, 0.0, -20.0])
    return solids._replace(
        centre=jnp.where(gone[:, None], under, solids.centre),
        half=jnp.where(gone[:, None], 0.01, solids.half),
        swing=jnp.where(gone[:, None], 0.0, solids.swing),
    )


def _turn(yaw: Float[Array, "n"]) -> Float[Array, "n 3 3"]:
    """Rotations about the vertical."""
    cos, sin, zero, one = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros_like(yaw), jnp.ones_like(yaw)
    return jnp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).reshape(-1, 3, 3)


def _rows(solids: Solids, low: int, high: int) -> Solids:
    return jax.tree.map(lambda a: a[low:high], solids)


def _stacked(parts: list[T]) -> T:
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
