# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The shapes that a network is compiled for, and which of them a robot will need, in what order."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vggt_ros.errors import UserError

QUERY_ROOM = (16, 64, 256, 1024)  # queries are padded to one of these, so that shapes are few


class Encode(NamedTuple):
    """Program: one frame into its slot of the memory."""

    size: tuple[int, int]
    slots: int

    def __str__(self) -> str:
        return f"encoder {self.size[1]}x{self.size[0]}"


class See(NamedTuple):
    """Program: a window of `frames`, depth for the newest `depth_frames`, room for `queries`."""

    size: tuple[int, int]
    slots: int
    frames: int
    depth_frames: int
    queries: int

    def __str__(self) -> str:
        tracks = f", {self.queries} tracks" if self.queries else ""
        return f"window of {self.frames} {self.size[1]}x{self.size[0]}{tracks}"

    def instead(self) -> Sequence["See"]:
        """This window, and what may be looked at in its place: no tracks, then fewer frames."""
        fewer = [
            self._replace(frames=s, depth_frames=min(s, self.depth_frames), queries=0)
            for s in range(self.frames, 0, -1)
        ]
        return [self, *fewer] if self.queries else fewer

    def is_beyond(self, other: "See") -> bool:
        """Whether it needs at least the memory that the other does."""
        return (
            self.size == other.size
            and self.frames >= other.frames
            and self.depth_frames >= other.depth_frames
            and self.queries >= other.queries
        )


Shape = Encode | See


def needed(
    size: tuple[int, int],
    window_sizes: Sequence[int],
    *,
    depth_frames: int,
    queries: Iterable[int] = (0,),
    guests: int = 0,
) -> list[Shape]:
    """Programs for windows of `size` (height, width) network pixels, the most useful first.

    The shortest window (of one frame) serves at once. The longest is what a robot looks through
    from then on: its window has filled by the time that is compiled. The others are passed while
    a window fills again after a reset; they follow from long to short, so that the next shorter
    one is there first, should the longest not fit into the device's memory. `guests` are frames
    that are in the longest now and then, besides its own; what they need comes last.
    """
    shortest, *longer = sorted(window_sizes)
    longest = max(window_sizes)
    slots = longest + guests
    shapes: list[Shape] = [Encode(size, slots)]
    for room in sorted({query_room(count) for count in queries}):
        for s in (shortest, *reversed(longer)):
            shapes.append(See(size, slots, s, min(depth_frames, s), room))
    for s in range(longest + 1, slots + 1):
        shapes.append(See(size, slots, s, min(depth_frames, s), 0))
    return shapes


def query_room(count: int) -> int:
    """The padded number of queries.  Raises `UserError` where there are too many."""
    if count == 0:
        return 0
    for room in QUERY_ROOM:
        if count <= room:
            return room
    raise UserError(f"{count} queries are too many; send at most {QUERY_ROOM[-1]}")
