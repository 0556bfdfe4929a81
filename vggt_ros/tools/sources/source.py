# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A stream of frames from files: description, selection, and a list of unreadable frames.

Only selected frames are decoded; a frame that cannot be read is listed in `skipped`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration, Camera, CameraReader
from vggt_ros.timeline import PATIENCE


class LazyFrame(NamedTuple):
    """A frame that is not decoded yet; `load` decodes it or raises `UserError`."""

    name: str
    stamp_ns: int
    load: Callable[[], Frame]
    arrived_ns: int = 0  # when it was recorded; 0: not known
    calibration: Calibration | None = None  # of its time; None: that of the source


@runtime_checkable
class Stamped(Protocol):
    """Whatever has a stamp."""

    @property
    def stamp_ns(self) -> int:
        """In nanoseconds."""
        ...


Item = TypeVar("Item", bound=Stamped)


class Skipped(NamedTuple):
    """A frame that could not be read."""

    name: str
    reason: str


class Selection(NamedTuple):
    """Which frames of a source to use; seconds count from its first frame."""

    every: int = 1
    start: float = 0.0
    stop: float | None = None
    limit: int | None = None  # frames at most

    def check(self) -> None:
        """Raises `UserError` for values without meaning."""
        if self.every < 1:
            raise UserError(f"--every is {self.every}; it must be 1 (all frames) or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--max-frames is {self.limit}; it must be 1 or more")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise UserError(
                f"--start {self.start:g} --stop {self.stop} is an empty interval; "
                "give seconds from the first frame, start before stop"
            )

    def among(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those of the interval, each n-th; the limit counts what can be read, by the caller.

        A lone stamp beyond the interval, as strays of a bag have, does not end it, and one that is
        ahead of the next is not its origin.
        """
        ahead = iter(items)
        first = list(islice(ahead, 2))
        if not first:
            return
        origin, count, beyond = min(item.stamp_ns for item in first), 0, 0
        for item in chain(first, ahead):
            seconds = (item.stamp_ns - origin) / 1e9
            if self.stop is not None and seconds >= self.stop:
                beyond += 1
                if beyond > PATIENCE:
                    return
                continue
            beyond = 0
            if not self.start or seconds >= self.start:
                if count % self.every == 0:
                    yield item
                count += 1

    def of(self, count: int | None) -> int | None:
        """Number of selected frames out of `count`; None if the stamps must be read to know."""
        if count is None or self.start or self.stop is not None:
            return None
        count = -(-count // self.every)
        return count if self.limit is None else min(count, self.limit)


@dataclass
class Source:
    """A stream of frames; iterate it once.  `notes` and `skipped` grow while it is read."""

    path: Path
    kind: str  # "images", "video" or "bag"
    stamps: str  # origin of the stamps, for the user
    lazy_frames: Iterable[LazyFrame]
    count: int | None = None  # frames in the source, where it is known
    sizes: Callable[[], Counter[tuple[int, int]]] = Counter  # width and height, where files say it
    selection: Selection = Selection()
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    topic: str = ""  # of a bag's images
    camera_info: Path | None = None  # the file that the calibration is from
    camera_reader: CameraReader = field(default_factory=lambda: CameraReader("", "auto"))
    calibration_of: Callable[[str], Calibration | None] = lambda camera: None  # by frame_id

    @property
    def total(self) -> int | None:
        """Number of selected frames, for a progress bar; None if unknown."""
        return self.selection.of(self.count)

    def __iter__(self) -> Iterator[Frame]:
        """Raises `UserError` if the source ends without one readable frame."""
        taken, shift = 0, 0
        for lazy in self.selection.among(self.lazy_frames):
            frame = self.read(lazy)
            if frame is None:
                continue
            if not taken:
                shift = max(0, 1 - frame.stamp_ns)  # a stamp of zero means "not set" in ROS
            yield frame._replace(stamp_ns=frame.stamp_ns + shift)
            taken += 1
            if taken == self.selection.limit:
                return
        if not taken:
            raise UserError(self._why_empty())

    def read(self, lazy: LazyFrame) -> Frame | None:
        """The frame, decoded and with its K; None, and in `skipped`, where it cannot be read."""
        try:
            return self._calibrated(lazy.load(), lazy.calibration)._replace(name=lazy.name)
        except UserError as error:
            self.skipped.append(Skipped(lazy.name, str(error)))
            return None

    def note(self, line: str) -> None:
        """Tell the user, once."""
        if line not in self.notes:
            self.notes.append(line)

    def _calibrated(self, frame: Frame, own: Calibration | None) -> Frame:
        """The frame with its K and lens; without, and with a note, where they do not fit it."""
        height, width = frame.rgb.shape[:2]
        try:
            calibration = own or self.calibration_of(frame.camera)
            if calibration is None:
                return frame
            camera: Camera = self.camera_reader.camera(calibration, width, height)
        except UserError as error:
            self.note(f"{error}: it is not used")
            return frame
        self.note(f"camera: {camera.about}")
        if camera.doubt:
            self.note(camera.doubt)
        return frame._replace(intrinsics=camera.intrinsics, rectification=camera.rectification)

    def _why_empty(self) -> str:
        if self.skipped:
            name, reason = self.skipped[0]
            return (
                f"none of {len(self.skipped)} frames of {self.path} can be read; {name}: {reason}"
            )
        if self.selection.start:
            return f"{self.path} ends before --start {self.selection.start:g} s; start earlier"
        return f"{self.path} holds no frames" + "".join(f"; {note}" for note in self.notes)
