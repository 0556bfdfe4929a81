# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Updates made by hand: a camera that moves sideways along a wall, and snapshots of keyframes."""

from collections.abc import Iterable, Mapping

import numpy as np

from vggt_ros.frames import NO_KEYFRAMES, Update, View
from vggt_ros.geometry import WORLD_FROM_OPTICAL, Similarity
from vggt_ros.imaging.grid import grid_for
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.segment import Registration
from vggt_ros.mapping.velocity import UNKNOWN_VARIANCE

CAMERA = "camera_optical"
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000  # nanoseconds
STEP, DEPTH = 0.5, 2.0  # metres between two frames, and to the wall
SIZE = 28, 42  # pixels
K = np.array([[30.0, 0, 21], [0, 30, 14], [0, 0, 1]])
RGB = np.full((*SIZE, 3), 100, np.uint8)


def stamp(i: int) -> int:
    return START + i * PERIOD


def pose(i: int) -> np.ndarray:
    """world_from_camera of frame i, which looks along x and stands at y = -STEP i."""
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = WORLD_FROM_OPTICAL
    world_from_camera[1, 3] = -STEP * i
    return world_from_camera


def view(i: int, **changes) -> View:
    """Frame i with its depth; it is a keyframe of its own unless `changes` say otherwise."""
    grid = grid_for(SIZE[1], SIZE[0], SIZE[1])
    depth = np.full(SIZE, DEPTH, np.float32)
    confidence = np.full(SIZE, 3.0, np.float32)
    made = View(i, stamp(i), CAMERA, grid, RGB, K, pose(i), depth, confidence, RGB, keyframe=i)
    return made._replace(**changes)


def keyframes(
    frames: Iterable[int],
    *,
    moved: Similarity | None = None,
    segments: Mapping[int, int] | None = None,
    **changes,
) -> KeyframePoses:
    """Those frames as keyframes, all moved by one similarity of the world."""
    motion, ids = moved or Similarity.identity(), np.array(sorted(frames), np.int64)
    poses = [motion.apply_to_poses(pose(i)[None])[0] for i in ids]
    made = KeyframePoses(
        ids,
        np.array([stamp(i) for i in ids], np.int64),
        np.array([(segments or {}).get(i, 0) for i in ids], np.int64),
        np.full(len(ids), float(motion.scale)),
        np.array([each[:3, :3] for each in poses]).reshape(-1, 3, 3),
        np.array([each[:3, 3] for each in poses]).reshape(-1, 3),
    )
    return made._replace(**changes)


def registration(
    *, accepted: bool = True, doubtful: bool = False, segment: int = 0, reason: str = ""
) -> Registration:
    gauge, covariance = Similarity.identity(), (1e-4 if accepted else UNKNOWN_VARIANCE) * np.eye(6)
    return Registration(
        gauge, accepted, segment, 0.01, 0.9, covariance, reason, None, doubtful=doubtful
    )


def update(
    views: Iterable[View | int], poses: KeyframePoses = NO_KEYFRAMES, fresh: int = 1, **changes
) -> Update:
    """An update about these views; `changes` are fields of it, or of its registration."""
    names = ("accepted", "doubtful", "segment", "reason")
    found = registration(**{name: changes.pop(name) for name in names if name in changes})
    made = tuple(view(each) if isinstance(each, int) else each for each in views)
    return Update(made, fresh, None, 0, found, {}, keyframes=poses, **changes)
