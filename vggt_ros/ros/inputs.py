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


class Sizes:
    """Pictures of a size that is new are believed once a few have come in a row.

    Programs are compiled for each size, which takes minutes on some devices: too much for a stray
    message.  The first size ever is believed at once, so that nothing waits at the start.
    """

    PATIENCE = 3
    SMALLEST = 32  # pixels of a side; no camera's picture is smaller, but many a mistake is

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] = set()
        self._new, self._in_a_row = (0, 0), 0

    def admit(self, width: int, height: int) -> None:
        """Raises `FrameError` for a picture too small, or of a size not (yet) believed."""
        size, side = (width, height), self.SMALLEST
        if min(size) < side:
            raise FrameError(
                f"the image is too small for a camera's: {width}x{height}, but each side must be"
                f" {side} pixels or more; check what is published on the topic"
            )
        if size not in self._known:
            self._in_a_row = self._in_a_row + 1 if size == self._new else 1
            self._new = size
            if self._known and self._in_a_row < self.PATIENCE:
                known = " or ".join(f"{w}x{h}" for w, h in sorted(self._known))
                raise FrameError(
                    f"the image has a new size: {width}x{height}, not {known}; it is used once"
                    f" {self.PATIENCE} come in a row; if that repeats, two cameras share the topic"
                )
            self._known.add(size)
        self._in_a_row = 0


class Calibration(NamedTuple):
    """What camera_info says, and for which picture."""

    intrinsics: Float[np.ndarray, "3 3"]
    width: int
    height: int
    is_distorted: bool = False  # D is not zero; nobody here undoes that

    @classmethod
    def of(cls, msg: CameraInfo) -> "Calibration":
        """Raises `UserError` where there is no calibration in it."""
        return cls(intrinsics_from(msg), msg.width, msg.height, any(msg.d))

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
