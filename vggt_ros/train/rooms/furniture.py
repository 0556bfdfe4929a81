# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Furniture of a synthetic room: seven kinds made of boxes, placed along the walls."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vggt_ros.train.rooms import materials
from vggt_ros.train.rooms.materials import Material, indices
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.solids import Solids, about_z, removed, static

# Furniture as boxes: centre x y z, half extents x y z, material.  x and y run -1..1 over width and
# depth (the back is -1), z runs 0..1 over the height.  Materials: body, soft, books, poster.
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
PARTS = 8  # boxes of a piece, used or not
_SIZES = np.array([sizes for sizes, _ in _FURNITURE.values()], np.float32)
_BOXES = np.array(
    [[*boxes, *[(0, 0, 0.1, 0, 0, 0, 0)] * (PARTS - len(boxes))] for _, boxes in _FURNITURE.values()],
    np.float32,
)  # fmt: skip

_SLOTS = 6  # pieces of furniture along the walls
PIECES = _SLOTS + 1  # one more stands in the room
_WALL_YAW = np.array([0.0, 0.0, np.pi, np.pi, -np.pi / 2, np.pi / 2], np.float32)
_WALL_SIDE = np.array([-0.5, 0.5, -0.5, 0.5, 0.0, 0.0], np.float32)


class Furniture(NamedTuple):
    """`PIECES` pieces of `PARTS` solids each."""

    solids: Solids
    tops: Float[Array, "k 3"]  # middles of the upper faces, metres; below the floor where absent
    paint: Material


def sample_furniture(random: RandomStream, room: Float[Array, "3"]) -> Furniture:
    """Furniture along the walls of a room of the given size (m), and one piece inside."""
    count = PIECES
    kind = random.integers(len(_FURNITURE), count)
    low, high = jnp.asarray(_SIZES[..., 0])[kind], jnp.asarray(_SIZES[..., 1])[kind]
    size = low + (high - low) * random(count, 3)
    wall = jnp.array([1, 1, 1, 1, 0, 0])
    length, reach = room[1 - wall], room[wall] / 2
    jitter = random(_SLOTS, low=-0.1, high=0.1)
    along = (_WALL_SIDE * 0.5 + jitter) * (length - 1.2)
    back = reach - size[:_SLOTS, 1] / 2 - 0.03
    yaw = jnp.asarray(_WALL_YAW)
    place = jnp.stack([along, -back], -1)
    place = jnp.einsum("nij,nj->ni", about_z(yaw)[:, :2, :2], place)
    yaw = jnp.append(yaw, random(high=2 * jnp.pi))
    middle = random(2, low=-0.3, high=0.3) * (room[:2] - 2.0)
    place = jnp.concatenate([place, middle[None]])

    boxes = jnp.asarray(_BOXES)[kind]
    scale = jnp.stack([size[:, 0] / 2, size[:, 1] / 2, size[:, 2]], -1)[:, None]
    rotation = about_z(yaw)
    centre = jnp.einsum("nij,nkj->nki", rotation, boxes[..., :3] * scale)
    centre += jnp.pad(place, ((0, 0), (0, 1)))[:, None]
    half = boxes[..., 3:6] * scale
    absent = random(count) > 0.88
    gone = jnp.repeat(absent, PARTS) | (half.reshape(-1, 3).min(axis=-1) <= 0)
    solids = static(jnp.repeat(rotation, PARTS, axis=0), centre.reshape(-1, 3), half.reshape(-1, 3))
    top = jnp.array([0.99, 0.53, 0.995, 0.6, 0.68, 1.0, 0.63])[kind] * size[:, 2]
    top = jnp.where(absent, -20.0, top)
    tops = jnp.column_stack([place, top])

    paint = _materials(random, count)
    part = jnp.arange(count)[:, None] * 4 + boxes[..., 6].astype(jnp.int32)
    paint = jax.tree.map(lambda a: a[part.reshape(-1)], paint)
    return Furniture(removed(solids, gone), tops, paint)


def _materials(random: RandomStream, count: int) -> Material:
    """Four materials for each piece of furniture: body, soft parts, books, posters."""
    body = random.choice(indices("wood", "wood", "painted", "panels"), count)
    soft = random.choice(indices("cloth", "cloth", "painted"), count)
    rest = jnp.broadcast_to(indices("spines", "poster"), (count, 2))
    kinds = jnp.concatenate([body[:, None], soft[:, None], rest], axis=-1)
    return materials.sample(random, kinds.reshape(-1))
