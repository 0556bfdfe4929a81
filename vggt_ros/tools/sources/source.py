# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A stream of frames that says what it is, gives what is wanted, and remembers what it could not.

Nothing is decoded that was not asked for; what cannot be read is named, counted and passed by.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame


class Sighting(NamedTuple):
    """A frame that is there to be had; `load` costs, so it is called only for what is wanted."""

    name: str
    stamp_ns: int
    load: Callable[[], Frame]


class Skipped(NamedTuple):
    name: str
    reason: str


class Selection(NamedTuple):
    """Which frames of a source are wanted; seconds count from its first frame."""

    every: int = 1
    start: float = 0.0
    stop: float | None = None
    limit: int | None = None  # frames at most

    def check(self) -> None:
        if self.every < 1:
            raise UserError(f"--every is {self.every}; it must be 1 (all frames) or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--max-frames is {self.limit}; it must be 1 or more")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise UserError(
                f"--start {self.start:g} --stop {self.stop} holds no time; "
                "give seconds from the first frame, start before stop"
            )

    def of(self, count: int | None) -> int | None:
        """How many of `count` frames, if that can be known beforehand."""
        if count is None or self.start or self.stop is not None:
            return None
        count = -(-count // self.every)
        return count if self.limit is None else min(count, self.limit)


@dataclass
class Source:
    """A stream of frames; iterate it once.  `notes` and `skipped` fill up while it is read."""

    path: Path
    kind: str  # "pictures", "video" or "bag"
    stamps: str  # where the stamps come from, for people
    sightings: Iterable[Sighting]
    count: int | None = None  # frames, as far as the source itself knows
    selection: Selection = Selection()
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def total(self) -> int | None:
        """Frames to come, for a progress bar."""
        return self.selection.of(self.count)

    def __iter__(self) -> Iterator[Frame]:
        """Raises `UserError` if the source ends without one readable frame."""
        taken, shift = 0, 0
        for sighting in self._selected():
            try:
                frame = sighting.load()
            except UserError as error:
                self.skipped.append(Skipped(sighting.name, str(error)))
                continue
            if not taken:
                shift = max(0, 1 - frame.stamp_ns)  # a stamp of zero would mean "never set"
            yield frame._replace(stamp_ns=frame.stamp_ns + shift)
            taken += 1
            if taken == self.selection.limit:
                return
        if not taken:
            raise UserError(self._nothing())

    def _selected(self) -> Iterator[Sighting]:
        every, start, stop, _ = self.selection
        origin, count, begun = None, 0, False
        for sighting in self.sightings:
            origin = sighting.stamp_ns if origin is None else origin
            seconds = (sighting.stamp_ns - origin) / 1e9
            if stop is not None and seconds >= stop:
                return
            begun = begun or seconds >= start
            if begun:  # a stamp that goes back later is for the pipeline to judge
                if count % every == 0:
                    yield sighting
                count += 1

    def _nothing(self) -> str:
        if self.skipped:
            name, reason = self.skipped[0]
            return (
                f"none of {len(self.skipped)} frames of {self.path} can be read; {name}: {reason}"
            )
        if self.selection.start:
            return f"{self.path} ends before --start {self.selection.start:g} s; start earlier"
        return f"{self.path} holds no frames" + "".join(f"; {note}" for note in self.notes)
