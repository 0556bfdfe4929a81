# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that are fine by themselves and contradict each other."""

import re
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.ros.frame_names import FRAMES, check_frames


def check(parameters: Any) -> None:
    """Raises `UserError` that names the parameters, with what to give."""
    settings = parameters.settings()
    settings.masking()  # of a file that is there
    if parameters.map:
        settings.check_relocalises()
    elif not parameters.mapping:
        raise UserError("mapping is false, but there is no map: set map to a saved one")
    if not parameters.scan_min_height < parameters.scan_max_height:
        raise UserError(
            f"scan_min_height is {parameters.scan_min_height:g} and scan_max_height"
            f" {parameters.scan_max_height:g}; the second must be the larger one"
        )
    if parameters.min_agreement > 0 and parameters.window_size == 1:
        raise UserError(
            f"min_agreement is {parameters.min_agreement}, but window_size 1 leaves no other view"
            " to agree: set window_size to 2 or more"
        )
    _ = parameters.image_shape  # of a text that is one
    if (count := len(parameters.camera_names) or 1) < parameters.min_cameras:
        raise UserError(
            f"min_cameras is {parameters.min_cameras}, but there are {count} in cameras; lower it"
        )
    check_frames(parameters.tf_mode, {name: getattr(parameters, name) for name in FRAMES})


def shape_of(image_size: str) -> tuple[int, int] | None:
    """Width and height of a text such as 640x480; None where it is empty.  Raises `UserError`."""
    if not image_size:
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", image_size)
    if found is None:
        raise UserError(f"image_size is '{image_size}'; give width and height, such as 640x480")
    return int(found[1]), int(found[2])
