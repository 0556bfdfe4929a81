# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What sensor_msgs/CameraInfo says of an image, and how the image's pixels are read by it.

Node and tools share this page. The rule for images that may be rectified already stands in
`is_rectified`; that for binning and region of interest in `Calibration.of`.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError
from vggt_ros.imaging.lens import lens_of
from vggt_ros.imaging.rectify import Rectification

Matrix = Float64[np.ndarray, "3 3"]
Rectify = Literal["auto", "on", "off"]

FOCAL_LENGTHS = 1e-3, 1e7  # pixels; no camera is beyond, and nothing overflows between them
MIDDLE = 0.25, 0.75  # shares of width and height between which a principal point is expected
SAME_SHAPE = 0.01  # by how much two ratios of width and height may differ


class Camera(NamedTuple):
    """How the pixels of one image are read."""

    intrinsics: Matrix  # K of the image, once it is rectified
    rectification: Rectification | None  # None: the image is used as it comes
    about: str  # in words, for the user
    doubt: str = ""  # what was assumed of an image that does not fit quite


class Calibration(NamedTuple):
    """A camera_info, for the pixels of its image: binning and region of interest are applied."""

    width: int  # of the image
    height: int
    intrinsics: Matrix  # K of the raw image
    model: str  # of the distortion
    distortion: tuple[float, ...]  # D
    rotation: Matrix  # R, rectified_from_raw
    projection: Matrix | None  # the left 3x3 of P: K of the rectified image; None: not set
    doubt: str = ""  # what speaks against K

    @classmethod
    def of(cls, info: Any) -> "Calibration":
        """Of a CameraInfo message of ROS 1 or 2, or of a record with the same fields.

        K and P are of the full sensor. A region of interest moves their principal points, binning
        then divides by its factor; an image has as many pixels as both leave. Pixel (0, 0) is a
        centre: `cx' = (cx - x_offset + 0.5) / binning_x - 0.5`. Where P alone is set and there is
        no distortion, as some drivers have it for rectified images, it is K too. Raises `UserError`
        where there is no calibration in it.
        """
        k, p = _matrix(info, "k"), _matrix(info, "p")
        distortion = tuple(float(each) for each in _field(info, "d"))
        is_p_alone = k is None and p is not None and not any(distortion)
        k = p if is_p_alone else k
        if k is None:
            raise UserError(
                "camera_info has no calibration (its K is zero, not finite, or not a K); calibrate"
                " the camera, or leave intrinsics at 'model'"
            )
        binning = [max(int(getattr(info, f"binning_{axis}", 0)), 1) for axis in "xy"]
        size, offset = [int(info.width), int(info.height)], [0, 0]
        roi = getattr(info, "roi", None)
        if roi is not None and roi.width and roi.height:
            size, offset = [int(roi.width), int(roi.height)], [int(roi.x_offset), int(roi.y_offset)]
        part = np.eye(3)
        for axis, factor in enumerate(binning):
            part[axis, axis] = 1.0 / factor
            part[axis, 2] = (0.5 - offset[axis]) / factor - 0.5
        width, height = (whole // factor for whole, factor in zip(size, binning, strict=True))
        return cls(
            width,
            height,
            part @ k,
            str(info.distortion_model),
            distortion,
            np.eye(3) if is_p_alone else _rotation(info),
            None if p is None else part @ p,
            _off_the_middle(k, int(info.width), int(info.height)),
        )

    def camera(self, width: int, height: int, *, rectified: bool) -> Camera:
        """How an image of this size is read; `rectified`: its lens is undone already.

        A rectified image has P's left 3x3 as K (K itself where P is not set), a raw one K, D and R.
        An image of another size but the same shape is taken to be resized, which is a doubt.
        Raises `UserError` for one of another shape, and for a lens that is not known here.
        """
        resized, doubt = self._resized_to(width, height)
        doubt = "; ".join(filter(None, (doubt, self.doubt)))
        projected = self.intrinsics if self.projection is None else self.projection
        source = "K" if self.projection is None else "P"
        if rectified:
            about = f"the image is rectified already: {source} of camera_info"
            return Camera(resized @ projected, None, about, doubt)
        lens = lens_of(self.model, self.distortion)
        if lens is None and np.allclose(self.rotation, np.eye(3), atol=1e-9):
            about = "there is no distortion to undo: K of camera_info"
            return Camera(resized @ self.intrinsics, None, about, doubt)
        raw, ideal = resized @ self.intrinsics, resized @ projected
        rectification = Rectification(lens, raw, self.rotation, ideal, width, height)
        undone = "R alone" if lens is None else str(lens)
        return Camera(ideal, rectification, f"rectified here ({undone}): {source} of camera_info",
                      doubt)  # fmt: skip

    def _resized_to(self, width: int, height: int) -> tuple[Matrix, str]:
        """image_from_calibrated of pixels, and the doubt about it."""
        if (self.width, self.height) == (width, height) or not (self.width and self.height):
            return np.eye(3), ""
        sx, sy = width / self.width, height / self.height
        sizes = f"camera_info is of {self.width}x{self.height} pixels but the image has"
        sizes += f" {width}x{height}"
        if abs(sx / sy - 1) > SAME_SHAPE:
            raise UserError(
                f"{sizes}, and neither its binning nor its roi says why; publish the camera_info"
                " of this image"
            )
        resized = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return resized, (
            f"{sizes}: it is taken as the whole image, resized; if it is a part, set roi in"
            " camera_info"
        )


def _off_the_middle(k: Matrix, width: int, height: int) -> str:
    """That K hardly is of the full sensor's size that its message states; empty: it may be."""
    low, high = MIDDLE
    sides = [(k[0, 2], width), (k[1, 2], height)]
    if all(not side or low * side <= at <= high * side for at, side in sides):
        return ""
    return (
        f"camera_info's K has its principal point at ({k[0, 2]:.0f}, {k[1, 2]:.0f}), and the middle"
        f" of its {width}x{height} pixels is ({width / 2:.0f}, {height / 2:.0f}): it seems to be of"
        " another size, as an example's file for other images; calibrate the camera at this size"
    )


def is_rectified(topic: str, rectify: Rectify) -> bool:
    """Whether the images of a topic are rectified already: the one rule of node and tools.

    `auto`: they are where a word of the topic's name is `rect` or `rectified` (words stand between
    / and _), as image_proc and camera drivers name them; `on`: they are raw; `off`: they are
    rectified.
    """
    if rectify != "auto":
        return rectify == "off"
    return not {"rect", "rectified"}.isdisjoint(re.split(r"[/_]", topic.lower()))


class CameraReader:
    """Reads the images of one topic by the calibration that is known at the time."""

    def __init__(self, topic: str, rectify: Rectify):
        self.rectified = is_rectified(topic, rectify)
        self._key: tuple[int, int, int] = 0, 0, 0
        self._known: tuple[Calibration, Camera] | None = None

    def camera(self, calibration: Calibration, width: int, height: int) -> Camera:
        """As `Calibration.camera`, the same object while nothing changes."""
        key = id(calibration), width, height
        if self._known is None or self._key != key:
            camera = calibration.camera(width, height, rectified=self.rectified)
            self._key, self._known = key, (calibration, camera)  # kept: its id stays its own
        return self._known[1]


class CameraInfoRecord(NamedTuple):
    """The fields of a CameraInfo that comes from a file."""

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]


def from_yaml(document: Any) -> Calibration:
    """Of the file that camera_calibration and camera_info_manager write, parsed.

    Raises `UserError` where it is none, or holds no calibration.
    """

    def numbers(name: str, count: int = 0) -> tuple[float, ...]:
        rows = document.get(name, {})
        found = rows.get("data", ()) if isinstance(rows, Mapping) else rows
        values = tuple(float(each) for each in found)
        if count and values and len(values) != count:
            raise ValueError(f"{name} has {len(values)} numbers, not {count}")
        return values

    try:
        record = CameraInfoRecord(
            int(document["image_width"]),
            int(document["image_height"]),
            str(document.get("distortion_model", "plumb_bob")),
            numbers("distortion_coefficients"),
            numbers("camera_matrix", 9),
            numbers("rectification_matrix", 9),
            numbers("projection_matrix", 12),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"this is no camera_info file, as camera_calibration writes one ({error}); it has"
            " image_width, image_height, camera_matrix, distortion_coefficients"
        ) from None
    return Calibration.of(record)


def _field(info: Any, name: str) -> Any:
    """ROS 1 writes K, D, R and P, ROS 2 k, d, r and p."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _matrix(info: Any, name: str) -> Matrix | None:
    """K, or the left 3x3 of P; None where it is zero, not finite, or not of a camera."""
    rows = np.asarray(_field(info, name), np.float64)
    matrix = rows.reshape(3, -1)[:, :3] if rows.size else np.zeros((3, 3))
    low, high = FOCAL_LENGTHS
    is_camera = min(matrix[0, 0], matrix[1, 1]) >= low and list(matrix[2]) == [0, 0, 1]
    return matrix if is_camera and (np.abs(matrix) <= high).all() else None


def _rotation(info: Any) -> Matrix:
    """R; none at all stands for no rotation.  Raises `UserError` where it is something else."""
    rows = np.asarray(_field(info, "r"), np.float64)
    if not rows.any():
        return np.eye(3)
    matrix = rows.reshape(3, 3)
    if (
        not (np.abs(matrix) < 2.0).all()
        or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3)
        or np.linalg.det(matrix) < 0
    ):
        raise UserError("camera_info's R is not a rotation; calibrate the camera")
    return matrix
