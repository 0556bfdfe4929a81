# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The inference thread of a single camera: one image is one frame."""

from typing import Any

from vggt_ros.frames import Frame, Update
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.msg import QueryPoints
from vggt_ros.ros.frame_names import FrameNames, frame_name
from vggt_ros.ros.inference import InferenceWorker
from vggt_ros.ros.inputs import CameraInput, frame_from
from vggt_ros.ros.tasks import Task
from vggt_ros.timeline import SizeGate


class CameraInference(InferenceWorker):
    """Reads images of one camera by `camera`."""

    def __init__(self, *args: Any, camera: CameraInput):
        super().__init__(*args)
        self.camera = camera
        self._sizes = SizeGate()
        self._reader = ImageReader(self._parameters.mono16_bits, self._parameters.mono16_black)
        self._names = FrameNames(self._health.notice)
        self._frame_id = ""  # of the newest image

    def release(self) -> None:
        """The same; images of any size may be the first again."""
        super().release()
        self._sizes = SizeGate()

    def _read(self, task: Task) -> tuple[Frame, bool]:
        frame = frame_from(task.msg, self._reader)
        self._frame_id = frame.camera
        self._names.of("the image", task.msg.header.frame_id)
        self._pass_on(self._reader.notices)
        self._make_ready(frame)
        return self.camera.read(frame)

    def _camera_of(self, msg: QueryPoints) -> str:
        """Any: there is one. A message for another one is a mistake that is said."""
        named, own = frame_name(msg.header.frame_id), self._frame_id
        if named and own and named != own:
            self._health.notice(
                f"query_points is of another frame_id: '{named}', and images of '{own}'; its pixels"
                " are tracked in these: send it to the node of its camera, or leave frame_id empty"
            )
        return ""

    def _feed(self, frame: Frame) -> Update | None:
        needs = self.pipeline.needs(frame.stamp_ns)
        return self.pipeline.step(self._robot.observe(frame, needs))

    def _make_ready(self, frame: Frame) -> None:
        """Start to compile for images of this size; raises `Compiling` until a window can run.

        Called before the pipeline takes the frame, so that images of another size in between do
        not disturb its window.  Raises `FrameError` for a size that is not (yet) accepted.
        """
        height, width = frame.rgb.shape[:2]
        self._sizes.check(width, height)
        self._prepare(width, height)
        self._sizes.use(width, height)
