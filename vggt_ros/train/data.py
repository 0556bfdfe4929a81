# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training batches: windows of synthetic rooms with exact ground truth, and their augmentation.

A batch is a function of the seed and the step alone, so a resumed run gets the batches that an
uninterrupted one would have got.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from vggt_ros.geometry import pose_encoding_from, unproject
from vggt_ros.train.jpeg import compressed
from vggt_ros.train.rooms import motions, render, scenes, trajectories
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.varied import sample_varied

AnyArray = Any  # jax.Array from the renderer, np.ndarray from a folder
ROUGH = 1.4  # strength of the augmentation of varied scenes
HELD_OUT = 1 << 30  # seeds from here on are reserved for validation


class Batch(NamedTuple):
    """Windows with ground truth.  World = first camera; unit = mean distance of points to it."""

    images: Float[AnyArray, "b s h w 3"]
    pose_encoding: Float[AnyArray, "b s 9"]
    depth: Float[AnyArray, "b s h w"]
    points: Float[AnyArray, "b s h w 3"]
    valid: Bool[AnyArray, "b s h w"]
    queries: Float[AnyArray, "b n 2"]
    tracks: Float[AnyArray, "b s n 2"]
    visible: Bool[AnyArray, "b s n"]


def sample_window(
    key: PRNGKeyArray, frames: int, height: int, width: int, *, queries: int, rays: int,
    interval: float = 0.1, motion_scale: tuple[float, float] = (1.0, 1.0), clean: bool = False,
    views: int = 1, varied: Literal["", "motions", "scenes"] = "",
) -> Batch:  # fmt: skip
    """A window of a synthetic room, without a batch axis; every key gives another room.

    `rays` per pixel and side, `interval` in seconds; `clean` leaves out the augmentation.  With
    several `views` the frames are those of a rig of so many cameras, instant by instant.  Cameras
    move as robots do or, where `varied` is not empty, in any way (`rooms/motions.py`); with
    "scenes" the scene is not a room either, but one of `rooms/varied.py`.
    """
    keys = jax.random.split(key, 4)
    random = RandomStream(keys[2], 1 + 2 * queries)
    fov = jnp.deg2rad(random(low=50.0, high=95.0))
    intrinsics = render.intrinsics_for(fov, height, width)
    if varied == "scenes":
        intrinsics = _any_intrinsics(jax.random.fold_in(keys[2], 1), height, width)
    world, trajectory = _world_and_trajectory(
        keys, jnp.array([width, height]) / 2 / intrinsics[0, 0], frames // views, interval,
        motion_scale, varied,
    )  # fmt: skip
    if views > 1:
        trajectory = trajectories.sample_rig(jax.random.fold_in(keys[1], 2), trajectory, views)
    if views > 1 or not varied:
        world = scenes.cleared(world, trajectory.position)
    shutter = _shutter(jax.random.fold_in(keys[2], 2), frames) if varied == "scenes" else None
    rendering = render.draw(world, trajectory, intrinsics, height, width, rays, shutter)
    pixels = random(queries, 2) * (jnp.array([width, height]) - 1)
    tracks = render.track(world, trajectory, intrinsics, height, width, pixels)
    images = rendering.images
    if not clean:
        images = augment(keys[3], images, ROUGH if varied == "scenes" else 1.0)
        if varied == "scenes":
            images = _stored(jax.random.fold_in(keys[3], 1), images)
    return normalised(
        images, rendering.depth, jnp.isfinite(rendering.depth), trajectory.camera_from_world,
        jnp.broadcast_to(intrinsics, (frames, 3, 3)), pixels, tracks.uv, tracks.visible,
    )  # fmt: skip


def _world_and_trajectory(
    keys: Key[Array, "4"], slopes: Float[Array, "2"], frames: int, interval: float,
    motion_scale: tuple[float, float], varied: str,
) -> tuple[scenes.World, trajectories.Trajectory]:  # fmt: skip
    """`slopes` are those of the rays at the right and the lower edge of the image."""
    if varied == "scenes":
        world, viewpoint = sample_varied(keys[0])
    else:
        world = scenes.sample_world(keys[0])
        if not varied:
            return world, trajectories.sample_trajectory(
                keys[1], world.room, frames, interval, motion_scale
            )
        numbers = RandomStream(jax.random.fold_in(keys[1], 3), 7)
        viewpoint = motions.sample_viewpoint(numbers, world.room)
    return motions.sample_motion(keys[1], world, viewpoint, slopes, frames, interval)


def _any_intrinsics(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "3 3"]:
    """A field of view of 35 to 110 degrees, a principal point up to 3 % off the middle."""
    random = RandomStream(key, 3)
    intrinsics = render.intrinsics_for(jnp.deg2rad(random(low=35.0, high=110.0)), height, width)
    return intrinsics.at[:2, 2].add(0.03 * jnp.array([width, height]) * random(2, low=-1.0))


def _shutter(key: PRNGKeyArray, frames: int) -> Float[Array, "s 3"]:
    """Rotation vectors of a camera while it exposes its rows: to 0.7 degrees; half have none."""
    random = RandomStream(key, 1 + 3 * frames)
    return random(low=-0.012, high=0.012).clip(0.0) * random(frames, 3, low=-1.0)


def _stored(key: PRNGKeyArray, images: Float[Array, "s h w 3"]) -> Float[Array, "s h w 3"]:
    """Images as JPEG leaves them, in two windows of three: quality 35 to 98."""
    random = RandomStream(key, 2)
    kept, quality = random() < 1 / 3, random(low=35.0, high=98.0)
    return jnp.where(kept, images, compressed(images, quality))


def normalised(
    images: Float[AnyArray, "s h w 3"],
    depth: Float[AnyArray, "s h w"],
    valid: Bool[AnyArray, "s h w"],
    camera_from_world: Float[AnyArray, "s 3 4"],
    intrinsics: Float[AnyArray, "s 3 3"],
    queries: Float[AnyArray, "n 2"],
    tracks: Float[AnyArray, "s n 2"],
    visible: Bool[AnyArray, "s n"],
) -> Batch:
    """Metres in any world to the gauge of the network: first camera, mean distance 1."""
    xp = depth.__array_namespace__()  # what is read from folders stays on the host
    rotation, shift = camera_from_world[:, :, :3], camera_from_world[:, :, 3]
    # camera_from_first = camera_from_world @ world_from_first
    turn = rotation @ rotation[0].T
    move = shift - turn @ shift[0]
    in_camera = unproject(xp.where(valid, depth, 1.0), intrinsics)
    points = (in_camera - move[:, None, None]) @ turn[:, None]
    distance = xp.where(valid, xp.linalg.norm(points, axis=-1), 0.0).sum()
    unit = xp.maximum(distance / xp.maximum(valid.sum(), 1), 1e-6)
    camera = xp.concatenate([turn, move[..., None] / unit], axis=-1)
    height, width = depth.shape[1:]
    encoding = pose_encoding_from(camera, intrinsics, height, width)
    depth = xp.where(valid, depth / unit, 1.0)
    return Batch(images, encoding, depth, points / unit, valid, queries, tracks, visible)


def augment(
    key: PRNGKeyArray, images: Float[Array, "s h w 3"], strength: float = 1.0
) -> Float[Array, "s h w 3"]:
    """Random exposure, gamma, tint, vignette, blur and noise; exposure also varies by frame.

    `strength` multiplies all ranges but that of blur.
    """
    frames, height, width, _ = images.shape
    key, noise_key = jax.random.split(key)
    random = RandomStream(key, frames + 8)
    gain = random(low=-0.45, high=0.45) + random(frames, 1, 1, 1, low=-0.08, high=0.08)
    gain = jnp.exp(strength * gain)
    tint, gamma = random(3, low=-0.12, high=0.12), random(low=-0.25, high=0.25)
    tint, gamma = jnp.exp(strength * tint), jnp.exp(strength * gamma)
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    dark = strength * random(high=0.25) * (x**2 + y**2)[..., None] / 2
    blur, rough = random(high=0.25), strength * random(high=0.03)
    for axis in (1, 2):
        near = jnp.concatenate([
            jax.lax.slice_in_dim(images, 0, 1, axis=axis), images,
            jax.lax.slice_in_dim(images, images.shape[axis] - 1, None, axis=axis),
        ], axis=axis)  # fmt: skip
        before = jax.lax.slice_in_dim(near, 0, images.shape[axis], axis=axis)
        after = jax.lax.slice_in_dim(near, 2, None, axis=axis)
        images = (1 - 2 * blur) * images + blur * (before + after)
    images = (images * gain * tint * (1 - dark)).clip(1e-4, 1.0) ** gamma
    noise = jax.random.normal(noise_key, images.shape)
    return (images + rough * noise).clip(0.0, 1.0)


def bucket_of(seed: int, step: int, count: int) -> int:
    """Index of the bucket that a step uses: a function of seed and step."""
    return int(np.random.default_rng((seed, step)).integers(count))


def trains_tracks(seed: int, step: int, share: float) -> bool:
    """Whether a step trains the track head: true for `share` of the steps."""
    return bool(np.random.default_rng((seed, step, 1)).random() < share)


def trains_dense(seed: int, step: int, share: float) -> bool:
    """Whether a step runs the dense heads: true for `share` of the steps."""
    return bool(np.random.default_rng((seed, step, 2)).random() < share)
