# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The second camera of a rig, for scale source baseline: its picture of a moment, and its place.

The callback keeps the last few messages; the worker's thread asks for the one that belongs to an
image, and only when the pipeline wants it.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Companion, Frame
from vggt_ros.ros.inputs import frame_from
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf_cache import Frames
from vggt_ros.second_camera import SAME_TIME_NS

KEPT = 8  # messages: a quarter of a second of most cameras
WAIT = 0.05  # seconds for a picture that was taken with the image and is still on its way
SILENCE_NS = 2_000_000_000  # by the images' stamps, before somebody is told
PATIENCE = 5  # waits in vain before no picture is waited for any more
LEAST = 1e-3  # metres between two cameras

Say = Callable[[str], object]


class Companions:
    """Pictures of the other camera.  Callbacks store; `of` runs in the worker's thread."""

    def __init__(self, node: Node, parameters: Parameters, frames: Frames | None, say: Say):
        self._frames, self._say = frames, say
        self._messages: deque[Image | CompressedImage] = deque(maxlen=KEPT)
        self._vain = 0  # waits in a row for nothing
        self._first_ns = 0  # of the images, when one was first missed
        kind, topic = Image, "baseline_image"
        if parameters.image_transport == "compressed":
            kind, topic = CompressedImage, node.resolve_topic_name(topic) + "/compressed"
        qos = QoSProfile(
            depth=5, reliability=ReliabilityPolicy[parameters.image_reliability.upper()]
        )
        self.topic = node.create_subscription(
            kind,
            topic,
            self._on_image,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        ).topic_name

    def _on_image(self, msg: Any) -> None:
        self._messages.append(msg)

    def of(self, frame: Frame) -> Companion | None:
        """What the other camera saw when this frame was taken; None, and said, where it is missing.

        Waits `WAIT` seconds at most for a late picture and `tf_wait` for its place.
        """
        msg = self._paired(frame.stamp_ns)
        if msg is None:
            return None
        try:
            place = self._place(msg.header.frame_id, frame)
            return Companion(frame_from(msg).rgb, stamp_ns(msg.header.stamp), place)
        except UserError as error:
            self._say(f"baseline_image is not used: {error}")
            return None

    def _paired(self, ns: int) -> Image | CompressedImage | None:
        """The message whose stamp is that of the image, or else the nearest."""
        end = time.monotonic() + (WAIT if self._vain < PATIENCE else 0.0)
        while True:
            msg = min(
                tuple(self._messages),
                key=lambda m: abs(stamp_ns(m.header.stamp) - ns),
                default=None,
            )
            apart = SILENCE_NS if msg is None else stamp_ns(msg.header.stamp) - ns
            if msg is not None and abs(apart) <= SAME_TIME_NS:
                self._first_ns = self._vain = 0
                return msg
            # Its stamp is still to come, and the camera is alive: then a moment is worth it.
            if not -SILENCE_NS < apart < 0 or time.monotonic() > end:
                break
            time.sleep(0.002)
        self._vain += 1
        self._missed(ns, apart)
        return None

    def _missed(self, ns: int, apart: int) -> None:
        if abs(apart) < SILENCE_NS:
            self._say(
                "baseline_image is not used: its nearest picture is"
                f" {apart * 1e-6:+.1f} ms from the image, {SAME_TIME_NS * 1e-6:.0f} ms are allowed;"
                " trigger both cameras together"
            )
            return
        self._first_ns = self._first_ns or ns
        if not 0 <= ns - self._first_ns < SILENCE_NS:
            self._say(
                f"scale_source baseline: nothing came on '{self.topic}' for two seconds;"
                " remap baseline_image to the second camera"
            )

    def _place(self, other: str, frame: Frame) -> Float[np.ndarray, "4 4"]:
        """`camera_from_other`.  Raises `UserError` where nobody tells it."""
        if other == frame.camera:
            raise UserError(
                f"both cameras say frame_id '{other}'; give the second one its own, with a place in"
                " the robot's description"
            )
        if self._frames is None:
            raise UserError("tf2_msgs is not installed, so /tf cannot tell where its camera is")
        found = self._frames.late(frame.camera, other, frame.stamp_ns)
        if found is None:
            raise UserError(
                f"/tf does not connect '{other}' with '{frame.camera}'; publish the robot's"
                " description with both cameras"
            )
        if float(np.linalg.norm(found[:3, 3])) < LEAST:
            raise UserError(f"/tf puts '{other}' where '{frame.camera}' is")
        return found
