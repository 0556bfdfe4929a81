# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which files a running node may be told to read and write, by whoever reaches its parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.ros.parameters import Parameters

LIVE_FILES = "map", "map_path"  # parameters that name files and can change while the node runs
NONE = "none"  # as map_directory: they cannot


def check_files(start: Parameters, now: Parameters, changes: Mapping[str, Any]) -> None:
    """Raise `UserError` for a path among the changes that may not be set at run time.

    It must lie below `map_directory` of the start, whatever symbolic links say. Paths that were
    given at the start are the operator's, and are not questioned.
    """
    for name in LIVE_FILES:
        value = changes.get(name, "")
        if value not in ("", getattr(now, name), getattr(start, name)):
            _check_below(name, str(value), start)


def _check_below(name: str, value: str, start: Parameters) -> None:
    if start.map_directory == NONE:
        raise UserError(
            f"{name} cannot be set at run time: the node was started so (map_directory)"
        )
    allowed, path = _allowed(start), _resolved(name, value)
    if not any(path != folder and path.is_relative_to(folder) for folder in allowed):
        folders = " or ".join(dict.fromkeys(map(str, allowed)))
        raise UserError(
            f"{name} is {value!r}, which is not below {folders}: while the node runs, only paths"
            " there can be set; start it with map_directory to allow others"
        )


def _allowed(start: Parameters) -> list[Path]:
    """Folders below which maps may lie: that of `map_directory`, else those that hold maps now."""
    if start.map_directory:
        return [_resolved("map_directory", start.map_directory)]
    given = {name: getattr(start, name) for name in LIVE_FILES}
    return [_resolved(name, value).parent for name, value in given.items() if value]


def _resolved(name: str, value: str) -> Path:
    try:
        return Path(value).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as fault:  # of `~nobody`, loops of links, a zero
        raise UserError(f"{name} is {value!r}, which is no path: {fault}") from None
