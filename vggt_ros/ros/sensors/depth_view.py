# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A depth image seen by its own camera_info: whether it has the image's pixels, and its points."""

from math import ceil

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration

SAME_K = 0.01  # of two calibrations: share of the focal length by which they may differ
SAME_AXES = 1e-3  # of an entry of two rotations
SAME_LENS = 1e-3  # of a coefficient of two lenses
MAX_POINTS = 100_000  # of a depth image that are mapped to another camera's pixels


class DepthView:
    """The camera of a depth image.

    Like an image, a raw one has K, D and R, and the camera's frame is the rectified one: depth is
    measured along the raw axis, and R turns its points. A rectified one has P alone.
    """

    def __init__(self, calibration: Calibration, is_rectified: bool):
        """`is_rectified`: its pixels are those of the rectified image."""
        self._calibration, self._is_rectified = calibration, is_rectified
        turned = np.abs(calibration.rotation - np.eye(3)).max() > SAME_AXES
        self._is_turned = bool(turned) and not is_rectified

    def is_of(self, frame: Frame) -> bool:
        """Whether depth of the image's size and frame is that of the image's own pixels.

        As far as scale matters. An image without a calibration is taken to be what the depth is
        registered to, unless the depth is turned.
        """
        if self._is_turned or frame.intrinsics is None:
            return not self._is_turned
        known, other = self._calibration, frame.rectification
        raw = not self._is_rectified
        if other is not None:  # the image is raw, and so must the depth be
            has_lens = raw and any(known.distortion) and other.lens is not None
            return has_lens and _same_lens(known, other.lens.coefficients) and _is_near(
                known.intrinsics, other.raw
            )  # fmt: skip
        if raw:
            return not any(known.distortion) and _is_near(known.intrinsics, frame.intrinsics)
        own = known.intrinsics if known.projection is None else known.projection
        return _is_near(own, frame.intrinsics)

    def points(self, metres: Float32[np.ndarray, "h w"]) -> Float[np.ndarray, "p 3"]:
        """Its points in the frame of its camera, of every n-th pixel if there are many.

        Raises `UserError` where camera_info is of another size, or of a lens that is not known.
        """
        known, (height, width) = self._calibration, metres.shape
        if (known.height, known.width) != metres.shape:
            raise UserError(
                f"scale_depth is {width}x{height}, but its camera_info is of"
                f" {known.width}x{known.height}; publish one that fits"
            )
        step = ceil((metres.size / MAX_POINTS) ** 0.5)
        rows, columns = np.mgrid[:height:step, :width:step]
        uv = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
        camera = known.camera(width, height, rectified=self._is_rectified)
        if camera.rectification is None:
            (fx, _, cx), (_, fy, cy), _ = camera.intrinsics
            xy = (uv - [cx, cy]) / [fx, fy]
        else:
            xy = camera.rectification.raw_directions(uv)
        z = metres[::step, ::step].reshape(-1, 1).astype(np.float64)
        points = np.concatenate([xy * z, z], axis=-1)
        return points @ known.rotation.T if self._is_turned else points


def _is_near(one: Float[np.ndarray, "3 3"], other: Float[np.ndarray, "3 3"]) -> bool:
    return bool((np.abs(one - other) <= SAME_K * other[0, 0]).all())


def _same_lens(known: Calibration, others: tuple[float, ...]) -> bool:
    """Whether both have the coefficients D; those that one leaves out are zero."""
    count = max(len(known.distortion), len(others))
    padded = [np.pad(np.array(each), (0, count - len(each))) for each in (known.distortion, others)]
    return bool((np.abs(padded[0] - padded[1]) <= SAME_LENS).all())
