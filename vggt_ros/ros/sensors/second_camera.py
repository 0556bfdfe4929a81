# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The second camera of a rig, for scale source baseline: its image at a stamp, lens, and mount.

The callback keeps the last few messages; the worker's thread takes the one that belongs to an
image, and only when the pipeline needs it.
"""

from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.errors import UserError, sentence
from vggt_ros.frames import ExtraView, Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.mapping.metric.baseline import SAME_TIME_NS
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.health.source_health import PATIENCE_NS, SourceHealth, Warnings
from vggt_ros.ros.inputs import CameraInput, CameraReports, frame_from
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.sensors.camera_infos import CameraInfos
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames
from vggt_ros.ros.waiting import Waiting, before, nearest

KEPT = 8  # messages: a quarter of a second of most cameras
WAIT = 0.05  # seconds for an image that was taken with the first and has not arrived yet
MIN_DISTANCE = 1e-3  # metres between two cameras


class SecondCamera:
    """Images of the other camera.  Callbacks store; `view_at` runs in the worker's thread."""

    def __init__(
        self, inputs: InputTopics, parameters: Parameters, frames: Frames | None, warnings: Warnings
    ):
        self._frames, self._notify, self._warnings = frames, warnings.notify, warnings
        self._names = FrameNames(warnings.notify)
        self._reader = ImageReader(parameters.mono16_bits, parameters.mono16_black)
        self._messages: deque[Image | CompressedImage] = deque(maxlen=KEPT)
        self._waiting = Waiting(WAIT)
        self._input = inputs.subscribe_to_images("baseline_image", self._on_image)
        self._infos = CameraInfos(inputs, "baseline_camera_info", self.topic, self._names)
        self._lens = self._lens_input(parameters)
        self._lens_fault = ""  # of the last image
        self._as_they_come = 0  # images without a camera_info that fits, in a row
        self._health = SourceHealth(
            "scale_source baseline",
            f"'{self.topic}'",
            "remap baseline_image to the second camera",
            warnings,
        )

    @property
    def topic(self) -> str:
        """Where its images are expected."""
        return self._input.topic

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: with a later image none would be waited for."""
        self._messages = deque(before(self._messages, ns), KEPT)

    @property
    def stamps(self) -> tuple[int, ...]:
        """Stamps of the kept images."""
        return tuple(stamp_ns(msg.header.stamp) for msg in tuple(self._messages))

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Frames whose camera_info came."""
        return self._infos.frames

    def _on_image(self, msg: Any) -> None:
        self._health.hear(stamp_ns(msg.header.stamp))
        self._messages.append(msg)

    def view_at(self, frame: Frame) -> ExtraView | None:
        """The other camera's view at this frame's stamp; None, and a warning, where it is missing.

        Waits `WAIT` seconds at most for a late image and `tf_wait` for its mount.
        """
        msg = self._paired(frame.stamp_ns)
        if msg is None:
            return None
        fault = ""
        try:
            other = self._names.of("baseline_image", msg.header.frame_id)
            mount = self._mount(other, frame)
            seen = frame_from(msg, self._reader)
            for notice in self._reader.notices:
                self._notify(f"baseline_image, {notice}")
            self._reader.notices.clear()
            seen = self._read(seen, other, frame)
            return ExtraView(seen.rgb, seen.stamp_ns, mount, seen.rectification)
        except Exception as error:  # whatever is wrong with it: the image is used without
            fault = f"baseline_image is not used: {sentence(error)}"
            return None
        finally:
            self._health.check(frame.stamp_ns, served=not fault, fault=fault)

    def _lens_input(self, parameters: Parameters) -> CameraInput:
        """Its images are read as the first camera's are; no K of them is asked for."""
        reports = CameraReports(
            lambda text: self._notify(f"baseline_image: {text}"),
            lambda text: self._notify(f"baseline_image: {text}"),
            self._keep_lens_fault,
            lambda text: self._warnings.describe("second camera", text),
            lambda text: None,
        )
        return CameraInput(self.topic, parameters.rectify, "", reports)

    def _keep_lens_fault(self, text: str) -> None:
        self._lens_fault = text

    def _read(self, seen: Frame, other: str, frame: Frame) -> Frame:
        """The image with its lens; where that is not undone, a warning that lasts."""
        info = self._infos.of(other)
        if info is not None:
            self._lens.hear(info)
        read, _ = self._lens.read(seen)
        fault = self._lens_fault
        if not fault and frame.rectification is not None and self._lens.calibration is None:
            fault = (
                "the first camera's lens is undone, but of this one there is no usable camera_info"
                f" on {self._infos.topics} with frame_id '{other}'"
            )
        self._as_they_come = self._as_they_come + 1 if read.intrinsics is None else 0
        if fault and self._as_they_come:
            fault += f" ({self._as_they_come} of its images were used as they come)"
        self._warnings.set("lens of baseline_image", fault and f"baseline_image: {fault}")
        return read

    def _paired(self, ns: int) -> Image | CompressedImage | None:
        """The message whose stamp is that of the image, or else the nearest."""
        msg, apart = self._waiting.until(
            lambda: nearest(tuple(self._messages), ns),
            lambda seen: seen[1] is not None and abs(seen[1]) <= SAME_TIME_NS,
            # The camera is running and this image is still to come: a short wait is worth it.
            lambda seen: seen[1] is None or not -PATIENCE_NS < seen[1] < 0,
        )
        if apart is not None and abs(apart) <= SAME_TIME_NS:
            return msg
        self._missed(ns, apart)
        return None

    def _missed(self, ns: int, apart: int | None) -> None:
        fault = ""
        if apart is not None and abs(apart) < PATIENCE_NS:
            fault = (
                "baseline_image is not used: its nearest image is"
                f" {apart * 1e-6:+.1f} ms from the first camera's,"
                f" {SAME_TIME_NS * 1e-6:.0f} ms are allowed; trigger both cameras together"
            )
        self._health.check(ns, served=False, apart_ns=apart, allowed_ns=SAME_TIME_NS, fault=fault)

    def _mount(self, other: str, frame: Frame) -> Float[np.ndarray, "4 4"]:
        """`camera_from_other`.  Raises `UserError` where /tf does not have it."""
        if other == frame.camera:
            raise UserError(
                f"both cameras have frame_id '{other}'; give the second one its own, with a"
                " place in the robot's description"
            )
        if self._frames is None:
            raise UserError("tf2_msgs is not installed, so its camera's place is not known")
        found = self._frames.wait_for(frame.camera, other, frame.stamp_ns)
        if found is None:
            raise UserError(
                f"/tf does not connect '{other}' with '{frame.camera}'; publish the robot's"
                " description with both cameras"
            )
        if float(np.linalg.norm(found[:3, 3])) < MIN_DISTANCE:
            raise UserError(f"/tf puts '{other}' where '{frame.camera}' is")
        return found
