# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the camera as the core's records: the image decoded, and read by camera_info."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration, Camera, CameraReader, Rectify
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.ros.diagnostics import Health
from vggt_ros.ros.frame_names import frame_name
from vggt_ros.ros.messages import rgb_from_compressed, rgb_from_image, stamp_ns
from vggt_ros.ros.parameters import Parameters

PATIENCE = 3  # messages in a row, before another calibration replaces one that fits the image


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
        self._offered: tuple[tuple[Any, ...], int] = (), 0  # another one, how often in a row
        self._fits = False  # the calibration fits the newest image, without a doubt
        self._lens: Calibration | None = None  # by which the newest image was rectified
        self._was_read = False
        self._said = ""

    def hear(self, msg: CameraInfo) -> None:
        """Keep the calibration, unless it is the one that is known, or a stray one."""
        fields = _fields(msg)
        if fields == self._heard:
            self._offered = (), 0
            return
        before, times = self._offered
        self._offered = fields, times + 1 if fields == before else 1
        if self._fits and self._offered[1] < PATIENCE:
            self._reports.notify(
                "camera_info differs from the one that is used: it must repeat"
                f" {PATIENCE} times; does another camera publish on the topic?"
            )
            return
        self._heard, self._fits = fields, False
        try:
            self.calibration = Calibration.of(msg)
        except UserError as error:
            self.calibration = None
            (self._reports.refuse if self._is_asked_for else self._reports.notify)(str(error))

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
        self._reports.warn(f"{asked}{warning}" if warning else "")
        self._say(camera)
        return camera

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
