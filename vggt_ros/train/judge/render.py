# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clips of the judge's scenes: images, exact depth and tracks by Mitsuba 3, kept on disk.

W. Jakob et al., Mitsuba 3 renderer, 2022, https://mitsuba-renderer.org.  Its scalar variant needs
no compiler on the machine, and gives the same clip on every one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mitsuba as mi
import numpy as np
from jaxtyping import Bool, Float, Float32

mi.set_variant("scalar_rgb")  # before the scenes, which make objects of it
mi.set_log_level(mi.LogLevel.Error)

from vggt_ros.files import atomic_write  # noqa: E402
from vggt_ros.train.data import Batch, normalised  # noqa: E402
from vggt_ros.train.judge.motions import MOTIONS, Poses, move  # noqa: E402
from vggt_ros.train.judge.scenes import SCENES, scene  # noqa: E402

VERSION = 1  # of the clips: raised when another one would be drawn from the same numbers
SAMPLES = 48  # light paths a pixel
BOUNCES = 4
EXPOSED = 0.45  # mean image value that the exposure aims at
NEAREST = 0.12  # of the reach: a camera closer to a surface is drawn again
SAME_PLACE = 2e-3  # relative distance at which a ray has reached its target
VISIBLE_DEPTH = 0.05  # metres in front of the camera
CAMERA_FROM_MITSUBA = np.diag([-1.0, -1.0, 1.0, 1.0])  # theirs: x left, y up, z ahead


class Clip(NamedTuple):
    """What was rendered, in metres; pixel (0, 0) is the centre of the first one."""

    images: Float32[np.ndarray, "s h w 3"]  # sRGB-like values in [0, 1]
    depth: Float[np.ndarray, "s h w"]  # along the optical axis; infinite: sky
    world_from_camera: Poses
    intrinsics: Float[np.ndarray, "3 3"]
    queries: Float[np.ndarray, "n 2"]  # pixels of frame 0
    tracks: Float[np.ndarray, "s n 2"]
    visible: Bool[np.ndarray, "s n"]


def clips(
    motion: str, count: int, frames: int, height: int, width: int, queries: int, folder: Path
) -> Iterator[Clip]:
    """`count` clips of a motion; those that `folder` has are not made again."""
    for number in range(count):
        name = f"v{VERSION}-{motion}-{number}-{frames}x{width}x{height}-{queries}.npz"
        path = folder / name
        if path.exists():
            with np.load(path) as stored:
                clip = Clip(**stored)
        else:
            clip = draw(motion, number, frames, height, width, queries)
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as stream:
                np.savez_compressed(stream, **clip._asdict())
        yield clip


def batch_of(clip: Clip, frames: int) -> Batch:
    """The first frames, in the network's gauge, with a batch axis."""
    camera_from_world = np.linalg.inv(clip.world_from_camera[:frames])[:, :3].astype(np.float32)
    depth = clip.depth[:frames].astype(np.float32)
    window = normalised(
        clip.images[:frames], depth, np.isfinite(depth), camera_from_world,
        np.tile(clip.intrinsics.astype(np.float32), (frames, 1, 1)),
        clip.queries.astype(np.float32), clip.tracks[:frames].astype(np.float32),
        clip.visible[:frames],
    )  # fmt: skip
    return Batch(*(value[None] for value in window))


def draw(motion: str, number: int, frames: int, height: int, width: int, queries: int) -> Clip:
    """The clip of this motion and number; every pair gives another scene."""
    kind = SCENES[number % len(SCENES)]
    random = np.random.default_rng([VERSION, MOTIONS.index(motion), number])
    fov = random.uniform(45.0, 95.0)
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    while True:
        description, reach = scene(kind, random)
        world = mi.load_dict(description)
        poses = move(motion, frames, reach, random)
        depth = np.stack([_depth(world, pose, intrinsics, height, width) for pose in poses])
        # No camera inside or against a thing, or with half of its image in the sky.
        if np.quantile(depth, 0.05) > NEAREST * reach and np.isfinite(depth).mean() > 0.5:
            break
    light = np.stack([
        _light(world, pose, fov, height, width, 1000 * number + i) for i, pose in enumerate(poses)
    ])  # fmt: skip
    exposure = -np.log(1 - EXPOSED**2.2) / max(float(np.median(light)), 1e-6)
    images = (1 - np.exp(-exposure * light)) ** (1 / 2.2)
    uv = random.permutation(np.argwhere(np.isfinite(depth[0])))[:queries, ::-1].astype(float)
    tracks, visible = _tracks(world, poses, intrinsics, height, width, uv)
    return Clip(images.astype(np.float32), depth, poses, intrinsics, uv, tracks, visible)


def _light(
    world: Any, pose: Float[np.ndarray, "4 4"], fov: float, height: int, width: int, seed: int
) -> Float[np.ndarray, "h w 3"]:
    """Linear RGB, without bound."""
    sensor = mi.load_dict({
        "type": "perspective", "fov": fov, "fov_axis": "x", "near_clip": 1e-3,
        "to_world": mi.ScalarTransform4f((pose @ CAMERA_FROM_MITSUBA).tolist()),
        "film": {
            "type": "hdrfilm", "width": width, "height": height, "rfilter": {"type": "box"},
            "pixel_format": "rgb",
        },
    })  # fmt: skip
    path = mi.load_dict({"type": "path", "max_depth": BOUNCES})
    return np.array(mi.render(world, sensor=sensor, integrator=path, spp=SAMPLES, seed=seed))


def _depth(
    world: Any, pose: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"],
    height: int, width: int,
) -> Float[np.ndarray, "h w"]:  # fmt: skip
    """Along the optical axis, at the centres of the pixels; infinite where nothing is hit."""
    v, u = np.mgrid[:height, :width].astype(float)
    return _cast(world, pose, intrinsics, np.stack([u.ravel(), v.ravel()], axis=-1)).reshape(
        u.shape
    )


def _cast(
    world: Any, pose: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"],
    uv: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n"]:  # fmt: skip
    """Depth along the optical axis under pixels of one camera."""
    return _distances(world, pose[:3, 3], _directions(pose, intrinsics, uv))


def _directions(
    pose: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, "3 3"],
    uv: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n 3"]:  # fmt: skip
    """World directions through pixels, one unit of depth long."""
    in_camera = np.concatenate([uv, np.ones((len(uv), 1))], axis=1) @ np.linalg.inv(intrinsics).T
    return in_camera @ pose[:3, :3].T


def _distances(
    world: Any, origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n"]:
    """To the first surface, in lengths of the direction."""
    lengths = np.linalg.norm(directions, axis=-1)
    start = mi.ScalarPoint3f(origin.tolist())
    hits = [
        world.ray_intersect_preliminary(mi.Ray3f(start, mi.ScalarVector3f(way))).t
        for way in (directions / lengths[:, None]).tolist()
    ]
    return np.array(hits) / lengths


def _tracks(
    world: Any, poses: Poses, intrinsics: Float[np.ndarray, "3 3"], height: int, width: int,
    uv: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, "s n 2"], Bool[np.ndarray, "s n"]]:  # fmt: skip
    """Where the points under pixels of the first camera are in every one, and whether seen."""
    depth = _cast(world, poses[0], intrinsics, uv)
    known = np.isfinite(depth)
    ways = _directions(poses[0], intrinsics, uv) * np.where(known, depth, 1.0)[:, None]
    points = poses[0, :3, 3] + ways
    tracks, visible = [], []
    for pose in poses:
        seen = (points - pose[:3, 3]) @ pose[:3, :3]
        ahead = seen[:, 2] > VISIBLE_DEPTH
        projected = seen / np.where(ahead, seen[:, 2], 1.0)[:, None] @ intrinsics.T
        place = projected[:, :2]
        inside = ((place >= -0.5) & (place <= np.array([width, height]) - 0.5)).all(axis=-1)
        clear = _distances(world, pose[:3, 3], points - pose[:3, 3]) > 1 - SAME_PLACE
        tracks.append(place)
        visible.append(known & ahead & inside & clear)
    return np.stack(tracks), np.stack(visible)
