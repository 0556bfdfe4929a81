# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""camera_info of a sensor beside the camera: given by name, or published beside its images."""

from typing import Any

from sensor_msgs.msg import CameraInfo

from vggt_ros.ros.frame_names import FrameNames, frame_name
from vggt_ros.ros.subscriptions.input_topics import InputTopics, beside

KEPT = 32  # frames; a rig has fewer cameras


class CameraInfos:
    """The newest camera_info of one sensor.  Callbacks store; `of` is called by any thread.

    A message on the input that is named for it is the sensor's. Of those beside the images, where
    drivers publish them, it is the one with the images' frame_id: several cameras may share a
    namespace, and so this topic.
    """

    def __init__(self, inputs: InputTopics, name: str, images: str, names: FrameNames):
        """`name`: the input's; `images`: the topic of the images, resolved."""
        self._names, self._name = names, name
        self._given: CameraInfo | None = None
        self._beside: dict[str, CameraInfo] = {}  # by frame
        there = beside(images)
        self._is_shared = there in (inputs.resolve("camera_info"), beside(inputs.resolve("image")))
        given = inputs.subscribe(CameraInfo, name, self._on_given, kept=True).topic
        inputs.subscribe(CameraInfo, there, self._on_beside, kept=True)
        self.topics = f"'{given}' or '{there}'"

    def _on_given(self, msg: Any) -> None:
        self._given = msg

    def _on_beside(self, msg: Any) -> None:
        frame = self._names.of(f"camera_info beside {self._name}", msg.header.frame_id)
        others = {other: info for other, info in self._beside.items() if other != frame}
        self._beside = dict([(frame, msg), *others.items()][:KEPT])  # replaced whole: others read

    @property
    def frames(self) -> tuple[str, ...]:
        """Frames whose camera_info came."""
        given = () if self._given is None else (frame_name(self._given.header.frame_id),)
        return (*given, *self._beside)

    def of(self, frame: str) -> CameraInfo | None:
        """That of images with this frame_id; None: none came so far."""
        nameless = None if self._is_shared else self._beside.get("")
        return self._given or self._beside.get(frame) or nameless
