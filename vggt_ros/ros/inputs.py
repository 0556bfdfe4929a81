# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the camera as the core's records: the image decoded, its calibration checked."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.ros.frame_names import frame_name
from vggt_ros.ros.messages import intrinsics_from, rgb_from_compressed, rgb_from_image, stamp_ns


class Calibration(NamedTuple):
    """The calibration in camera_info, and the size of the images it is for."""

    intrinsics: Float[np.ndarray, "3 3"]
    width: int
    height: int
    is_distorted: bool = False  # D is not zero, which is not undone here

    @classmethod
    def of(cls, msg: CameraInfo) -> "Calibration":
        """Raises `UserError` where there is no calibration in it."""
        return cls(intrinsics_from(msg), msg.width, msg.height, any(msg.d))

    def of_image(self, width: int, height: int) -> Float[np.ndarray, "3 3"]:
        """K of an image of this size.  Raises `UserError` where it is of another size."""
        if (self.width, self.height) != (width, height):
            raise UserError(
                f"camera_info is of {self.width}x{self.height} pixels but the image has"
                f" {width}x{height}; the network's own intrinsics are used"
            )
        return self.intrinsics


def frame_from(msg: Image | CompressedImage, reader: ImageReader | None = None) -> Frame:
    """The image, decoded by the camera's reader; its frame as tf2 names it.

    Raises `UserError` that names the fault.
    """
    decoded = rgb_from_image if isinstance(msg, Image) else rgb_from_compressed
    rgb = decoded(msg, reader)
    return Frame(rgb, stamp_ns(msg.header.stamp), frame_name(msg.header.frame_id))
