# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Motions that cannot be guessed from a single image: any direction, any axis, around things.

A motion is drawn in units of the depth of the scene in front of its first viewpoint, and is
shortened until all frames show enough of what the view at the middle of the path shows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vggt_ros.train.rooms.rays import cast
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.scenes import World, cleared
from vggt_ros.train.rooms.sky import covers
from vggt_ros.train.rooms.trajectories import WORLD_FROM_OPTICAL, Trajectory, about

MIN_OVERLAP = 0.3  # share of the points of the middle view that every frame shows
MAX_STEP = 0.5  # between neighbouring frames, in depths of the scene
NEAREST = 0.2  # of the depth of the scene: what is closer to a camera is removed
SHUFFLED = 0.5  # share of the windows with frames in random order
SKEW = 1.3  # steps are the largest one times a uniform number to this power: many are small
_FACTORS = (1.0, 0.85, 0.7, 0.55, 0.42, 0.32, 0.24, 0.16, 0.1, 0.05, 0.0)
NO_SURFACE = 4.0  # metres: the depth of a scene that shows nothing but sky
_GRID = 7  # rays along each side of the image that measure the depth of the scene


class MotionKind(NamedTuple):
    """A kind of motion.  Vectors: x right, y down, z ahead; means, to which a spread is added."""

    direction: Float[Array, "*k 3"]  # of translation
    spread: Float[Array, "*k"]  # of the direction: 0 is exact, far above 1 is any
    step: Float[Array, "*k"]  # largest translation from frame to frame, in depths of the scene
    axis: Float[Array, "*k 3"]  # of rotation
    wobble: Float[Array, "*k"]  # spread of the axis
    turn: Float[Array, "*k"]  # largest rotation from frame to frame, degrees
    pivot: Float[Array, "*k"]  # 1: the camera turns about the scene, 0: about itself
    gaze: Float[Array, "*k"]  # 1: the camera keeps facing the scene
    tilted: Float[Array, "*k"]  # 1: vectors are those of the camera, 0: z is level
    both: Float[Array, "*k"]  # 1: also in the opposite direction; rotation always is


#              share  direction   spread step      axis       wobble turn pivot gaze tilted both
MOTION_KINDS = {
    "robot":     (.12, (0, 0, 1),  .10, .30,      (0, 1, 0), .05, 10., 0, 0, 0, 0),
    "backwards": (.08, (0, 0, -1), .10, .30,      (0, 1, 0), .10, 10., 0, 0, 0, 0),
    "sideways":  (.14, (1, 0, 0),  .15, MAX_STEP, (0, 1, 0), .30, 6.0, 0, 0, 0, 1),
    "vertical":  (.08, (0, 1, 0),  .15, .40,      (1, 0, 0), .30, 6.0, 0, 0, 0, 1),
    "approach":  (.10, (0, 0, 1),  .35, .25,      (0, 0, 1), .20, 4.0, 0, 1, 1, 0),
    "arc":       (.16, (1, 0, 0),  .00, .00,      (0, 1, 0), .05, 29., 1, 0, 0, 0),
    "orbit":     (.14, (1, 0, 0),  .00, .00,      (0, 1, 0), .80, 29., 1, 0, 0, 0),
    "turning":   (.08, (0, 0, 0),  9.0, .02,      (0, 0, 0), 9.0, 25., 0, 0, 1, 1),
    "rolling":   (.04, (0, 0, 0),  9.0, .10,      (0, 0, 1), .20, 30., 0, 0, 1, 1),
    "free":      (.06, (0, 0, 0),  9.0, .35,      (0, 0, 0), 9.0, 15., 0, 0, 1, 1),
}  # fmt: skip


class Viewpoint(NamedTuple):
    """Where a motion has its middle: metres, and radians as in `trajectory_through`."""

    position: Float[Array, "3"]
    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    roll: Float[Array, ""]


class Path(NamedTuple):
    """Cameras relative to the level frame of a viewpoint (x right, y down, z ahead and level)."""

    position: Float[Array, "s 3"]  # in depths of the scene
    level_from_camera: Float[Array, "s 3 3"]


def sample_viewpoint(random: RandomStream, room: Float[Array, "3"]) -> Viewpoint:
    """Anywhere in a room of this size (m), facing another place of it; consumes 7 numbers."""
    place, target = random(2, 2, low=-0.5, high=0.5) * (room[:2] - 1.2)
    height = random(low=0.25, high=1.0) * (room[2] - 0.6)
    yaw = jnp.arctan2(target[1] - place[1], target[0] - place[0])
    roll = 0.5 * random(low=-1.0) ** 3  # few are far from level
    return Viewpoint(jnp.append(place, height), yaw, random(low=-0.6, high=0.25), roll)


def sample_motion(
    key: PRNGKeyArray,
    world: World,
    viewpoint: Viewpoint,
    slopes: Float[Array, "2"],
    frames: int,
    interval: float = 0.1,
    kind: Int[Array, ""] | int | None = None,
) -> tuple[World, Trajectory]:
    """A trajectory about a viewpoint, and the world without what is too close to its cameras.

    `slopes` are those of the rays at the right and the lower edge of the image, `interval` is the
    seconds between frames of the path; in some windows frames come in random order.  The kind (row
    of `MOTION_KINDS`) is drawn by share where none is given.
    """
    random = RandomStream(key, 13 + 7 * frames)
    shares = jnp.cumsum(jnp.array([row[0] for row in MOTION_KINDS.values()]))
    drawn = (random() > shares[:-1]).sum()
    chosen = jax.tree.map(lambda column: column[drawn if kind is None else kind], kinds())
    draws = draws_of(random, frames)
    tilt = about(0, viewpoint.pitch[None])[0] @ about(2, viewpoint.roll[None])[0]
    world_from_level = about(2, viewpoint.yaw[None])[0] @ jnp.array(WORLD_FROM_OPTICAL)

    side = jnp.linspace(-0.95, 0.95, _GRID)
    x, y = jnp.meshgrid(side * slopes[0], side * slopes[1])
    rays = jnp.stack([x.ravel(), y.ravel(), jnp.ones(_GRID**2)])
    free = cleared(world, viewpoint.position[None], 0.3)
    hit = cast(free, viewpoint.position, world_from_level @ tilt @ rays)
    scale, depth = jnp.median(hit.t), hit.t
    if world.surroundings:  # the sky is no surface: it is placed well behind the others
        sky = covers(world, hit)
        scale = jnp.nan_to_num(jnp.nanmedian(jnp.where(sky, jnp.nan, hit.t)), nan=NO_SURFACE)
        depth = jnp.where(sky, 3 * scale, hit.t)
    points = (tilt @ rays * depth).T / scale

    def attempt(factor: Array) -> tuple[Path, Array]:
        path = path_of(chosen, draws, tilt, factor)
        position = viewpoint.position + scale * path.position @ world_from_level.T
        inside = _inside(world.room, position, jnp.minimum(0.3, 0.5 * scale))
        return path, inside & (overlap(path, points, slopes) >= MIN_OVERLAP)

    paths, fits = jax.vmap(attempt)(jnp.array(_FACTORS))
    path = jax.tree.map(lambda a: a[jnp.argmax(fits.at[-1].set(True))], paths)
    order = jax.random.permutation(jax.random.fold_in(key, 1), frames)
    order = jnp.where(random() < SHUFFLED, order, jnp.arange(frames))
    position = viewpoint.position + scale * path.position @ world_from_level.T
    rotation = world_from_level @ path.level_from_camera
    position, rotation = position[order], rotation[order]
    shift = -jnp.einsum("sji,sj->si", rotation, position)
    pose = jnp.concatenate([jnp.swapaxes(rotation, 1, 2), shift[..., None]], axis=-1)
    trajectory = Trajectory(pose, position, interval * order.astype(jnp.float32))
    return cleared(free, position, jnp.minimum(0.6, NEAREST * scale)), trajectory


class Draws(NamedTuple):
    """The random numbers of a path, in -1..1 or 0..1."""

    direction: Float[Array, "3"]
    axis: Float[Array, "3"]
    sign: Float[Array, "2"]  # of direction and axis: -1 or 1
    amount: Float[Array, "2"]  # of the largest step and turn
    time: Float[Array, "s"]  # frames from the middle of the path
    sway: Float[Array, "s 6"]  # shift and rotation of each frame, in units of their own


def kinds() -> MotionKind:
    """The table of kinds as arrays."""
    columns = zip(*(row[1:] for row in MOTION_KINDS.values()), strict=True)
    return MotionKind(*(jnp.array(column, jnp.float32) for column in columns))


def draws_of(random: RandomStream, frames: int) -> Draws:
    """Consumes 11 + 7 numbers a frame."""
    direction, axis = random(2, 3, low=-1.0)
    sign = jnp.where(random(2) < 0.5, -1.0, 1.0)
    amount = random(2) ** SKEW
    steady = jnp.arange(frames) - (frames - 1) / 2
    sway = random(low=-0.5, high=0.5).clip(0.0) * random(frames, 6, low=-1.0)
    return Draws(direction, axis, sign, amount, steady + random(frames, low=-0.25, high=0.25), sway)


def path_of(
    kind: MotionKind, draws: Draws, tilt: Float[Array, "3 3"], factor: Float[Array, ""]
) -> Path:
    """The path of a kind: `tilt` is level_from_camera at its middle, `factor` shortens the path."""
    time = factor * draws.time[:, None]
    basis = jnp.where(kind.tilted > 0, tilt, jnp.eye(3))
    direction = basis @ _unit(kind.direction + kind.spread * draws.direction)
    direction *= jnp.where(kind.both > 0, draws.sign[0], 1.0)
    axis = draws.sign[1] * basis @ _unit(kind.axis + kind.wobble * draws.axis)
    turn = rotation(jnp.deg2rad(kind.turn) * draws.amount[1] * time * axis)
    ahead = tilt[:, 2]
    position = kind.step * draws.amount[0] * time * direction
    position += kind.pivot * (ahead - turn @ ahead)
    position += 0.02 * draws.sway[:, :3]
    facing = _unit(ahead - position) @ tilt  # where the scene is, in the untilted camera
    turn = turn @ tilt
    turn = jnp.where(kind.gaze > 0, tilt @ _towards(facing) @ (tilt.T @ turn), turn)
    return Path(position, turn @ rotation(0.08 * draws.sway[:, 3:]))


def overlap(path: Path, points: Float[Array, "n 3"], slopes: Float[Array, "2"]) -> Float[Array, ""]:
    """The smallest share of `points` (of the level frame, in depths) that a frame shows."""
    seen = jnp.einsum("sji,snj->sni", path.level_from_camera, points - path.position[:, None])
    ahead = seen[..., 2] > 0.05
    inside = (jnp.abs(seen[..., :2]) < slopes * jnp.maximum(seen[..., 2:], 1e-6)).all(-1)
    return (ahead & inside).mean(axis=1).min()


def rotation(vector: Float[Array, "s 3"]) -> Float[Array, "s 3 3"]:
    """Rotations about `vector` by its length in radians (Rodrigues)."""
    angle = jnp.linalg.norm(vector, axis=-1)[:, None, None]
    cross = _cross(vector / jnp.maximum(angle[..., 0], 1e-9))
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * cross @ cross


def _towards(unit: Float[Array, "s 3"]) -> Float[Array, "s 3 3"]:
    """The smallest rotation that takes the optical axis to a unit vector in front of the camera."""
    cross = _cross(jnp.cross(jnp.array([0.0, 0.0, 1.0]), unit))
    return jnp.eye(3) + cross + cross @ cross / (1 + unit[:, 2:, None]).clip(1e-3)


def _cross(vector: Float[Array, "s 3"]) -> Float[Array, "s 3 3"]:
    x, y, z = vector.T
    zero = jnp.zeros_like(x)
    return jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)


def _unit(vector: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), 1e-6)


def _inside(room: Array, position: Float[Array, "s 3"], margin: Float[Array, ""]) -> Array:
    """Whether all positions (m) are inside the room, at least `margin` from its sides."""
    low = jnp.array([-0.5, -0.5, 0.0]) * room + margin
    high = jnp.array([0.5, 0.5, 1.0]) * room - margin
    return ((position >= low) & (position <= high)).all()
