# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network that returns at once, of one camera or of a rig, to measure what is beside it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.geometry import inverse_rigid, quaternion_from_rotation

STEP = 0.02  # by which the cameras move aside from one instant to the next
APART = float(np.deg2rad(72.0))  # between two cameras of a rig beside each other, and
ARM = 0.1  # by which each stands further to the right than the one before


def mounts(cameras: int) -> Float[np.ndarray, "n 4 4"]:
    """first_from_camera of each camera of a rig, in the network's unit."""
    angles = APART * np.arange(cameras)
    poses = np.tile(np.eye(4), (cameras, 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angles)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angles), -np.sin(angles)
    poses[:, 0, 3] = ARM * np.arange(cameras)
    return poses


class InstantEngine:
    """A network that returns at once: a tilted plane, high confidence, all queries visible."""

    name, device, dtype, random_weights = "instant", "none", "float32", False
    fingerprint, layout = "instant", "joint"
    compiling, cache_fault, trackless = (), "", ""

    def __init__(self, width: int, cameras: int = 1):
        """Frames are those of instants of so many cameras, of which none is ever missing."""
        self.default_width = width
        self._mounts = mounts(cameras)

    def prepare(self, *_: object, **__: object) -> None: ...

    def reset(self) -> None: ...

    def obstacle(self, *_: object, **__: object) -> str:
        return ""

    def close(self, timeout: float) -> bool:
        return True

    def describe(self, frame_id: int) -> Float32[np.ndarray, "2"]:
        return np.array([np.cos(0.1 * frame_id), np.sin(0.1 * frame_id)], np.float32)

    def infer(
        self,
        frame_ids,
        images,
        *,
        depth_frames: int,
        queries=None,
        query_frame: int = 0,
        views: int = 0,
    ) -> InferenceResult:
        height, width = images[-1].shape[:2]
        encoding = self._encoded(frame_ids)
        plane = np.linspace(1, 4, width, dtype=np.float32) + np.zeros((height, 1), np.float32)
        depth = np.broadcast_to(plane, (depth_frames, height, width))
        confidence = np.full_like(depth, 4.0)
        if queries is None:
            return InferenceResult(encoding, depth, confidence)
        tracks = np.broadcast_to(queries, (len(frame_ids), *queries.shape))
        ones = np.ones(tracks.shape[:2], np.float32)
        return InferenceResult(encoding, depth, confidence, tracks, ones, ones)

    def _encoded(self, frame_ids: Sequence[int]) -> Float32[np.ndarray, "s 9"]:
        """The cameras seen from the first, with fields of view of one radian."""
        instants, cameras = np.divmod(np.array(frame_ids), len(self._mounts))
        world_from_camera = self._mounts[cameras]
        world_from_camera[:, 0, 3] += STEP * instants
        camera_from_first = inverse_rigid(world_from_camera) @ world_from_camera[0]
        encoding = np.ones((len(frame_ids), 9), np.float32)
        encoding[:, :3] = camera_from_first[:, :3, 3]
        encoding[:, 3:7] = quaternion_from_rotation(camera_from_first[:, :3, :3])
        return encoding
