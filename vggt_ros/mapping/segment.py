# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The state of the map that windows are registered to, and how it follows a correction."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, scale_covariance
from vggt_ros.mapping.map_frames import MapFrame, ViewOverlap
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.window import level_camera

Poses = Float[np.ndarray, "s 4 4"]


class Registration(NamedTuple):
    """How a window was registered to the map."""

    world_from_window: Similarity
    accepted: bool  # False: it contradicts the map, and stands where the camera is predicted to be
    segment: int
    residual: float  # rms disagreement of the shared cameras, as a share of scene depth
    inlier_share: float  # of the shared pixels, those that agree in depth
    covariance: Float[np.ndarray, "6 6"]  # newest camera, world axes: x y z, rotation vector
    reason: str  # "" or why the window was refused, or is doubtful
    world_from_camera: Poses | None = None  # every camera of the window, mean of all observations
    doubtful: bool = False  # accepted beyond the soft bound: its depth is not for the map


class Segment(NamedTuple):
    """The frames of the last window, which the next one is registered to."""

    number: int
    frames: tuple[MapFrame, ...]
    covariance: Float[np.ndarray, "6 6"]  # of the newest frame, since the segment started
    unit: float = 1.0  # world units per unit of the last window
    overlap: ViewOverlap | None = None  # the newest frame against the last one known before
    others: tuple[MapFrame, ...] = ()  # of a rig: what its other cameras saw, for their depth

    @property
    def newest(self) -> tuple[MapFrame, ...]:
        """The newest frame, and of a rig those of its other cameras at that instant."""
        leading = self.frames[-1]
        return (leading, *(each for each in self.others if each.frame_id > leading.frame_id))


@dataclass(frozen=True)
class MapState:
    """What the next registration needs of the map."""

    world_from_first: Float[np.ndarray, "4 4"]
    current: Segment | None = None
    refusals: int = 0  # in a row
    first_segment: int = 0  # number of the one that the first window begins
    noise: NoiseEstimate = NoiseEstimate()  # noqa: RUF009 (immutable)

    @property
    def number(self) -> int:
        """Of the present segment, or of the one that the first window will begin."""
        return self.first_segment if self.current is None else self.current.number


def empty_map(
    world_from_camera: Float[np.ndarray, "4 4"] | None = None, first_segment: int = 0
) -> MapState:
    """A map whose first camera will stand at `world_from_camera`, by default `level_camera()`."""
    first = level_camera() if world_from_camera is None else world_from_camera
    return MapState(first.astype(np.float64), first_segment=first_segment)


def started_at(state: MapState, world_from_camera: Float[np.ndarray, "4 4"] | None) -> MapState:
    """The same with another place of the first camera, if the map has no window yet."""
    if state.current is not None:
        return state
    first = empty_map(world_from_camera).world_from_first
    return replace(state, world_from_first=first)


def moved(state: MapState, now_from_then: Similarity) -> MapState:
    """The map with everything moved, turned and rescaled."""
    segment = state.current
    if segment is None:
        return state
    factor = now_from_then.scale
    frames, others = (_moved(part, now_from_then) for part in (segment.frames, segment.others))
    turn = np.kron(np.eye(2), now_from_then.rotation)
    covariance = scale_covariance(turn @ segment.covariance @ turn.T, factor)
    unit = factor * segment.unit
    after = segment._replace(frames=frames, covariance=covariance, unit=unit, others=others)
    return replace(state, current=after)


def _moved(frames: tuple[MapFrame, ...], now_from_then: Similarity) -> tuple[MapFrame, ...]:
    if not frames:
        return ()
    poses = now_from_then.apply_to_poses(np.stack([f.world_from_camera for f in frames]))
    return tuple(
        frame._replace(
            world_from_camera=pose,
            depth=None if frame.depth is None else now_from_then.scale * frame.depth,
        )
        for frame, pose in zip(frames, poses, strict=True)
    )


def renumbered(state: MapState, number: int) -> MapState:
    """The present segment as a part of another one."""
    assert state.current is not None
    return replace(state, current=state.current._replace(number=number))


def moved_registration(found: Registration, now_from_then: Similarity) -> Registration:
    """A registration in a world that was moved, turned and rescaled."""
    turn = np.kron(np.eye(2), now_from_then.rotation)
    cameras = found.world_from_camera
    return found._replace(
        world_from_window=now_from_then @ found.world_from_window,
        covariance=scale_covariance(turn @ found.covariance @ turn.T, now_from_then.scale),
        world_from_camera=None if cameras is None else now_from_then.apply_to_poses(cameras),
    )
