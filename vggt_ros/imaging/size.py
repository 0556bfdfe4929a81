# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes that an image may have."""

from vggt_ros.errors import UserError

MAX_SIDE = 16384  # pixels; beyond it the header is broken


def check_size(width: int, height: int) -> None:
    """Raise `UserError` for a size that no image has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UserError(
            f"image size {width} x {height} is invalid: each side must be 1 to {MAX_SIDE} "
            "pixels; check the camera driver"
        )
