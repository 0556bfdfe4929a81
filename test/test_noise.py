# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the map learns of a network's errors: which of depth and baselines it may trust."""

import numpy as np
from fakes.oracle import Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, INTRINSICS, drive, numbered_image

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping import alignment
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.segment import empty_map
from vggt_ros.mapping.window import WindowGeometry
from vggt_ros.views import camera_from_encoding


def learnt(faults: Faults, frames: int = 120) -> NoiseEstimate:
    """After a drive through the room in windows of four, the newest three of them with depth."""
    truth = drive("arc", frames) @ BASE_FROM_CAMERA
    oracle, state = Oracle(truth, faults), empty_map()
    for last in range(4, frames):
        ids = tuple(range(last - 3, last + 1))
        found = oracle.infer(ids, [numbered_image(i) for i in ids], depth_frames=3)
        poses = np.stack([camera_from_encoding(each) for each in found.pose_encoding])
        window = WindowGeometry(
            ids,
            inverse_rigid(poses[0]) @ poses,
            np.tile(INTRINSICS, (4, 1, 1)),
            found.depth,
            found.confidence,
        )
        state, _ = alignment.register(state, window)
    return state.noise


def test_depth_that_differs_from_window_to_window_is_trusted_less_than_baselines():
    noise = learnt(Faults(depth=0.01, outliers=0.0, frame_scale=0.05, pose_degrees=0.05))
    # Of the mean of two frames, each against what the map has of it: 0.05 to 0.05 / sqrt(2).
    assert 0.025 < noise.depth_scale < 0.06
    assert noise.baseline_scale < 0.5 * noise.depth_scale


def test_lengths_that_differ_from_window_to_window_are_trusted_less_than_depth():
    noise = learnt(Faults(depth=0.01, outliers=0.0, frame_scale=0.005, length=0.2))
    assert noise.depth_scale < 0.02
    assert noise.baseline_scale > 3.0 * noise.depth_scale
