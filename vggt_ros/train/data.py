# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Batches to learn from: drawn rooms, photographed badly on purpose, with their exact truth.

A batch is a function of the seed and the step alone, so a resumed run sees what it would have seen.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vggt_ros.geometry import pose_encoding_from, unproject
from vggt_ros.train.rooms import render, scenes, trajectories
from vggt_ros.train.rooms.sampling import Dice

Host = Any  # jax.Array of what was drawn, np.ndarray of what was read
HELD_OUT = 1 << 30  # seeds from here on are never trained on


class Batch(NamedTuple):
    """Windows and their truth.  World = first camera; unit = mean distance of points to it."""

    images: Float[Host, "b s h w 3"]
    pose_encoding: Float[Host, "b s 9"]
    depth: Float[Host, "b s h w"]
    points: Float[Host, "b s h w 3"]
    valid: Bool[Host, "b s h w"]
    queries: Float[Host, "b n 2"]
    tracks: Float[Host, "b s n 2"]
    visible: Bool[Host, "b s n"]


def draw_window(
    key: PRNGKeyArray, frames: int, height: int, width: int, *, queries: int, rays: int,
    interval: float = 0.1, paces: tuple[float, float] = (1.0, 1.0), clean: bool = False,
) -> Batch:  # fmt: skip
    """A window of a room that no one has seen before; no batch axis.  `clean`: a perfect camera."""
    keys = jax.random.split(key, 4)
    dice = Dice(keys[2], 1 + 2 * queries)
    world = scenes.sample_world(keys[0])
    drive = trajectories.sample_drive(keys[1], world.room, frames, interval, paces)
    world = scenes.cleared(world, drive.position)
    fov = jnp.deg2rad(dice(low=50.0, high=95.0))
    intrinsics = render.intrinsics_for(fov, height, width)
    picture = render.draw(world, drive, intrinsics, height, width, rays)
    size = jnp.array([width, height])
    asked = dice(queries, 2) * (size - 1)
    tracks = render.track(world, drive, intrinsics, height, width, asked)
    images = picture.images if clean else photographed(keys[3], picture.images)
    return normalised(
        images, picture.depth, jnp.isfinite(picture.depth), drive.camera_from_world,
        jnp.broadcast_to(intrinsics, (frames, 3, 3)), asked, tracks.uv, tracks.visible,
    )  # fmt: skip


def normalised(
    images: Float[Host, "s h w 3"],
    depth: Float[Host, "s h w"],
    valid: Bool[Host, "s h w"],
    camera_from_world: Float[Host, "s 3 4"],
    intrinsics: Float[Host, "s 3 3"],
    queries: Float[Host, "n 2"],
    tracks: Float[Host, "s n 2"],
    visible: Bool[Host, "s n"],
) -> Batch:
    """Metres in any world to the gauge of the network: first camera, mean distance 1."""
    xp = depth.__array_namespace__()  # readers of folders stay on the host
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


def photographed(key: PRNGKeyArray, images: Float[Array, "s h w 3"]) -> Float[Array, "s h w 3"]:
    """What cheap cameras do: exposure, gamma, tint, vignette, blur, noise; some change by frame."""
    frames, height, width, _ = images.shape
    key, noise_key = jax.random.split(key)
    dice = Dice(key, frames + 8)
    gain = jnp.exp(dice(low=-0.45, high=0.45) + dice(frames, 1, 1, 1, low=-0.08, high=0.08))
    tint, gamma = jnp.exp(dice(3, low=-0.12, high=0.12)), jnp.exp(dice(low=-0.25, high=0.25))
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    dark = dice(high=0.25) * (x**2 + y**2)[..., None] / 2
    blur, rough = dice(high=0.25), dice(high=0.03)
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
    """Which of the buckets a step uses; the same whenever it is asked."""
    return int(np.random.default_rng((seed, step)).integers(count))


def tracked(seed: int, step: int, share: float) -> bool:
    """Whether a step trains the tracks, which `share` of the steps do."""
    return bool(np.random.default_rng((seed, step, 1)).random() < share)
