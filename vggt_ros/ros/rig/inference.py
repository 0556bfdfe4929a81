# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The inference thread of a rig: the images of an instant are read, and inferred together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vggt_ros.errors import FrameError, UserError
from vggt_ros.files import atomic_write
from vggt_ros.frames import Frame, Instant, Update
from vggt_ros.mapping.rig.report import LAUNCH_FILE, RigReport, launch_file
from vggt_ros.msg import QueryPoints
from vggt_ros.ros.frame_names import frame_name
from vggt_ros.ros.inference import InferenceWorker
from vggt_ros.ros.rig.camera import RigCamera
from vggt_ros.ros.rig.cameras import RigTask
from vggt_ros.ros.rig.mounts import RigMounts
from vggt_ros.ros.rig.report import RigReports
from vggt_ros.timeline import SizeGate


class ReadInstant(NamedTuple):
    """The frames of an instant, in the order of the cameras."""

    frames: tuple[Frame, ...]
    stamp_ns: int


class RigInference(InferenceWorker):
    """The same for several cameras; `cameras` in the order of the parameter."""

    def __init__(self, *args: Any, cameras: Mapping[str, RigCamera], **more: Any):
        super().__init__(*args, **more)
        self._cameras = cameras
        frames = self._robot.frames
        self._settle = None if frames is None else frames.settle
        self._in_hand: list[RigCamera] = []  # whose images are being inferred
        self._forget_rig()

    def _forget_rig(self) -> None:
        frames = self._robot.frames
        self._mounts = RigMounts(
            None if frames is None else lambda: frames.tree,
            self._parameters.base_frame,
            lambda subject, text: self._health.set_warning(subject, text, "tf"),
        )
        self._reports = RigReports(self._health)
        self._optical: dict[str, str] = {}  # frames of the cameras, by their names
        self._newest: RigReport | None = None

    def release(self) -> None:
        """The same; cameras of any size and any place may be the first again."""
        super().release()
        self._forget_rig()
        for camera in self._cameras.values():
            camera.sizes = SizeGate()

    def _read(self, task: RigTask) -> tuple[ReadInstant, bool]:
        """Its frames; those that cannot be read are left out.

        Raises `UserError` where too few cameras are left, and `Compiling`.
        """
        self._in_hand = [self._cameras[name] for name in self._cameras if name in task.images]
        frames, other_pixels = [], False
        for camera in tuple(self._in_hand):
            try:
                frame, is_other = camera.read(task.images[camera.name])
            except UserError as error:
                self._in_hand.remove(camera)
                camera.refuse(str(error))
                continue
            frames.append(frame)
            other_pixels |= is_other
            self._optical[camera.name] = frame.camera
        needed = self._parameters.min_cameras
        if len(frames) < needed:
            raise FrameError(f"an instant has {len(frames)} cameras left, {needed} are needed")
        for frame in frames:
            height, width = frame.rgb.shape[:2]
            self._prepare(width, height)
            self._cameras[frame.camera_name].sizes.use(width, height)
        return ReadInstant(tuple(frames), frames[0].stamp_ns), other_pixels

    def _feed(self, instant: ReadInstant) -> Update | None:
        needs = self.pipeline.needs(instant.stamp_ns)
        observations = tuple(
            self._robot.observe(frame, needs, is_first=i == 0)
            for i, frame in enumerate(instant.frames)
        )
        if self._settle is not None:
            self._settle()
            self._settle = None
        order = {name: self._optical[name] for name in self._cameras if name in self._optical}
        mounts = self._mounts.at(instant.stamp_ns, order)
        try:
            update = self.pipeline.step(Instant(observations, mounts))
        finally:
            for name, text in self.pipeline.cameras.refused:
                camera = self._cameras[name]
                if camera in self._in_hand:
                    self._in_hand.remove(camera)
                camera.refuse(text)
            self.pipeline.cameras.refused.clear()
        self._report(None if update is None else update.rig)
        return update

    def _report(self, report: RigReport | None) -> None:
        if report is not None:
            self._reports.update(report)
            self._newest = report

    def save_map(self, folder: Path) -> str:
        """The same, and beside the map a launch file of where /tf does not have cameras."""
        done = super().save_map(folder)
        text = "" if self._newest is None else launch_file(self._newest)
        if not text:
            return done
        path = folder.expanduser().absolute() / LAUNCH_FILE
        try:
            with atomic_write(path) as file:
                file.write(text.encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        return f"{done}, and {LAUNCH_FILE}"

    def _count_used(self) -> None:
        super()._count_used()
        self._count("used", first=True)

    def _wait(self, reason: str) -> None:
        super()._wait(reason)
        self._count("waiting for a program", first=True)

    def _refuse(self, text: str) -> None:
        """All images of the instant that were not refused before."""
        for camera in self._in_hand:
            camera.refuse(text)
        self._in_hand = []

    def _count(self, what: str, *, first: bool) -> None:
        """What became of the images; that of the first is in the node's own count already."""
        for camera in self._in_hand:
            camera.count(what, is_counted=first)
            first = False
        self._in_hand = []

    def _camera_of(self, msg: QueryPoints) -> str:
        return frame_name(msg.header.frame_id)
