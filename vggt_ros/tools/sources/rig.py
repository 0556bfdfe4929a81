# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A stream of instants of several cameras, joined from one stream of frames each.

Images are joined as the node joins them (`windows/instants`). Where the source has the robot's
tree of frames, it says where the cameras stand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Frame, Instant, Observation
from vggt_ros.timeline import StreamGate
from vggt_ros.tools.sources.source import LazyFrame, Selection, Skipped, Source
from vggt_ros.tools.sources.static_frames import StaticFrames
from vggt_ros.windows import instants

Arrival = tuple[int, int, str, LazyFrame]  # time, number and name of the camera


@dataclass
class RigSource:
    """A stream of instants; iterate it once.  `notes` and `skipped` grow while it is read."""

    path: Path
    kind: str  # "images", "video" or "bag"
    stamps: str  # origin of the stamps, for the user
    cameras: dict[str, Source]  # by name, the reference first
    places: dict[str, str]  # of the cameras: topics, or paths below `path`
    frames: StaticFrames = field(default_factory=StaticFrames)
    sync_tolerance: float = instants.TOLERANCE  # seconds
    min_cameras: int = 1
    selection: Selection = Selection()
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    camera_info: Path | None = None  # the folder that the calibrations are from
    topic: str = ""

    def __post_init__(self) -> None:
        self.used = dict.fromkeys(self.cameras, 0)  # images of each camera that are in an instant
        self.unpaired = dict.fromkeys(self.cameras, 0)  # that were left out of all
        self._without_k = dict.fromkeys(self.cameras, 0)
        self._optical: dict[str, str] = {}
        self._mounts: dict[str, Float[np.ndarray, "4 4"]] = {}
        self._frame_ids: dict[str, str] = {}  # as the images had them last
        self._faulty: set[str] = set()

    @property
    def total(self) -> int | None:
        """Number of selected instants at most, for a progress bar; None if unknown."""
        counts = [source.count for source in self.cameras.values()]
        return None if None in counts else self.selection.of(min(filter(None, counts), default=0))

    def __iter__(self) -> Iterator[Instant]:
        """Raises `UserError` if the source ends without one readable instant."""
        taken, shift = 0, 0
        for joined in self.selection.among(self._joined()):
            frames = self._read(joined)
            if len(frames) < self.min_cameras:
                continue
            if not taken:  # a stamp of zero means "not set" in ROS
                shift = max(0, 1 - min(frame.stamp_ns for frame in frames))
            self._describe(frames)
            shifted = [frame._replace(stamp_ns=frame.stamp_ns + shift) for frame in frames]
            yield Instant(tuple(map(Observation, shifted)), self._mounts)
            taken += 1
            if taken == self.selection.limit:
                break
        self._note_calibrations()
        if not taken:
            first = f"; {self.skipped[0].name}: {self.skipped[0].reason}" if self.skipped else ""
            notes = "".join(f"; {note}" for note in self.notes)
            raise UserError(f"{self.path} holds no instant of its cameras{first}{notes}")

    def note(self, line: str) -> None:
        """Tell the user, once."""
        if line not in self.notes:
            self.notes.append(line)

    # ---- instants

    def _joined(self) -> Iterator[instants.Instant]:
        """Images that were taken together, not decoded yet."""
        tolerance_ns = round(1e9 * self.sync_tolerance)
        joiner = instants.Instants(tuple(self.cameras), tolerance_ns, self.min_cameras)
        # Photos and films have gaps of any length.
        gate = StreamGate() if self.kind == "bag" else StreamGate(0)
        gates = {name: gate.another() for name in self.cameras}
        streams = [self._arrivals(k, name) for k, name in enumerate(self.cameras)]
        for arrived_ns, _, name, lazy in merge(*streams, key=lambda each: each[:2]):
            try:
                change = gates[name].check(lazy.stamp_ns + 1)  # images may begin at zero
            except FrameError as error:
                if self.cameras[name].read(lazy) is not None:
                    self.skipped.append(Skipped(f"{name}: {lazy.name}", str(error)))
                self._take_notes(name)
                continue
            if change.clock_set_back:
                joiner.forget(name)
            found = joiner.add(name, lazy.stamp_ns, arrived_ns, lazy)
            if found is not None:
                self._note_faults(joiner)
                yield found
        self._note_faults(joiner)
        if joiner.obstacle:
            self.note(joiner.obstacle)
        for name in self.cameras:
            self.unpaired[name] += joiner.counts(name)["waiting"]

    def _arrivals(self, number: int, name: str) -> Iterator[Arrival]:
        for lazy in self.cameras[name].lazy_frames:
            yield lazy.arrived_ns or lazy.stamp_ns, number, name, lazy

    def _note_faults(self, joiner: instants.Instants) -> None:
        """Say once of a camera that it is left out, or has another clock, each time it begins."""
        faulty = {name: text for name, text in joiner.faults.items() if text}
        for name in faulty.keys() - self._faulty:
            self.note(f"{name}: {faulty[name]}")
        self._faulty = set(faulty)
        for name in self.cameras:
            self.unpaired[name] = joiner.counts(name)["dropped"]

    # ---- frames

    def _read(self, joined: instants.Instant) -> list[Frame]:
        """Its frames, in the cameras' order; what cannot be read is in `skipped`."""
        frames = []
        for name, image in joined.images.items():
            source, lazy = self.cameras[name], image.item
            frame = source.read(lazy)
            self._take_notes(name)
            if frame is None:
                continue
            self.used[name] += 1
            self._without_k[name] += frame.intrinsics is None
            where = lazy.name if source.kind == "images" else f"{name}/{lazy.name}"
            frames.append(
                frame._replace(
                    stamp_ns=lazy.stamp_ns,
                    camera_name=name,
                    name=where,
                    camera=self._frame_id(name, frame.camera),
                )  # fmt: skip
            )
        return frames

    def _frame_id(self, name: str, camera: str) -> str:
        """The camera's optical frame, which must be its own: /tf and tracks go by it."""
        if self.kind != "bag":
            return f"{name}_optical"
        self._frame_ids[name] = camera
        for other in self.cameras:
            if other == name:
                break
            if self._frame_ids.get(other) == camera:
                self.note(
                    f"{name}: its images have the frame_id '{camera}', as those of {other}:"
                    " /tf_static cannot say where it stands, its place is estimated"
                )
                return name
        return camera

    def _take_notes(self, name: str) -> None:
        """What the camera's own source has to say becomes the rig's."""
        source = self.cameras[name]
        for line in source.notes:
            self.note(f"{name}: {line}")
        source.notes.clear()
        for each in source.skipped:
            self.skipped.append(Skipped(f"{name}: {each.name}", each.reason))
        source.skipped.clear()

    def _describe(self, frames: list[Frame]) -> None:
        """Renew where the cameras stand, if one has another frame than before."""
        optical = self._optical | {frame.camera_name: frame.camera for frame in frames}
        if optical == self._optical:
            return
        self._optical = {name: optical[name] for name in self.cameras if name in optical}
        self._mounts = self.frames.mounts(self._optical)
        for line in self.frames.notes:
            self.note(line)
        if len(self._optical) < len(self.cameras):
            return  # more is known when all have been seen
        known = ", ".join(self._mounts)
        if not self._mounts:
            by = "/tf_static does not connect the cameras: " if self.kind == "bag" else ""
            self.note(
                f"rig: {by}where they stand is estimated from the images, which gives no metres"
            )
            return
        self.note(f"rig: {known} stand as /tf_static says")
        for name in self._optical.keys() - self._mounts.keys():
            self.note(
                f"{name}: /tf_static does not connect '{self._optical[name]}' with the cameras"
                f" {known}: its place is estimated from the images"
            )

    def _note_calibrations(self) -> None:
        known = [name for name in self.cameras if self.used[name] > self._without_k[name]]
        for name, count in self._without_k.items():
            if known and count:
                self.note(
                    f"{name}: no usable camera_info, of which {known[0]} has one: {count} of its"
                    " images were used with the network's own K"
                )
