# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibrations in a bag: which CameraInfo is that of an image, also where it changes."""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.imaging.calibration import Calibration
from vggt_ros.tools.sources.bag_reader import BagReader, Connection

PEEKED = 20  # messages of a topic among which the first with a K is sought
SAME_K = 0.01  # of the focal length: difference of two calibrations up to which one serves for both
KEPT = 16  # messages, of which one may have the stamp of an image
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


def first_infos(reader: BagReader) -> dict[str, Any]:
    """The first CameraInfo of each topic that has a K, else the first; that of all images.

    Drivers send some without a K before they have read their calibration.
    """
    infos: dict[str, Any] = {}
    for connection in reader.connections:
        if connection.msgtype == CAMERA_INFO and connection.topic not in infos:
            try:
                for _, _, raw in islice(reader.messages([connection]), PEEKED):
                    info = reader.deserialize(raw, connection)
                    infos.setdefault(connection.topic, info)
                    if _calibration(info) is not None:
                        infos[connection.topic] = info
                        break
            except Exception:  # none recorded, or beyond the cut
                continue
    return infos


def is_info(connection: Connection, topic: str) -> bool:
    """Whether it is the CameraInfo beside an image topic."""
    return connection.msgtype == CAMERA_INFO and connection.topic == beside(topic)


def beside(topic: str) -> str:
    """The topic of CameraInfo that belongs to one of images."""
    return topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def calibrations(
    topic: str, infos: Mapping[str, Any], given: Callable[[str], Calibration | None]
) -> Callable[[str], Calibration | None]:
    """The calibration that was given for a camera, else the bag's first, by frame_id."""

    @cache
    def calibration_of(camera: str) -> Calibration | None:
        info = _choose_info(topic, camera, infos)
        return given(camera) or (None if info is None else Calibration.of(info))

    return calibration_of


class FollowedCalibration:
    """The calibration of each image of a topic, where the CameraInfo beside it changes.

    A lens that is zoomed or focused changes K from image to image. That is followed where pixels
    are used as they come. Where a lens is undone another one would be another camera, and the first
    serves for all. Either is a note, with figures.
    """

    def __init__(
        self, topic: str, first: Any | None, is_rectified: Callable[[], bool], notes: list[str]
    ):
        """`first`: the CameraInfo that is used for all images but those that say otherwise."""
        self._topic, self._is_rectified, self._notes = beside(topic), is_rectified, notes
        self._first = None if first is None else _calibration(first)
        self._frame_id = "" if first is None else first.header.frame_id
        self._recent: dict[int, Calibration | None] = {}  # by stamp
        self._said: set[str] = set()
        self.now: Calibration | None = None  # None: the first
        self.images = 0  # so far

    def hear(self, info: Any) -> None:
        """One more CameraInfo; one without a K says nothing."""
        found = _calibration(info)
        if self._first is None or found is None:
            return
        change = self._change(found)
        self.now = found if change and self._is_followed(info, found) else None
        if change:
            self._note(change, followed=self.now is not None)
        stamp = info.header.stamp
        self._recent[stamp.sec * 10**9 + stamp.nanosec] = self.now
        if len(self._recent) > KEPT:
            del self._recent[next(iter(self._recent))]

    def at(self, stamp_ns: int, newest: Calibration | None) -> Calibration | None:
        """That of the image's stamp, else `newest`: what was `now` when the image was recorded."""
        return self._recent.get(stamp_ns, newest)

    def _change(self, now: Calibration) -> str:
        """How a calibration differs from the first; empty: hardly."""
        first, rectified = self._first, self._is_rectified()
        assert first is not None
        if (first.width, first.height) != (now.width, now.height):
            return f"{first.width}x{first.height} to {now.width}x{now.height} pixels"
        k, other = (
            each.projection if rectified and each.projection is not None else each.intrinsics
            for each in (first, now)
        )
        if not np.allclose(k, other, atol=SAME_K * k[0, 0]):
            return f"fx {k[0, 0]:.6g} to {other[0, 0]:.6g}, cx {k[0, 2]:.6g} to {other[0, 2]:.6g}"
        size = len(first.distortion) == len(now.distortion)
        same = size and np.allclose(first.distortion, now.distortion, atol=SAME_K)
        return "" if same or rectified else "its distortion"

    def _is_followed(self, info: Any, now: Calibration) -> bool:
        """Whether it is of the same camera, and no lens is undone."""
        first, rectified = self._first, self._is_rectified()
        assert first is not None
        size = first.width, first.height
        if info.header.frame_id != self._frame_id or size != (now.width, now.height):
            return False
        try:
            read = [each.camera(*size, rectified=rectified) for each in (first, now)]
        except UserError:
            return False
        return all(camera.rectification is None for camera in read)

    def _note(self, change: str, *, followed: bool) -> None:
        kind = "followed" if followed else "not"
        if kind in self._said:
            return
        self._said.add(kind)
        what = f"{self._topic} changes after {self.images} images ({change}), and "
        self._notes.append(
            what + "each image has the K of its time, as of a lens that is zoomed or focused"
            if followed
            else what
            + "the first is used for all, as of a lens that is not zoomed or focused: give"
            " --camera-info of the part that matters, or --intrinsics model"
        )


def _calibration(info: Any) -> Calibration | None:
    try:
        return Calibration.of(info)
    except UserError:
        return None


def _choose_info(topic: str, camera: str, infos: Mapping[str, Any]) -> Any | None:
    """The CameraInfo next to the image topic, else the only one with the same frame_id."""
    if (there := beside(topic)) in infos:
        return infos[there]
    same = [info for info in infos.values() if info.header.frame_id.lstrip("/") == camera]
    return same[0] if len(same) == 1 else None
