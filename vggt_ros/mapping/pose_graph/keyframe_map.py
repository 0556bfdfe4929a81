# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keyframes as they enter and leave the window.

A frame that stays in the window is stored at once. When it leaves, its place and depth are the mean
of all windows that held it, and an edge ties it to the next one.
"""

from collections.abc import Collection
from itertools import zip_longest
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.map_frames import MapFrame, median_depth
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.pose_graph.edges import SEQUENCE, Edge
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.mapping.registration import CENTRE_FLOOR
from vggt_ros.mapping.segment import Segment


class Appearance(NamedTuple):
    """What is kept of a frame besides its place and depth."""

    stamp_ns: int
    camera: str
    image: bytes  # compressed, on the network's grid


@runtime_checkable
class Frames(Protocol):
    """The frames of the window, as the map asks for them."""

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """Descriptor of a frame by the network; None: it has none."""
        ...

    def appearance(self, frame_id: int) -> Appearance:
        """What else is kept of it."""
        ...


class KeyframeMap:
    """The keyframes of every segment.  Not thread-safe."""

    def __init__(
        self,
        limit: int = 2000,
        store: KeyframeStore | None = None,
        fixed: frozenset[int] = frozenset(),
    ):
        """`store`: of an earlier run; the keyframes of it that are `fixed` stay as they are."""
        self.store, self.fixed = store or KeyframeStore(limit), fixed
        self.store.limit = limit
        self.version = 0  # of the world: rises where all or some of it moved at once

    def __contains__(self, number: object) -> bool:
        """Whether there are keyframes of this segment."""
        return bool(np.any(self.store.centres().segments == number))

    @property
    def segments(self) -> int:
        """How many there are that nothing ties to each other."""
        return len(np.unique(self.store.centres().segments))

    def has_older(self, number: int) -> bool:
        """Whether there are keyframes of a segment that began before this."""
        return bool(np.any(self.store.centres().segments < number))

    def stored(self, segment: Segment) -> list[MapFrame]:
        """The frames of the window that are keyframes, oldest first."""
        return [frame for frame in segment.frames if frame.frame_id in self.store]

    def take_in(
        self,
        before: Segment | None,
        segment: Segment,
        frame_ids: tuple[int, ...],
        frames: Frames,
        noise: NoiseEstimate,
    ) -> int:
        """Keyframes leave and enter with the frames of a window; returns how many are new.

        `before`: of the last window; None: nothing is shared with it.
        """
        if before is not None:
            self.leave(before, frame_ids, noise)
        known = len(self.store)
        # The newest frame may leave again, unless it is all that there is.
        self.keep(segment, frame_ids if before is None else frame_ids[:-1], frames)
        return len(self.store) - known

    def keep(self, segment: Segment, kept: Collection[int], frames: Frames) -> None:
        """Store the frames of the window that stay in it."""
        for frame in segment.frames:
            if frame.frame_id in kept and frame.frame_id not in self.store:
                seen, descriptor = (
                    frames.appearance(frame.frame_id),
                    frames.describe(frame.frame_id),
                )
                pose = _similarity(frame, 1.0)
                self.store.add(
                    Keyframe(
                        frame.frame_id, seen.stamp_ns, seen.camera, segment.number, pose,
                        frame.intrinsics, frame.depth, descriptor, seen.image,
                    )
                )  # fmt: skip
                self.store.thin(keep=self.fixed.union(each.frame_id for each in segment.frames))

    def leave(self, segment: Segment, staying: Collection[int], noise: NoiseEstimate) -> None:
        """Settle the keyframes that left the window, each tied to the one after it."""
        stored = self.stored(segment)
        for frame, following in zip_longest(stored, stored[1:]):
            if frame.frame_id in staying:
                continue
            self.place(frame)
            if following is not None:
                self.place(following)
                depth = median_depth((frame,))
                self._tie(frame, following, noise, depth)

    def move(self, segment: Segment, now_from_then: Similarity) -> None:
        """The window's own keyframes follow a correction that older ones do not."""
        self.version += 1
        poses = {
            frame.frame_id: now_from_then @ self.store.get(frame.frame_id).world_from_keyframe
            for frame in self.stored(segment)
        }
        self.store.move(poses)

    def rescale(
        self, number: int, factor: float, about: Float[np.ndarray, "3"], since: int = 0
    ) -> None:
        """The keyframes of a segment, all or those `since`, follow a change of its unit."""
        self.version += 1
        self.store.rescale(number, factor, about, since)

    def place(self, frame: MapFrame) -> Similarity:
        """Where the window's map has it now, which is stored."""
        scale = float(self.store.get(frame.frame_id).world_from_keyframe.scale)
        pose = _similarity(frame, scale)
        depth = None if frame.depth is None else frame.depth / scale
        self.store.replace(frame.frame_id, world_from_keyframe=pose, depth=depth)
        return pose

    def _tie(self, one: MapFrame, other: MapFrame, noise: NoiseEstimate, depth: float) -> None:
        first = self.store.get(one.frame_id).world_from_keyframe
        second = self.store.get(other.frame_id).world_from_keyframe
        relative = first.inverse() @ second
        step = float(np.linalg.norm(relative.translation))
        # What is a mean of several observations is the better known.
        seen = np.sqrt(2.0 / max(min(one.turns, other.turns), 1.0))
        measured = np.sqrt(2.0 / max(min(one.depths, other.depths), 1.0))
        sigma = (
            noise.turn * seen,
            noise.shift * (step + CENTRE_FLOOR * depth / float(first.scale)),
            noise.depth_scale * measured,
        )
        self.store.add_edge(Edge(one.frame_id, other.frame_id, relative, sigma, SEQUENCE))


def _similarity(frame: MapFrame, scale: float) -> Similarity:
    pose = frame.world_from_camera
    return Similarity(scale, pose[:3, :3].copy(), pose[:3, 3].copy())
