# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames that a window shares with the map, and a window's frames in the world."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.map_frames import MapFrame, median_depth
from vggt_ros.mapping.registration import (
    ScaleFit,
    average_frames,
    centre_spread,
    estimate_scale,
)
from vggt_ros.mapping.segment import MapState
from vggt_ros.mapping.window import WindowGeometry, subsampled


class SampledWindow(NamedTuple):
    """A window on a coarse grid."""

    frames: tuple[MapFrame, ...]
    others: tuple[MapFrame, ...] = ()  # of a rig: what its other cameras saw at those instants
    fit: ScaleFit | None = None  # by all of these, before the cameras were held together

    def with_poses(self, poses: Mapping[int, Float[np.ndarray, "4 4"]]) -> "SampledWindow":
        """The same with other poses, by frame."""
        frames, others = (
            tuple(frame._replace(world_from_camera=poses[frame.frame_id]) for frame in part)
            for part in self[:2]
        )
        return SampledWindow(frames, others, self.fit)


def shared(
    before: tuple[MapFrame, ...], frames: tuple[MapFrame, ...]
) -> list[tuple[MapFrame, MapFrame]]:
    """Frames that segment and window both have: in the map, in the window."""
    known = {frame.frame_id: frame for frame in before}
    return [(known[frame.frame_id], frame) for frame in frames if frame.frame_id in known]


def placed_by(frames: tuple[MapFrame, ...], gauge: Similarity) -> list[MapFrame]:
    """The window's frames in the world, each observed once."""
    poses = gauge.apply_to_poses(np.stack([frame.world_from_camera for frame in frames]))
    return [
        frame._replace(
            world_from_camera=pose,
            depth=None if frame.depth is None else gauge.scale * frame.depth,
            depths=0.0 if frame.depth is None else 1.0,
            centre=1.0 / float(spread) ** 2,
        )
        for frame, pose, spread in zip(frames, poses, spread_of(frames), strict=True)
    ]


def spread_of(frames: tuple[MapFrame, ...]) -> Float[np.ndarray, "s"]:
    """`centre_spread` of a window's cameras, whose first is the network's reference."""
    return centre_spread(frames, frames[0].world_from_camera[:3, 3], 1.0 / median_depth(frames))


def other_depths(
    before: tuple[MapFrame, ...], frames: tuple[MapFrame, ...], gauge: Similarity, doubt: str
) -> tuple[MapFrame, ...]:
    """What other cameras of a rig saw, each the mean of all observations; see `_insert`."""
    if not frames:
        return ()
    known = {frame.frame_id: frame for frame in before}
    placed = placed_by(frames, gauge)
    return tuple(
        now if (was := known.get(now.frame_id)) is None
        else was if doubt else average_frames(was, now)
        for now in placed
    )  # fmt: skip


def sampled(
    leading: WindowGeometry, others: WindowGeometry | None = None, state: MapState | None = None
) -> SampledWindow:
    """A window and a rig's other views; with a `state` also their scale in the map.

    That is None where they share nothing with it.
    """
    frames = subsampled(leading)
    beside = subsampled(others) if others is not None and others.frame_ids else ()
    segment = state and state.current
    if segment is None or not (pairs := shared(segment.frames, frames)):
        return SampledWindow(frames, beside)
    spread = spread_of(frames)[[frames.index(frame) for _, frame in pairs]]
    depth, also = median_depth(segment.frames), shared(segment.others, beside)
    fit = estimate_scale(pairs, spread, depth, segment.unit, state.noise, also)
    return SampledWindow(frames, beside, fit)
