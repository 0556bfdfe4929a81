# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the map learns of a network's errors: which of depth and baselines it may trust."""

from dataclasses import replace

import numpy as np
from fakes.oracle import Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, INTRINSICS, drive, numbered_image

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping import alignment
from vggt_ros.mapping.map_frames import MapFrame
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.registration import CENTRE_FLOOR, estimate_scale
from vggt_ros.mapping.segment import empty_map
from vggt_ros.mapping.window import WindowGeometry, camera_from_encoding


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


def test_noise_of_cameras_does_not_shrink_a_window():
    """Centres observed once spread wider than those of the map, which are means."""
    random, relative = np.random.default_rng(0), 0.1  # noise of a centre, of its distance
    centres = np.outer(np.arange(5), [0.3, 0.02, 0.1])
    spread = np.linalg.norm(centres, axis=1) + CENTRE_FLOOR
    noise = replace(NoiseEstimate(), shifts=(relative,))
    found, by_spread = [], []
    for _ in range(400):
        frames = []
        for observations in (9.0, 1.0):  # in the map, in the window
            sigma = relative * spread[:, None] / np.sqrt(observations)
            poses = np.tile(np.eye(4), (5, 1, 1))
            poses[:, :3, 3] = centres + sigma * random.standard_normal((5, 3))
            frames.append(
                [
                    MapFrame(i, pose, INTRINSICS, None, 0.0, observations, observations / s**2)
                    for i, (pose, s) in enumerate(zip(poses, spread, strict=True))
                ]
            )
        fit = estimate_scale(list(zip(*frames, strict=True)), spread, 1.0, 1.0, noise)
        found.append(fit.by_baselines)
        widths = [np.std([f.world_from_camera[:3, 3] for f in each], axis=0) for each in frames]
        by_spread.append(np.log(np.linalg.norm(widths[0]) / np.linalg.norm(widths[1])))
    of_mean = np.std(found) / np.sqrt(len(found))
    assert of_mean < 0.005 and abs(np.mean(found)) < 3.0 * of_mean
    assert np.mean(by_spread) < -4.0 * of_mean  # what the ratio of both spreads would give
