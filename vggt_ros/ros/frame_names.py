# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of frames as tf2 knows them: without the leading slash that some drivers still send."""

from collections.abc import Callable


def frame_name(name: str) -> str:
    """The name without leading slashes; tf2 refuses to look up one that has any."""
    return name.lstrip("/")


class FrameNames:
    """Strips the names that one part of the node receives, with one notice for each source."""

    def __init__(self, notify: Callable[[str], object]):
        self._notify = notify
        self._said: set[str] = set()  # sources

    def of(self, source: str, name: str) -> str:
        """The name without a leading slash; `source` says where it was found."""
        if not name.startswith("/"):
            return name
        found = frame_name(name)
        if source not in self._said:
            self._said.add(source)
            self._notify(
                f"{source} has frame '{name}' with a leading slash, which tf2 refuses: '{found}' is"
                " used and sent instead; remove the slash at its source"
            )
        return found
