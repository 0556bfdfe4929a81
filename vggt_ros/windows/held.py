# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of the window, and which of them form an instant."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from vggt_ros.engine.interface import Engine
from vggt_ros.frames import WindowFrame
from vggt_ros.imaging.compressed import compress
from vggt_ros.mapping.pose_graph.keyframe_map import Appearance


class HeldFrames:
    """Frames by number, oldest first; an instant has the number of its first frame."""

    def __init__(self) -> None:
        self.frames: dict[int, WindowFrame] = {}
        self._instants: dict[int, tuple[int, ...]] = {}

    @property
    def newest(self) -> WindowFrame | None:
        """The first frame of the newest instant."""
        return self.frames[max(self._instants)] if self._instants else None

    def add(self, first: int, frames: list[WindowFrame]) -> list[WindowFrame]:
        """An instant whose frames are numbered from `first` on; they are returned."""
        ids = tuple(range(first, first + len(frames)))
        frames = [frame._replace(instant=first) for frame in frames]
        self._instants[first] = ids
        self.frames |= zip(ids, frames, strict=True)
        return frames

    def keep(self, instants: Collection[int]) -> None:
        """Drop all others."""
        kept_instants = set(instants)
        self._instants = {key: ids for key, ids in self._instants.items() if key in kept_instants}
        kept = {key for ids in self._instants.values() for key in ids}
        self.frames = {key: frame for key, frame in self.frames.items() if key in kept}

    def of(self, instants: Sequence[int]) -> tuple[int, ...]:
        """The frames of these instants, oldest first."""
        return tuple(key for instant in instants for key in self._instants[instant])

    def instant(self, frame_id: int) -> int:
        """The instant that a frame is of."""
        return self.frames[frame_id].instant

    def shown(self, instants: Sequence[int], lengths: Collection[int]) -> tuple[int, ...]:
        """The frames of these instants that the network is shown: as many as one of `lengths`.

        Where cameras are missing there may be no program for so many. Then the oldest instants
        lose cameras, the last first, and go when their first is alone.
        """
        ids, oldest = list(self.of(instants)), 0
        while len(ids) not in lengths:
            followers = [key for key in self._instants[instants[oldest]] if key in ids][1:]
            if followers:
                ids.remove(followers[-1])
            else:
                ids.remove(instants[oldest])
                oldest += 1
        return tuple(ids)


class WindowFrames:
    """The frames of the window, as the map asks for them (`keyframe_map.Frames`)."""

    def __init__(self, engine: Engine, held: Mapping[int, WindowFrame]):
        self._engine, self._held = engine, held

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """Its descriptor by the network."""
        return self._engine.describe(frame_id)

    def appearance(self, frame_id: int) -> Appearance:
        """What the map keeps of it."""
        held = self._held[frame_id]
        return Appearance(held.frame.stamp_ns, held.frame.camera, compress(held.shown))
