# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network that knows the truth, and the pictures it looks at: a camera slides along a wall."""

import numpy as np

from vggt_ros.engine.interface import Look
from vggt_ros.frames import Frame

EPOCH = 1_700_000_000_123_456_789
HEIGHT, WIDTH = 42, 56  # network pixels; the camera has twice as many
STEP, WALL = 0.1, 2.0  # the camera slides to its right, along a wall straight ahead


class Rail:
    """A network that is right, up to the scale that each look is free to choose."""

    name, device, dtype, random_weights, default_width = "rail", "paper", "float32", False, WIDTH

    def __init__(self):
        self.looks = 0

    def look(self, frame_ids, images, *, depth_frames, queries=None, query_frame=0):
        unit = 0.5 + (self.looks * 0.37) % 1.0
        self.looks += 1
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        encoding[:, 0] = [-STEP * (i - frame_ids[0]) * unit for i in frame_ids]
        encoding[:, 6] = 1.0
        encoding[:, 7:] = 2 * np.arctan([HEIGHT / WIDTH / 2, 1 / 2])  # focal length = WIDTH
        depth = np.full((depth_frames, HEIGHT, WIDTH), WALL * unit, np.float32)
        confidence = np.full_like(depth, 4.0)
        confidence[:, :7] = 1.0  # the uppermost rows are guesses
        if queries is None:
            return Look(encoding, depth, confidence)
        shift = np.array([frame_ids[query_frame] - i for i in frame_ids]) * STEP / WALL * WIDTH
        tracks = queries + np.stack([shift, 0 * shift], -1)[:, None].astype(np.float32)
        ones = np.ones(tracks.shape[:2], np.float32)
        return Look(encoding, depth, confidence, tracks, ones * 0.75, ones * 0.5)

    def warm(self, *_, **__):
        pass

    def reset(self):
        pass


def picture(i: int) -> np.ndarray:
    rgb = np.full((2 * HEIGHT, 2 * WIDTH, 3), (i, 50, 200), np.uint8)
    rgb[:, WIDTH:, 1] = 90
    return rgb


def frames(count: int) -> list[Frame]:
    return [Frame(picture(i), EPOCH + i * 33_333_333) for i in range(count)]
