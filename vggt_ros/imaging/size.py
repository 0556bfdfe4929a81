# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes that an image may have."""

from vggt_ros.errors import UserError

MAX_SIDE = 65535  # pixels; beyond it the header is broken
MAX_PIXELS = 1 << 28  # 268 million: the largest photo of a phone has 200


def check_size(width: int, height: int) -> None:
    """Raise `UserError` for a size that no image has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise UserError(
            f"image size {width} x {height} is invalid: each side must be 1 to {MAX_SIDE} pixels,"
            f" and all of them {MAX_PIXELS >> 20} x 2^20 at most; check the camera's driver, or"
            " resize the file"
        )
