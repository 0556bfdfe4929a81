# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's output as cameras of a window, and a registered window as views in the world."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.frames import View, WindowFrame
from vggt_ros.geometry import (
    extrinsics_from_pose_encoding,
    homogeneous,
    intrinsics_from_pose_encoding,
    inverse_rigid,
)
from vggt_ros.mapping.alignment import WindowGeometry
from vggt_ros.mapping.baseline import CameraPair
from vggt_ros.mapping.map import Placement


def window_geometry(
    frame_ids: tuple[int, ...],
    frames: Sequence[WindowFrame],
    result: InferenceResult,
    *,
    calibrated: bool,
) -> tuple[WindowGeometry, float | None]:
    """Cameras and depth of a window in its own gauge, and the newest focal length ratio.

    With `calibrated`, K is that of the frames that have one, else the network's. The ratio is the
    network's focal length over the calibrated one; None without any.
    """
    height, width = frames[-1].pixels.shape[:2]
    encoding = result.pose_encoding.astype(np.float64)
    window_from_camera = homogeneous(inverse_rigid(extrinsics_from_pose_encoding(encoding)))
    intrinsics = np.array(intrinsics_from_pose_encoding(encoding, height, width))
    focal = None
    for i, frame in enumerate(frames):
        if frame.frame.intrinsics is not None:
            known = frame.grid.network_from_input @ frame.frame.intrinsics
            focal = float(intrinsics[i, 0, 0] / known[0, 0])
            if calibrated:
                intrinsics[i] = known
    geometry = WindowGeometry(
        frame_ids, window_from_camera, intrinsics, result.depth, result.confidence
    )
    return geometry, focal


def camera_pair(
    extra: Float[np.ndarray, "9"],
    newest: Float[np.ndarray, "9"],
    camera_from_extra: Float[np.ndarray, "4 4"],
) -> CameraPair:
    """Where a second camera stands, by the pose encodings of one window and as mounted."""
    encodings = np.stack([extra, newest]).astype(np.float64)
    extra_from_window, camera_from_window = homogeneous(extrinsics_from_pose_encoding(encodings))
    return CameraPair(camera_from_window @ inverse_rigid(extra_from_window), camera_from_extra)


def place_views(
    window: WindowGeometry,
    frames: Sequence[WindowFrame],
    placed: Placement,
    known: Mapping[int, View],
) -> dict[int, View]:
    """The window's views in the world, by frame; frames without depth stay as they are known."""
    unit = np.float32(placed.registration.world_from_window.scale)
    segment = placed.registration.segment
    without_depth = len(window.frame_ids) - len(window.depth)
    views: dict[int, View] = {}
    for i, (key, frame) in enumerate(zip(window.frame_ids, frames, strict=True)):
        j = i - without_depth
        if j < 0 and key in known:
            views[key] = known[key].rescaled(placed.rescaled, placed.about, segment)
            continue
        views[key] = View(
            frame_id=key,
            stamp_ns=frame.frame.stamp_ns,
            camera=frame.frame.camera,
            grid=frame.grid,
            rgb=frame.pixels,
            intrinsics=window.intrinsics[i],
            world_from_camera=placed.world_from_camera[i],
            depth=window.depth[j] * unit if j >= 0 else None,
            confidence=window.confidence[j] if j >= 0 else None,
            input_rgb=frame.frame.rgb,
            segment=segment,
        )
    return views
