# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A scripted map: updates whose cameras stand where a drifting map thought they were."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fakes.planar_engine import planar_engine_of_a_run
from run_frames import wall_frame

from vggt_ros.frames import Frame, Instant, Observation, Update, View
from vggt_ros.geometry import Similarity, rotation_from_quaternion
from vggt_ros.imaging.grid import Grid, grid_for
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.segment import Registration
from vggt_ros.mapping.status import NO_STATUS, MapStatus
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.sources.source import Source
from vggt_ros.windows.cameras import Cameras

STAY = Similarity.identity()
DRIFT = Similarity(
    1.3, rotation_from_quaternion(np.array([0.1, -0.2, 0.3, 0.9])), np.array([0.5, -2.0, 0.25])
)
FURTHER = Similarity.scaling(0.7, np.array([3.0, 1.0, 0.0]))


def true_pose(frame: int) -> np.ndarray:
    """world_from_camera: half a unit ahead from one frame to the next."""
    return wall_frame(0.5 * frame).world_from_camera


def snapshot(
    drift: Mapping[int, Similarity],
    segments: Mapping[int, int] | None = None,
    loops: Sequence[tuple[int, int]] = (),
    heirs: Mapping[int, int] | None = None,
) -> KeyframePoses:
    """Keyframes, each moved by its drift from where it truly stands."""
    ids = np.array(sorted(drift), np.int64)
    poses = []
    for key in ids.tolist():
        truth = true_pose(key)
        poses.append(drift[key] @ Similarity(1.0, truth[:3, :3], truth[:3, 3]))
    return KeyframePoses(
        ids,
        ids,
        np.array([(segments or {}).get(key, 0) for key in ids.tolist()], np.int64),
        np.array([pose.scale for pose in poses], float),
        np.array([pose.rotation for pose in poses]).reshape(-1, 3, 3),
        np.array([pose.translation for pose in poses]).reshape(-1, 3),
        np.array(loops, np.int64).reshape(-1, 2),
        heirs or {},
    )


def update(
    frame: int,
    keyframe: int,
    keyframes: KeyframePoses,
    drift: Similarity = STAY,
    *,
    accepted: bool = True,
    doubtful: bool = False,
    segment: int = 0,
    status: MapStatus = NO_STATUS,
) -> Update:
    """One new view, displaced by a drift; its keyframe is displaced likewise in `keyframes`."""
    seen = wall_frame(0.5 * frame)
    view = View(
        frame_id=frame,
        stamp_ns=frame + 1,
        camera="camera",
        grid=grid_for(56, 42, 56),
        rgb=seen.image,
        intrinsics=seen.intrinsics,
        world_from_camera=drift.apply_to_poses(seen.world_from_camera[None])[0],
        depth=seen.depth * np.float32(drift.scale),
        confidence=seen.confidence,
        input_rgb=seen.image,
        segment=segment,
        keyframe=keyframe,
    )
    found = Registration(
        STAY, accepted, segment, 0.0, 1.0, np.eye(6), "" if accepted else "no", doubtful=doubtful
    )
    return Update((view,), 1, None, frame, found, {}, keyframes=keyframes, status=status)


class ScriptedPipeline:
    """A pipeline that gives one update a frame; an exception among them is raised."""

    def __init__(self, updates: Sequence[Update | BaseException], last: KeyframePoses | None):
        self.settings, self.notices = Settings(), []
        self.masking, self.cameras = self.settings.masking(), Cameras((), self.grid, print)
        self._updates, self._last = iter(updates), last

    def grid(self, width: int, height: int) -> Grid:
        """As `Pipeline.grid`."""
        return grid_for(width, height, 56)

    def step(self, observation: Observation | Instant) -> Update:
        """The next update."""
        found = next(self._updates)
        if isinstance(found, BaseException):
            raise found
        return found

    def finish(self) -> None:
        """No frame waits for the end."""

    def settle(self) -> KeyframePoses | None:
        """The keyframes as a loop moved them that was still being solved."""
        return self._last


def scripted_job(
    writer: RunWriter,
    updates: Sequence[Update | BaseException],
    last: KeyframePoses | None = None,
    *,
    fuse: bool = False,
) -> Job:
    """A job that is given these updates, in which each frame sees a wall of its own."""
    source = Source(writer.path, "list", "", ())
    job = Job(planar_engine_of_a_run(), Settings(), source, writer, fuse=fuse)
    job.pipeline = ScriptedPipeline(updates, last)
    return job


def images(count: int) -> list[Frame]:
    """Frames that the script does not look at."""
    return [Frame(np.zeros((42, 56, 3), np.uint8), index + 1) for index in range(count)]


def scripted_run(
    path: Path,
    updates: Sequence[Update],
    last: KeyframePoses | None = None,
    overview: bool = False,
    fuse: bool = False,
) -> Run:
    """The finished run of these updates."""
    with RunWriter(path, {}) as writer:
        job = scripted_job(writer, updates, last, fuse=fuse)
        job.run(images(len(updates)), overview=overview, quiet=True)
    return open_run(path)


def assert_true(run: Run, frames: Sequence[int]) -> None:
    """These frames stand where they truly do, in their files and in the trajectory."""
    poses = run.trajectory().world_from_camera
    for index in frames:
        frame = run.frame(index)
        np.testing.assert_allclose(frame.world_from_camera, true_pose(index), atol=1e-9)
        np.testing.assert_allclose(poses[index], true_pose(index), atol=1e-7)
        np.testing.assert_allclose(frame.depth, 2.0, rtol=1e-6)
