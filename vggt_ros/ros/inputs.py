# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The door: what can be told from a message's header is told before the message takes the slot."""

from enum import Enum, auto
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, FrameError
from vggt_ros.ros.messages import intrinsics_from, rgb_from_compressed, rgb_from_image, stamp_ns


class Admission(Enum):
    """What becomes of a frame that is not refused."""

    USE = auto()
    SKIP = auto()  # max_rate_hz: it comes too soon
    RESTART = auto()  # the first of a new timeline: a recording that was played again


class Door:
    """Stamps only ever go forward; a clock that stays back is believed after a few frames."""

    PATIENCE = 5

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the timeline."""
        self._last_ns = 0
        self._due_ns = 0
        self._back: list[int] = []

    def admit(self, ns: int, max_rate_hz: float) -> Admission:
        """Judge a stamp.  Raises `FrameError` that names the fault."""
        if ns <= 0:
            raise FrameError(
                f"the image's stamp is {'below ' if ns else ''}zero;"
                " the driver must stamp its images with the time"
            )
        if ns == self._last_ns:
            raise FrameError(f"the image's stamp repeats: {ns}; is the topic published twice?")
        if ns < self._last_ns:
            self._back = [*self._back, ns] if not self._back or ns > self._back[-1] else [ns]
            if len(self._back) <= self.PATIENCE:
                raise FrameError(
                    f"the image's stamp goes back: {ns} after {self._last_ns};"
                    " are there two publishers on the topic, or was a clock set back?"
                )
            self.reset()
            self._last_ns = ns
            return Admission.RESTART
        self._last_ns, self._back = ns, []
        return Admission.USE if self._is_due(ns, max_rate_hz) else Admission.SKIP

    def _is_due(self, ns: int, max_rate_hz: float) -> bool:
        period = round(1e9 / max_rate_hz) if max_rate_hz > 0 else 0
        if (
            ns < self._due_ns - period // 20
        ):  # a twentieth: stamps jitter, the rate should not halve
            return False
        late = ns - self._due_ns > period
        self._due_ns = (ns if late else self._due_ns) + period
        return True


class Calibration(NamedTuple):
    """What camera_info says, and for which picture."""

    intrinsics: Float[np.ndarray, "3 3"]
    width: int
    height: int

    @classmethod
    def of(cls, msg: CameraInfo) -> "Calibration":
        """Raises `UserError` where there is no calibration in it."""
        return cls(intrinsics_from(msg), msg.width, msg.height)

    def of_picture(self, width: int, height: int) -> Float[np.ndarray, "3 3"]:
        """K of a picture of this size.  Raises `UserError` where it belongs to another."""
        if (self.width, self.height) != (width, height):
            raise UserError(
                f"camera_info is of {self.width}x{self.height} pixels but the image has"
                f" {width}x{height}; the network's own intrinsics are used"
            )
        return self.intrinsics


def frame_from(msg: Image | CompressedImage) -> Frame:
    """The picture, decoded.  Raises `UserError` that names the fault."""
    rgb = rgb_from_image(msg) if isinstance(msg, Image) else rgb_from_compressed(msg)
    return Frame(rgb, stamp_ns(msg.header.stamp), msg.header.frame_id)
