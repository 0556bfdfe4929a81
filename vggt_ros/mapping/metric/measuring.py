# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is known of the robot, and the measurements of scale that its sensors give at a window."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.mapping.map_frames import MapFrame, median_depth, world_points
from vggt_ros.mapping.metric import scale, scale_sources
from vggt_ros.mapping.metric.baseline import CameraPair
from vggt_ros.mapping.metric.comparisons import Comparisons, DepthLookup
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale import Measurement, ScaleState
from vggt_ros.mapping.metric.scale_sources import Found, Unusable
from vggt_ros.mapping.noise import MIN_NOISE
from vggt_ros.mapping.segment import Registration, Segment
from vggt_ros.mapping.velocity import Velocity, VelocityEstimator
from vggt_ros.mapping.window import upright_camera

VAIN, VAIN_NS = 10, 5_000_000_000  # comparisons in a row, and for how long, before it is a fault


@dataclass(frozen=True)
class Priors:
    """What is known of the robot beforehand; None where it is not."""

    world_from_camera: Float[np.ndarray, "4 4"] | None = None  # of the first frame; z up
    base_from_camera: Float[np.ndarray, "4 4"] | None = None
    camera_height: float = 0.0  # metres above the ground; 0: not known
    fixed_scale: float = 0.0  # metres per unit of the first window; 0: not known

    def observed(
        self,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
        world_from_base: Float[np.ndarray, "4 4"] | None,
        up_in_camera: Float[np.ndarray, "3"] | None,
    ) -> "Priors":
        """With what was observed: a mount on the robot, else an up direction, else as before.

        `world_from_base` is where a map starts; None: at the world's origin.
        """
        if base_from_camera is not None:
            start = np.eye(4) if world_from_base is None else world_from_base
            first = start @ base_from_camera
        elif up_in_camera is not None:
            first = upright_camera(up_in_camera)
        else:
            return self
        return replace(self, base_from_camera=base_from_camera, world_from_camera=first)


class Outcomes:
    """What the sources of scale gave so far, and which of them are compared in vain."""

    def __init__(self) -> None:
        self._vain: dict[str, tuple[int, int, int, str]] = {}  # since, until, count, last reason

    def add(self, found: Measurement | Unusable, stamp_ns: int) -> None:
        """One more comparison, at the window whose newest frame has this stamp."""
        if isinstance(found, Measurement):
            self._vain.pop(found.source, None)
            return
        since, _, count, _ = self._vain.get(found.source, (stamp_ns, 0, 0, ""))
        self._vain[found.source] = since, stamp_ns, count + 1, found.reason

    def fault(self, source: str) -> str:
        """Why a source gives nothing, with figures; empty while it serves, or is young."""
        since, until, count, reason = self._vain.get(source, (0, 0, 0, ""))
        if until - since < VAIN_NS or count < VAIN:
            return ""
        return f"scale_source {source}: the last {count} comparisons measured nothing: {reason}"


class Sensors(NamedTuple):
    """What other sensors measured at a window's newest frame; None where there is nothing."""

    depth: DepthLookup | None = None  # of this frame, and late of those before
    pairs: tuple[CameraPair, ...] = ()  # cameras of one rig, each seen from another
    odom_from_base: OdometryBuffer | None = None
    outcomes: Outcomes | None = None  # where to note what came of it


def measured(
    state: ScaleState,
    comparisons: Comparisons,
    priors: Priors,
    sensors: Sensors,
    stamp_ns: int,
    segment: Segment,
    reference: MapFrame | None = None,
) -> ScaleState:
    """With a measurement from every source that has one, at a registered window.

    `reference`: the camera that the mount is of, where it is not the newest frame's.
    """
    newest = segment.frames[-1]
    depth, pose = newest.depth, newest.world_from_camera
    scene_depth = median_depth((newest,))
    found: list[Found] = []
    if sensors.odom_from_base is not None:
        mount = priors.base_from_camera
        moved = newest if reference is None else reference
        found += comparisons.by_odometry(moved, stamp_ns, sensors.odom_from_base, mount)
    if sensors.depth is not None and "depth" in state.sources:
        found += comparisons.by_depth(newest, stamp_ns, sensors.depth)
    if sensors.pairs:
        estimated, mounted = (
            np.stack([pair.weight * pair[side][:3, 3] for pair in sensors.pairs]) for side in (0, 1)
        )
        found.append(
            scale_sources.from_baselines(segment.unit * estimated, mounted, scene_depth, stamp_ns)
        )
    if priors.camera_height > 0 and depth is not None:
        points = world_points(newest)
        found.append(scale_sources.from_height(points, pose[:3, 3], priors.camera_height, stamp_ns))
    for each in found:
        if each is not None and sensors.outcomes is not None:
            sensors.outcomes.add(each, stamp_ns)
        if isinstance(each, Measurement):
            state = scale.add_measurement(state, each)
    return scale.aged(state)


def velocity(
    estimator: VelocityEstimator,
    state: ScaleState,
    found: Registration,
    segment: Segment,
    stamp_ns: int,
) -> Velocity | None:
    """How fast the newest camera moves, as far as the map's unit is known."""
    moving = estimator.add(
        tuple(frame.frame_id for frame in segment.frames),
        np.stack([frame.world_from_camera for frame in segment.frames]),
        stamp_ns,
        noise=max(found.residual, MIN_NOISE) / np.sqrt(6.0),
        scene_depth=median_depth(segment.frames[-1:]),
    )
    if moving is None:
        return None
    unit = scale.estimate(state).sigma if state.metric else 1.0
    covariance = moving.covariance.copy()
    covariance[:3, :3] += unit**2 * np.outer(moving.linear, moving.linear)
    return moving._replace(covariance=covariance)
