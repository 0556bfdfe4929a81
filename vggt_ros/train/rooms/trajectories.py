# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Camera trajectories: a wheeled robot, a drone, a hand-held camera, rotation on the spot, rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vggt_ros.train.rooms.sampling import RandomStream

# Columns: forward, left, up in terms of optical axes (x right, y down, z ahead).
WORLD_FROM_OPTICAL = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


class Trajectory(NamedTuple):
    """Poses of one camera: OpenCV axes, metres, seconds since the first frame."""

    camera_from_world: Float[Array, "s 3 4"]
    position: Float[Array, "s 3"]
    seconds: Float[Array, "s"]


class MotionProfile(NamedTuple):
    """Ranges (low, high) of the parameters of a kind of motion; rates are per frame."""

    stride: Float[Array, "*k 2"]  # metres (sampled logarithmically)
    turn: Float[Array, "*k 2"]  # radians
    gaze: Float[Array, "*k 2"]  # angle between the direction of travel and the optical axis
    height: Float[Array, "*k 2"]
    climb: Float[Array, "*k 2"]
    pitch: Float[Array, "*k 2"]
    sway: Float[Array, "*k 2"]  # amplitude of the smooth noise on angles, radians


# kind, share: stride, turn, gaze, height, climb, pitch, sway
MOTION_PROFILES = {
    "robot": (0.40, (0.02, 0.30), (-0.12, 0.12), (-0.1, 0.1), (0.25, 1.2), (0, 0), (-0.15, 0.1), (0.0, 0.01)),
    "drone": (0.20, (0.03, 0.35), (-0.12, 0.12), (-3.1, 3.1), (0.8, 2.0), (-0.05, 0.05), (-0.4, 0.1), (0.01, 0.06)),
    "hand": (0.25, (0.02, 0.22), (-0.15, 0.15), (-1.6, 1.6), (1.1, 1.8), (-0.03, 0.03), (-0.4, 0.15), (0.02, 0.10)),
    "turning": (0.10, (0.001, 0.02), (-0.25, 0.25), (-3.1, 3.1), (0.3, 1.7), (0, 0), (-0.25, 0.1), (0.0, 0.03)),
    "still": (0.05, (0.0005, 0.002), (0, 0), (-3.1, 3.1), (0.3, 1.7), (0, 0), (-0.25, 0.1), (0.0, 0.005)),
}  # fmt: skip


def sample_trajectory(
    key: PRNGKeyArray,
    room: Float[Array, "3"],
    frames: int,
    interval: float = 0.1,
    motion_scale: tuple[float, float] = (1.0, 1.0),
) -> Trajectory:
    """A trajectory through the middle of the room, facing across it; profiles mixed by share.

    `room` is its size in metres, `interval` the seconds between frames.  A factor from the range
    `motion_scale` multiplies translation and rotation from frame to frame.
    """
    random = RandomStream(key, 40)
    profiles = MOTION_PROFILES.values()
    shares = jnp.cumsum(jnp.array([row[0] for row in profiles]))
    table = MotionProfile(*map(jnp.array, zip(*(row[1:] for row in profiles), strict=True)))
    kind = (random() > shares[:-1]).sum()
    profile = jax.tree.map(lambda a: a[kind], table)
    # A key of its own, so that windows at motion scale 1 do not depend on the range.
    scale = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32, *motion_scale)
    return _sample(random, profile, room, frames, interval, scale)


def _sample(
    random: RandomStream, profile: MotionProfile, room: Array, frames: int, interval: float,
    scale: Float[Array, ""],
) -> Trajectory:  # fmt: skip
    stride = scale * jnp.exp(random.between(*jnp.log(profile.stride)))
    step = scale * (jnp.arange(frames) - (frames - 1) / 2)
    sway = random.between(*profile.sway)
    heading = 2 * jnp.pi * random() + random.between(*profile.turn) * step
    heading += sway * _smooth_noise(random(3, 1), frames, scale)
    yaw = heading + random.between(*profile.gaze)
    pitch = random.between(*profile.pitch) + 0.7 * sway * _smooth_noise(random(3, 1), frames, scale)
    roll = 0.5 * sway * _smooth_noise(random(3, 1), frames, scale)

    path = jnp.cumsum(stride * jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1), axis=0)
    low, high = path.min(axis=0), path.max(axis=0)
    free = room[:2] - 2.0
    path = (path - (low + high) / 2) * jnp.minimum(1.0, (free / (high - low + 1e-6)).min())
    slack = jnp.maximum(free - (high - low), 0.0) / 2
    ahead = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], -1).mean(axis=0)
    # Move away from what the camera faces, so that the view holds more than the nearest wall.
    path += slack * jnp.clip(random(2, low=-0.6, high=0.6) - 0.6 * ahead, -1, 1)
    height = random.between(*profile.height) + random.between(*profile.climb) * step
    height = jnp.clip(height, 0.2, room[2] - 0.4)
    return trajectory_through(jnp.column_stack([path, height]), yaw, pitch, roll, interval)


def trajectory_through(
    position: Float[Array, "s 3"],
    yaw: Float[Array, "s"],
    pitch: Float[Array, "s"],
    roll: Float[Array, "s"],
    interval: float,
) -> Trajectory:
    """A trajectory from positions (m) and angles (rad): pitch is positive upwards, yaw 0 is x."""
    rotation = about(2, yaw) @ about(1, -pitch) @ about(0, roll)
    camera_from_world = jnp.swapaxes(rotation @ jnp.array(WORLD_FROM_OPTICAL), -1, -2)
    shift = -jnp.einsum("sij,sj->si", camera_from_world, position)
    pose = jnp.concatenate([camera_from_world, shift[..., None]], axis=-1)
    return Trajectory(pose, position, interval * jnp.arange(position.shape[0], dtype=jnp.float32))


def sample_rig(key: PRNGKeyArray, body: Trajectory, views: int) -> Trajectory:
    """The cameras of a rig, instant by instant; the first follows `body`, the others are rigid to it.

    They look to alternating sides, 10 to 50 or 60 to 120 degrees further each: half of the rigs
    have views that overlap.  Cameras are up to 0.3 m apart and at one height.
    """
    random = RandomStream(key, 3 + 2 * views)
    apart = jnp.where(random() < 0.5, random(low=10.0, high=50.0), random(low=60.0, high=120.0))
    index = jnp.arange(views)
    side = jnp.where(index % 2 == 1, 1.0, -1.0) * ((index + 1) // 2)
    angle = jnp.deg2rad(apart) * side
    place = random(views, 2, low=-0.15, high=0.15) * (index > 0)[:, None]
    centre = jnp.stack([place[:, 0], jnp.zeros(views), place[:, 1]], axis=-1)  # in the first camera
    camera_from_body = about(1, -angle)
    shift = -jnp.einsum("vij,vj->vi", camera_from_body, centre)
    turn, move = body.camera_from_world[:, :, :3], body.camera_from_world[:, :, 3]
    rotation = jnp.einsum("vij,tjk->tvik", camera_from_body, turn)
    translation = jnp.einsum("vij,tj->tvi", camera_from_body, move) + shift
    pose = jnp.concatenate([rotation, translation[..., None]], axis=-1).reshape(-1, 3, 4)
    position = -jnp.einsum("sji,sj->si", pose[:, :, :3], pose[:, :, 3])
    return Trajectory(pose, position, jnp.repeat(body.seconds, views))


def _smooth_noise(
    phase: Float[Array, "3 1"], frames: int, scale: Float[Array, ""]
) -> Float[Array, "s"]:
    """Sum of three slow sines, `phase` in turns: about -1 to 1."""
    rate = jnp.array([[0.25], [0.6], [1.3]])
    weight = jnp.array([[0.6], [0.3], [0.15]])
    return (weight * jnp.sin(rate * scale * jnp.arange(frames) + 2 * jnp.pi * phase)).sum(axis=0)


def about(axis: int, angle: Float[Array, "s"]) -> Float[Array, "s 3 3"]:
    """Rotation by `angle` about one of the three axes."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = jnp.zeros((angle.shape[0], 3, 3)).at[:, axis, axis].set(1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = turn.at[:, a, a].set(cos).at[:, b, b].set(cos)
    return turn.at[:, a, b].set(-sin).at[:, b, a].set(sin)
