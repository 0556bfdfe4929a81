# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Time of the map in a step, on one core: registration and scale, insertion of a view.

`large_map` times the same once thousands of keyframes are in it.
"""

import statistics
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, unproject
from vggt_ros.mapping.cloud.agreement import DepthView, agreed
from vggt_ros.mapping.cloud.voxels import VoxelMap
from vggt_ros.mapping.map import Map, Priors
from vggt_ros.mapping.window import WindowGeometry, level_camera
from vggt_ros.tools.bench import large_map
from vggt_ros.tools.bench.main import Options, Row

TOLERANCE = 0.1  # relative, of two depths that agree, as by default
STEPS = 20  # windows of a camera that moves sideways through a room
ROOM = np.array([3.0, 4.0, 1.5])  # metres from its middle to its walls


def rows(options: Options) -> Iterator[Row]:
    """Median milliseconds of CPU time, for windows of the largest size in the options."""
    width = options.width or 518
    height = options.height or 14 * round(width * 3 / 4 / 14)
    size, grid = max(*options.windows, 2), f"{width}x{height}"
    windows = [_window(i, min(i + 1, size), width, height) for i in range(STEPS)]
    registrations, insertions = [], []
    for _ in range(options.repeats):
        window_map = Map(("height",), Priors(camera_height=1.5))
        cloud = VoxelMap()
        for i, window in enumerate(windows):
            placed, milliseconds = large_map.timed(
                window_map.add, window, (i + 1) * large_map.PERIOD_NS
            )
            registrations.append(milliseconds)
            depth = window.depth[-1] * np.float32(placed.registration.world_from_window.scale)
            rgb = np.full((*depth.shape, 3), 128, np.uint8)
            pose = placed.world_from_camera[-1]
            view = (depth, rgb, window.confidence[-1], window.intrinsics[-1], pose)
            _, milliseconds = large_map.timed(cloud.add_view, *view)
            insertions.append(milliseconds)
    register, insert = statistics.median(registrations), statistics.median(insertions)
    yield Row(f"map_ms/join/{grid}/S{size}", register, "ms", "lower", "below 10")
    yield Row(f"map_ms/insert/{grid}", insert, "ms", "lower", "below 20")
    agreement = statistics.median(_agreement(windows[-1]) for _ in range(options.repeats))
    yield Row(f"map_ms/agreement/{grid}", agreement, "ms", "lower", "at most 4")
    yield from large_map.rows(size, width, height)


def _agreement(window: WindowGeometry) -> float:
    """Milliseconds to compare the newest view with the others, one of which must agree."""
    shown = len(window.depth)
    geometry = window.depth, window.intrinsics[-shown:], window.window_from_camera[-shown:]
    views = [DepthView.of(*view) for view in zip(*geometry, strict=True)]
    return large_map.timed(agreed, views[-1], views[-2::-1], 1, TOLERANCE)[1]


def _window(newest: int, size: int, width: int, height: int) -> WindowGeometry:
    """The last `size` cameras in a random unit, and noisy depth as by default."""
    random = np.random.default_rng(newest)
    ids = tuple(range(newest - size + 1, newest + 1))
    cameras = np.tile(level_camera(), (size, 1, 1))
    cameras[:, 1, 3] = [0.1 * i for i in ids]
    intrinsics = np.array([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
    unit = float(np.exp(random.uniform(-1, 1)))
    shown = large_map.depth_frames(size)
    depth = np.stack([_depth(camera, intrinsics, width, height) for camera in cameras[-shown:]])
    depth *= unit * np.exp(0.03 * random.standard_normal(depth.shape))
    return WindowGeometry(
        ids,
        Similarity(unit, np.eye(3), np.zeros(3)).apply_to_poses(cameras),
        np.tile(intrinsics, (size, 1, 1)),
        depth.astype(np.float32),
        random.uniform(1.6, 4.0, depth.shape).astype(np.float32),
    )


def _depth(
    world_from_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
) -> Float[np.ndarray, "h w"]:
    """z-depth of the walls: where each ray leaves the box of the room."""
    rays = unproject(np.ones((height, width)), intrinsics) @ world_from_camera[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    return ((np.sign(rays) * ROOM - world_from_camera[:3, 3]) / rays).min(axis=-1)
