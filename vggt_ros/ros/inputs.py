# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the camera as the core's records: the image decoded, and read by camera_info."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration, Camera, CameraReader, Rectify
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.ros.frame_names import frame_name
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.messages import rgb_from_compressed, rgb_from_image, stamp_ns
from vggt_ros.ros.parameters import Parameters

PATIENCE = 3  # messages in a row, before another calibration replaces one that fits the image
UNSTEADY = 30  # messages in a row of which none repeats: a lens that is focused with each image
SAME_LENS = 0.1  # relative difference of focal lengths up to which a lens was focused again


def frame_from(msg: Image | CompressedImage, reader: ImageReader | None = None) -> Frame:
    """The image, decoded by the camera's reader; its frame as tf2 names it.

    Raises `UserError` that names the fault.
    """
    decoded = rgb_from_image if isinstance(msg, Image) else rgb_from_compressed
    rgb = decoded(msg, reader)
    return Frame(rgb, stamp_ns(msg.header.stamp), frame_name(msg.header.frame_id))


class CameraReports(NamedTuple):
    """How it is told what a calibration is worth."""

    refuse: Callable[[str], object]  # a message of no use that the user asked for
    notify: Callable[[str], object]  # a single event
    warn: Callable[[str], object]  # until it is replaced; an empty text ends it
    describe: Callable[[str], object]  # how images are read now
    inform: Callable[[str], object]  # the same for the log


class CameraInput:
    """camera_info as it is heard, and the images read by it.

    `hear` runs in the thread that receives, `read` in the worker's. What does not fit is a warning
    that lasts; what is used is said once, by `inform`.
    """

    def __init__(self, topic: str, rectify: Rectify, intrinsics: str, reports: CameraReports):
        """`topic`: of the images, resolved; its name may say that they are rectified.

        `intrinsics` as the parameter of that name, or "" where no K is asked for.
        """
        self._reports, self._intrinsics, self._rectify = reports, intrinsics, rectify
        self.calibration: Calibration | None = None
        self._reader = CameraReader(topic, rectify)
        self._heard: tuple[Any, ...] = ()  # what the newest calibration was made of
        self._frame_id = ""  # of that message
        self._offered: tuple[tuple[Any, ...], int] = (), 0  # another one, how often in a row
        self._differing = 0  # messages in a row that are neither used nor repeat
        self._fits = False  # the calibration fits the newest image, without a doubt
        self._lens: Calibration | None = None  # by which the newest image was rectified
        self._was_read = False
        self._said = ""

    def hear(self, msg: CameraInfo) -> None:
        """Keep the calibration, unless it is the one that is known, or a stray one."""
        fields = _fields(msg)
        if fields == self._heard:
            self._offered, self._differing = ((), 0), 0
            return
        if self._has_other_focus(msg, fields):
            self._heard, self.calibration = fields, Calibration.of(msg)
            self._offered, self._differing = ((), 0), 0
            return
        before, times = self._offered
        self._offered = fields, times + 1 if fields == before else 1
        if self._fits and self._offered[1] < PATIENCE:
            self._differing += 1
            self._reports.notify(
                "camera_info differs from the one that is used: it must repeat"
                f" {PATIENCE} times; does another camera publish on the topic?"
            )
            return
        self._heard, self._fits, self._differing = fields, False, 0
        self._frame_id = frame_name(msg.header.frame_id)
        try:
            self.calibration = Calibration.of(msg)
        except UserError as error:
            self.calibration = None
            (self._reports.refuse if self._is_asked_for else self._reports.notify)(str(error))

    def _has_other_focus(self, msg: CameraInfo, fields: tuple[Any, ...]) -> bool:
        """Whether this differs by a little K alone, which a lens without distortion may do."""
        known = self.calibration
        if known is None or not self._fits or any(known.distortion):
            return False
        if frame_name(msg.header.frame_id) != self._frame_id or fields[:-4] != self._heard[:-4]:
            return False
        try:
            found = Calibration.of(msg)
        except UserError:
            return False
        focal = found.intrinsics[[0, 1], [0, 1]] / known.intrinsics[[0, 1], [0, 1]]
        return (
            not any(found.distortion)
            and np.array_equal(found.rotation, known.rotation)
            and bool((np.abs(focal - 1) <= SAME_LENS).all())
        )

    def read(self, frame: Frame) -> tuple[Frame, bool]:
        """The image with its K and lens; True where its map cannot go on: other pixels."""
        calibration = self.calibration
        camera = self._camera(frame, calibration)
        if camera is not None:
            lens = None if camera.rectification is None else calibration
            frame = frame._replace(intrinsics=camera.intrinsics, rectification=camera.rectification)
        elif calibration is None:
            lens = None
        else:
            return frame, False  # an image of another shape, which may be a stray one
        changed = self._was_read and lens is not self._lens
        self._lens, self._was_read = lens, True
        return frame, changed

    @property
    def _is_asked_for(self) -> bool:
        return self._intrinsics == "camera_info" or self._rectify == "on"

    def _camera(self, frame: Frame, calibration: Calibration | None) -> Camera | None:
        """How the image is read by the calibration; None, and a warning, where it cannot be."""
        height, width = frame.rgb.shape[:2]
        camera, warning = None, ""
        asked = f"intrinsics is {self._intrinsics}, but "
        if self._intrinsics != "camera_info":
            asked = f"rectify is {self._rectify}, but " if self._rectify == "on" else ""
        try:
            if calibration is not None:
                camera = self._reader.camera(calibration, width, height)
                warning = camera.doubt
            elif self._is_asked_for:
                raise UserError("no usable camera_info yet")
        except UserError as error:
            whose = "the network's own intrinsics are used, and " if self._intrinsics else ""
            warning = f"{error}: {whose}no lens is undone"
        if warning:
            self._reports.notify(warning)
        self._fits = camera is not None and not camera.doubt
        doubts = [f"{asked}{warning}" if warning else "", self._doubt_of(frame, camera)]
        self._reports.warn("; ".join(filter(None, doubts)))
        self._say(camera)
        return camera

    def _doubt_of(self, frame: Frame, camera: Camera | None) -> str:
        """What else speaks against the calibration by which the image is read; empty: nothing."""
        if camera is None:
            return ""
        if self._frame_id and frame.camera and self._frame_id != frame.camera:
            return (
                f"camera_info is of frame_id '{self._frame_id}' and the image of '{frame.camera}':"
                " if it is another camera's, remap camera_info to the one beside the image; if it"
                " is this camera's, have its driver give both one frame_id"
            )
        if self._differing >= UNSTEADY:
            return (
                f"the last {self._differing} camera_infos differ from the one that is used and from"
                " each other: it stays in use; fix the camera's focus, or publish rectified images"
                " (whose K may change), and let one node alone publish on the topic"
            )
        return ""

    def _say(self, camera: Camera | None) -> None:
        """How images are read: in diagnostics, and once in the log."""
        about = "no camera_info that fits: as the image comes, the network's K"
        if camera is not None:
            about = camera.about
            if self._intrinsics == "model":
                about += ", but the network's own is used (intrinsics: model)"
        self._reports.describe(about)
        if camera is not None and about != self._said:
            self._said = about
            self._reports.inform(about)


def camera_input(
    parameters: Parameters,
    health: Health,
    topic: str,
    inform: Callable[[str], object],
    name: str = "",
) -> CameraInput:
    """camera_info of a camera whose images are mapped; `topic` as of `CameraInput`.

    `name` is that of a camera of a rig.
    """
    whose = f"{name}: " if name else ""
    reports = CameraReports(
        lambda text: health.refuse(f"{whose}{text}"),
        lambda text: health.notice(f"{whose}{text}"),
        lambda text: health.set_warning(f"calibration {name}".strip(), text and f"{whose}{text}"),
        lambda text: health.describe("input", f"camera {name}".strip(), text),
        lambda text: inform(f"camera {name}".strip() + f": {text}"),
    )
    return CameraInput(topic, parameters.rectify, parameters.intrinsics, reports)


def _fields(msg: CameraInfo) -> tuple[Any, ...]:
    """All that a calibration is made of: messages that repeat it are recognised by this."""
    arrays = (tuple(values) for values in (msg.d, msg.k, msg.r, msg.p))
    roi = msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height
    return (
        msg.width, msg.height, msg.distortion_model, msg.binning_x, msg.binning_y, roi, *arrays,
    )  # fmt: skip
