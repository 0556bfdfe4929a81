# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""How cameras move: a wheeled robot, a drone, a hand, a turn on the spot, and standing still."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vggt_ros.train.rooms.sampling import Dice

# Columns: forward, left, up in terms of optical axes (x right, y down, z ahead).
_WORLD_FROM_OPTICAL = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


class Drive(NamedTuple):
    """A camera's way: OpenCV axes, metres, seconds since the first frame."""

    camera_from_world: Float[Array, "s 3 4"]
    position: Float[Array, "s 3"]
    seconds: Float[Array, "s"]


class Mood(NamedTuple):
    """Ranges that tell the kinds of motion apart: low and high, per frame where it is a rate."""

    stride: Float[Array, "*k 2"]  # metres (logarithmic)
    turn: Float[Array, "*k 2"]  # radians
    gaze: Float[Array, "*k 2"]  # angle between the way and the view
    height: Float[Array, "*k 2"]
    climb: Float[Array, "*k 2"]
    pitch: Float[Array, "*k 2"]
    sway: Float[Array, "*k 2"]  # how far angles wander, radians


# kind, share: stride, turn, gaze, height, climb, pitch, sway
MOODS = {
    "robot": (0.40, (0.02, 0.30), (-0.12, 0.12), (-0.1, 0.1), (0.25, 1.2), (0, 0), (-0.15, 0.1), (0.0, 0.01)),
    "drone": (0.20, (0.03, 0.35), (-0.12, 0.12), (-3.1, 3.1), (0.8, 2.0), (-0.05, 0.05), (-0.4, 0.1), (0.01, 0.06)),
    "hand": (0.25, (0.02, 0.22), (-0.15, 0.15), (-1.6, 1.6), (1.1, 1.8), (-0.03, 0.03), (-0.4, 0.15), (0.02, 0.10)),
    "turning": (0.10, (0.001, 0.02), (-0.25, 0.25), (-3.1, 3.1), (0.3, 1.7), (0, 0), (-0.25, 0.1), (0.0, 0.03)),
    "still": (0.05, (0.0005, 0.002), (0, 0), (-3.1, 3.1), (0.3, 1.7), (0, 0), (-0.25, 0.1), (0.0, 0.005)),
}  # fmt: skip


def sample_drive(
    key: PRNGKeyArray,
    room: Float[Array, "3"],
    frames: int,
    interval: float = 0.1,
    paces: tuple[float, float] = (1.0, 1.0),
) -> Drive:
    """A way through the middle of the room, looking across it; kinds mixed by their shares.

    A pace from `paces` multiplies how far the camera gets from frame to frame, turns included.
    """
    dice = Dice(key, 40)
    shares = jnp.cumsum(jnp.array([row[0] for row in MOODS.values()]))
    table = Mood(*map(jnp.array, zip(*(row[1:] for row in MOODS.values()), strict=True)))
    kind = (dice() > shares[:-1]).sum()
    mood = jax.tree.map(lambda a: a[kind], table)
    # Of its own key, so that windows at pace 1 are what they always were.
    pace = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32, *paces)
    return _drive(dice, mood, room, frames, interval, pace)


def _drive(
    dice: Dice, mood: Mood, room: Array, frames: int, interval: float, pace: Float[Array, ""]
) -> Drive:
    stride = pace * jnp.exp(dice.between(*jnp.log(mood.stride)))
    step = pace * (jnp.arange(frames) - (frames - 1) / 2)
    sway = dice.between(*mood.sway)
    heading = 2 * jnp.pi * dice() + dice.between(*mood.turn) * step
    heading += sway * _wander(dice(3, 1), frames, pace)
    yaw = heading + dice.between(*mood.gaze)
    pitch = dice.between(*mood.pitch) + 0.7 * sway * _wander(dice(3, 1), frames, pace)
    roll = 0.5 * sway * _wander(dice(3, 1), frames, pace)

    way = jnp.cumsum(stride * jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1), axis=0)
    low, high = way.min(axis=0), way.max(axis=0)
    free = room[:2] - 2.0
    way = (way - (low + high) / 2) * jnp.minimum(1.0, (free / (high - low + 1e-6)).min())
    slack = jnp.maximum(free - (high - low), 0.0) / 2
    look = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], -1).mean(axis=0)
    # Step back from what is looked at, so that the view holds more than the nearest wall.
    way += slack * jnp.clip(dice(2, low=-0.6, high=0.6) - 0.6 * look, -1, 1)
    height = dice.between(*mood.height) + dice.between(*mood.climb) * step
    height = jnp.clip(height, 0.2, room[2] - 0.4)
    return drive_along(jnp.column_stack([way, height]), yaw, pitch, roll, interval)


def drive_along(
    position: Float[Array, "s 3"],
    yaw: Float[Array, "s"],
    pitch: Float[Array, "s"],
    roll: Float[Array, "s"],
    interval: float,
) -> Drive:
    """A drive through given places.  Radians; positive pitch looks up, yaw 0 looks along x."""
    rotation = _about(2, yaw) @ _about(1, -pitch) @ _about(0, roll)
    camera_from_world = jnp.swapaxes(rotation @ jnp.array(_WORLD_FROM_OPTICAL), -1, -2)
    shift = -jnp.einsum("sij,sj->si", camera_from_world, position)
    pose = jnp.concatenate([camera_from_world, shift[..., None]], axis=-1)
    return Drive(pose, position, interval * jnp.arange(position.shape[0], dtype=jnp.float32))


def _wander(phase: Float[Array, "3 1"], frames: int, pace: Float[Array, ""]) -> Float[Array, "s"]:
    """Three slow sines, `phase` in turns: smooth, about -1 to 1."""
    rate = jnp.array([[0.25], [0.6], [1.3]])
    weight = jnp.array([[0.6], [0.3], [0.15]])
    return (weight * jnp.sin(rate * pace * jnp.arange(frames) + 2 * jnp.pi * phase)).sum(axis=0)


def _about(axis: int, angle: Float[Array, "s"]) -> Float[Array, "s 3 3"]:
    """Rotation by `angle` about one of the three axes."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = jnp.zeros((angle.shape[0], 3, 3)).at[:, axis, axis].set(1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = turn.at[:, a, a].set(cos).at[:, b, b].set(cos)
    return turn.at[:, a, b].set(-sin).at[:, b, a].set(sin)
