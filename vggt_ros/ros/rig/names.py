# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The names of a rig's cameras, as parameter `cameras` gives them."""

import re
from typing import Any

from vggt_ros.errors import UserError

MAX_CAMERAS = 16


def camera_list(value: Any) -> str:
    """The value of the parameter as one text: of a list, or of a text in brackets as well.

    Raises `UserError` for another type.
    """
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        value = ",".join(value)
    if not isinstance(value, str):
        raise UserError(
            f"cameras is {value!r}: give names, such as [front, left] or 'front, left'; empty: one"
            " camera"
        )
    return value


def camera_names(text: str) -> tuple[str, ...]:
    """The names, none for a single camera without one.

    Raises `UserError` for one name alone, names that are equal, and those that no topic may have.
    """
    names = [name.strip(" \t'\"") for name in text.strip("[] \t").split(",")]
    if names == [""]:
        return ()
    for name in names:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or "__" in name or name.endswith("_"):
            raise UserError(
                f"cameras has the name '{name}', which no topic may have: use letters, digits and"
                " single underscores between them, a letter first"
            )
        if names.count(name) > 1:
            raise UserError(f"cameras has '{name}' twice; give each camera a name of its own")
    if len(names) == 1:
        raise UserError(
            f"cameras has one name, '{names[0]}': leave it empty for one camera, and remap"
            f" image:={names[0]}/image camera_info:={names[0]}/camera_info"
        )
    if len(names) > MAX_CAMERAS:
        raise UserError(f"cameras has {len(names)} names; {MAX_CAMERAS} are the most")
    return tuple(names)
