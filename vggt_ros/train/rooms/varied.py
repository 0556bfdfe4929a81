# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Scenes as unlike one another as boxes, balls and cylinders allow, with the view of a camera.

Open ground with hills, halls, corridors, table tops, shelves, stairs and ramps, woods, streets: a
structure of boxes, and things scattered in, on and around it.  All are a few metres large, whatever
they depict: a network never sees the unit.  As in rooms, all arrays have fixed shapes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.train.rooms.materials import sample_any
from vggt_ros.train.rooms.motions import Viewpoint
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.scenes import Layout, Surroundings, World
from vggt_ros.train.rooms.solids import Solids, about_z, removed

STRUCTURE, HILLS = 14, 5  # the first boxes, and the first balls
BOXES, BALLS, CYLINDERS = STRUCTURE + 22, HILLS + 11, 16
COUNT = BOXES + BALLS + CYLINDERS
LAYOUT = Layout(BOXES, BALLS, tuple(range(COUNT)))
SUN_AWAY = 22.0  # metres; further lamps would lose precision
THIN = 0.07  # factor on one or two sides of boards and rods
MOVING = 0.08  # share of the things that swing


class SceneKind(NamedTuple):
    """Parameters of a kind of scene: lengths in metres, ranges are (low, high)."""

    opens: Float[Array, "*k"]  # share under the sky
    room: Float[Array, "*k 3 2"]  # size of the room; that of the world, where it is open
    spread: Float[Array, "*k 2"]  # things stand within +-x, +-y
    size: Float[Array, "*k 2"]  # of their half extents
    tall: Float[Array, "*k 2"]  # of the height of cylinders, relative to that of other things
    tilted: Float[Array, "*k"]  # share of things with any orientation
    floats: Float[Array, "*k"]  # share of things that stand on nothing
    present: Float[Array, "*k 3"]  # share of boxes, balls, cylinders
    hills: Float[Array, "*k"]  # share of hills
    base: Float[Array, "*k"]  # height on which things stand
    eye: Float[Array, "*k 2"]  # height of the camera above it
    away: Float[Array, "*k 2"]  # of the camera from what it faces
    arc: Float[Array, "*k"]  # the camera stands within +- this angle of -y, radians
    back: Float[Array, "*k"]  # y of what the camera faces


_FIELD = ((60, 60), (60, 60), (40, 40))
SCENE_KINDS = {
    "ground":   (1.0, _FIELD, (5, 5), (.15, .9), (.5, 3), .35, .08, (.5, .6, .5), .9, 0., (.5, 3.5), (2.5, 6.5), 3.2, 0),
    "hall":     (0.0, ((7, 12), (7, 12), (3, 6)), (3.5, 3.5), (.12, .7), (.5, 4), .35, .20, (.5, .7, .5), 0, 0., (.4, 2.4), (1.5, 3.8), 3.2, 0),
    "corridor": (0.0, ((9, 16), (1.8, 3.2), (2.2, 3.2)), (5, .9), (.06, .3), (.5, 8), .15, .30, (.5, .3, .6), 0, 0., (.4, 1.8), (1.5, 5), 3.2, 0),
    "table":    (0.4, ((9, 12), (9, 12), (5, 7)), (1.6, 1.3), (.06, .4), (.5, 2), .25, .05, (.7, .7, .8), 0, 1., (.5, 2.8), (1.6, 3.6), 3.2, 0),
    "shelf":    (0.0, ((7, 10), (6, 8), (3.6, 4.5)), (2.4, .2), (.08, .3), (.5, 2), .15, .0, (.8, .6, .8), 0, 0., (.5, 2.6), (1.4, 4), 1.0, 1.8),
    "stairs":   (0.5, ((9, 12), (9, 12), (5, 7)), (3.5, 3), (.1, .5), (.5, 3), .20, .10, (.4, .4, .4), 0, 0., (.5, 3), (2, 4.5), 1.3, 1.0),
    "wood":     (1.0, _FIELD, (6, 6), (.10, .45), (5, 18), .10, .45, (.3, .9, 1.), .6, 0., (.4, 2.2), (2, 6), 3.2, 0),
    "street":   (1.0, _FIELD, (4, 4), (.12, .6), (1, 6), .15, .05, (.5, .3, .5), 0, 0., (.4, 4), (2, 6), 3.2, 0),
}  # fmt: skip
NAMES = tuple(SCENE_KINDS)


def sample_varied(
    key: PRNGKeyArray, kind: Int[Array, ""] | int | None = None
) -> tuple[World, Viewpoint]:
    """A scene, and where a camera stands in it; the kind (row of `SCENE_KINDS`) is drawn if not given."""
    random = RandomStream(key, 80 * COUNT + 900)
    drawn = random.integers(len(NAMES))
    number = jnp.asarray(drawn if kind is None else kind)
    row = jax.tree.map(lambda column: column[number], _table())
    is_open = (random() < row.opens).astype(jnp.float32)
    room = random.between(row.room[:, 0], row.room[:, 1])
    room = jnp.where(is_open > 0, jnp.array([60.0, 60.0, 40.0]), room)
    structures = jnp.stack([_structure(name, random) for name in NAMES])[number]
    solids = _solids(random, row, number, room, structures)
    lamps, power = _lamps(random, room, is_open)
    sky = jnp.array([0.5, 0.62, 0.8]) ** random(low=0.2, high=1.6)
    horizon = random(low=0.35, high=1.1) * sky ** random(low=0.0, high=0.8)
    foggy = random(high=0.12) * (random() < 0.25)
    world = World(
        room=room,
        solids=solids,
        paint=sample_any(random, COUNT + 3),
        lamps=lamps,
        power=power,
        ambient=random(low=0.1, high=0.6) * jnp.where(is_open > 0, sky, jnp.ones(3)),
        layout=LAYOUT,
        surroundings=Surroundings(
            is_open=is_open,
            horizon=horizon,
            zenith=horizon * sky * random(low=0.4, high=1.0),
            fog=foggy,
            zoom=2.0 ** random(COUNT + 3, low=-1.8, high=1.8),
            shine=random(COUNT + 3) ** 2 * 0.8 * (random(COUNT + 3) < 0.3),
            gloss=random(COUNT + 3) ** 2 * 0.9 * (random(COUNT + 3) < 0.12),
        ),
    )
    return world, _viewpoint(random, row, room)


def _table() -> SceneKind:
    return SceneKind(
        *(jnp.array(column, jnp.float32) for column in zip(*SCENE_KINDS.values(), strict=True))
    )


def _structure(name: str, random: RandomStream) -> Float[Array, "k 7"]:
    """Boxes of a kind of scene: centre, half extents, yaw; those with no extent are left out.

    Consumes 4 numbers a box, whatever the kind.
    """
    a, b, c, d = random(4, STRUCTURE)
    index, zero = jnp.arange(STRUCTURE), jnp.zeros(STRUCTURE)
    if name == "table":  # top, four legs, and the rest around it
        x, y = 1.5 + a[0], 1.2 + 0.8 * b[0]
        legs = jnp.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * jnp.array([x - 0.1, y - 0.1])
        top = jnp.array([[0, 0, 0.95, x, y, 0.05, 0]])
        stand = jnp.column_stack(
            [legs, *jnp.tile(jnp.array([[0.45, 0.06, 0.06, 0.45, 0.0]]), (4, 1)).T]
        )
        return jnp.concatenate([top, stand, jnp.zeros((STRUCTURE - 5, 7))])
    if name == "shelf":  # five boards, four uprights, and a back
        tall, wide = 0.55 + 0.25 * a[0], 2.6
        board = jnp.where(index < 5, 1.0, 0.0)
        upright = jnp.where((index >= 5) & (index < 9), 1.0, 0.0)
        x = upright * ((index - 6.5) / 1.5 * wide)
        z = board * (index * tall + 0.05) + upright * 2 * tall
        half = [
            board * wide + upright * 0.04,
            (board + upright) * 0.3,
            board * 0.03 + upright * 2 * tall,
        ]
        return jnp.stack([x, zero + 1.8, z, *half, zero], axis=-1)
    if name == "stairs":  # steps that rise to the back, and a wall beside them
        rise, deep, wide = 0.12 + 0.15 * a[0], 0.25 + 0.3 * b[0], 0.6 + 1.4 * c[0]
        count = jnp.where(index < 11, 1.0, 0.0)
        up = 0.5 * rise * (index + 1)
        side = jnp.where(index == 11, 1.0, 0.0)
        x = side * (wide + 0.1)
        y = count * (index * deep - 1.0) + side * 1.5
        half = [count * wide + side * 0.08, count * deep + side * 2.5, count * up + side * 1.2]
        return jnp.stack([x, y, count * up + side * 1.2, *half, zero], axis=-1)
    if name == "street":  # houses in a ring
        angle = 2 * jnp.pi * (index + 0.5 * a) / STRUCTURE
        away = 6.0 + 6.0 * b
        half = [0.8 + c, 0.8 + d, 0.8 + 3.5 * a * b]
        return jnp.stack(
            [away * jnp.cos(angle), away * jnp.sin(angle), half[2], *half, 3 * d], axis=-1
        )
    if name == "corridor":  # ribs at the walls, and beams
        place = (index // 2 - 3) * 1.6 + 0.5 * a[0]
        side = jnp.where(index % 2 == 0, 1.0, -1.0) * (0.9 + 0.5 * b[0])
        half = [0.05 + 0.25 * c, 0.05 + 0.1 * d[0] + zero, 0.3 + 1.2 * d]
        shown = (a < 0.7)[:, None]
        return jnp.stack([place, side, half[2], *half, zero], axis=-1) * shown
    return jnp.zeros((STRUCTURE, 7))


def _solids(
    random: RandomStream, row: SceneKind, number: Array, room: Array, structure: Float[Array, "k 7"]
) -> Solids:
    """The structure, hills, and things of every size: 20 numbers each at most."""
    n = COUNT
    kind = jnp.array([0] * BOXES + [1] * BALLS + [2] * CYLINDERS)
    size = row.size[0] * (row.size[1] / row.size[0]) ** random(n)
    half = size[:, None] * random(n, 3, low=0.5, high=1.4)
    half *= jnp.where((random(n, 3) < 0.18) & (kind == 0)[:, None], THIN, 1.0)
    round_ = (kind == 1) & (random(n) < 0.6)
    half = jnp.where(round_[:, None], half[:, :1], half)
    slim = size * random(n, low=0.2, high=0.8)
    high = size * row.tall[0] * (row.tall[1] / row.tall[0]) ** random(n)
    half = jnp.where((kind == 2)[:, None], jnp.stack([slim, slim, high], -1), half)

    place = random(n, 2, low=-1.0, high=1.0) * jnp.minimum(row.spread, room[:2] / 2 - 0.2)
    lift = (random(n) < row.floats) * random(n, low=0.3, high=2.2)
    level = row.base + half[:, 2] + lift
    shelf = NAMES.index("shelf")
    boards = structure[:5, 2] + 0.03
    on_board = boards[(5 * random(n)).astype(jnp.int32).clip(0, 4)] + half[:, 2]
    level = jnp.where(number == shelf, on_board, level)
    place = place.at[:, 1].add(jnp.where(number == shelf, 1.7, 0.0))
    centre = jnp.column_stack([place, level])

    turned = random(n, 4, low=-1.0) + 1e-3
    level_turn, any_turn = about_z(random(n, high=2 * jnp.pi)), rotation_from_quaternion(turned)
    tilted = (random(n) < row.tilted)[:, None, None]
    turn = jnp.where(tilted, any_turn, level_turn)

    hill = jnp.zeros(n, bool).at[BOXES : BOXES + HILLS].set(True)
    wide = jnp.stack([*random(2, n, low=1.0, high=5.0), random(n, low=0.3, high=1.5)], -1)
    away = random(n, 2, low=-8.0, high=8.0)
    sunk = jnp.column_stack([away, -random(n, high=0.7) * wide[:, 2]])
    half = jnp.where(hill[:, None], wide, half)
    centre = jnp.where(hill[:, None], sunk, centre)
    gone = random(n) > row.present[kind]
    gone = jnp.where(hill, random(n) > row.hills, gone)

    first = jnp.zeros(n, bool).at[:STRUCTURE].set(True)
    centre = centre.at[:STRUCTURE].set(structure[:, :3])
    half = half.at[:STRUCTURE].set(jnp.maximum(structure[:, 3:6], 1e-3))
    turn = (
        jnp.where(hill[:, None, None], level_turn, turn)
        .at[:STRUCTURE]
        .set(about_z(structure[:, 6]))
    )
    gone = jnp.where(first, jnp.pad(structure[:, 3:6].min(axis=1) <= 0, (0, n - STRUCTURE)), gone)
    moves = (random(n) < MOVING) & ~first & ~hill
    swing = random(n, 3, low=-0.5, high=0.5) * moves[:, None] * jnp.array([1.0, 1.0, 0.0])
    oscillation = random(n, 2) * jnp.array([2.0, 2 * jnp.pi])
    return removed(Solids(turn, centre, half, swing, oscillation), gone)


def _lamps(random: RandomStream, room: Array, is_open: Array) -> tuple[Array, Array]:
    """Two lamps: under the ceiling of a room, or a sun and a weaker light from elsewhere."""
    inside = random(2, 3, low=-0.4, high=0.4) * room
    inside = inside.at[:, 2].set(room[2] * random(2, low=0.6, high=0.93))
    way = random(2, 3, low=-1.0)
    way = way.at[:, 2].set(random(2, low=0.15, high=1.0))
    outside = SUN_AWAY * way / jnp.linalg.norm(way, axis=-1, keepdims=True)
    tint = random(2, 3, low=0.7, high=1.0)
    strength = random(2, low=0.4, high=2.2) * jnp.array([1.0, 0.35])
    # The renderer's lamps fade with distance: these are as strong as stated where the scene is.
    fade = 1 + 0.35 * jnp.where(is_open > 0, SUN_AWAY, room[2]) ** 2
    return jnp.where(is_open > 0, outside, inside), (strength * fade)[:, None] * tint


def _viewpoint(random: RandomStream, row: SceneKind, room: Array) -> Viewpoint:
    """Somewhere around the middle, facing a place near it."""
    angle = -jnp.pi / 2 + random(low=-1.0) * row.arc
    target = random(2, low=-0.3, high=0.3) * row.spread + jnp.array([0.0, 1.0]) * row.back
    away = random.between(*row.away)
    place = target + away * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    limit = room[:2] / 2 - 0.4
    place = jnp.clip(place, -limit, limit)
    height = jnp.minimum(row.base + random.between(*row.eye), room[2] - 0.4)
    ahead = target - place
    distance = jnp.maximum(jnp.linalg.norm(ahead), 0.3)
    aim = row.base + random(low=0.0, high=0.9)
    pitch = jnp.arctan2(aim - height, distance) + random(low=-0.2, high=0.2)
    roll = 0.5 * random(low=-1.0) ** 3
    return Viewpoint(jnp.append(place, height), jnp.arctan2(ahead[1], ahead[0]), pitch, roll)
