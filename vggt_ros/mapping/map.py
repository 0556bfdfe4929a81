# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One map with one scale: windows registered (`alignment`), metres measured (`scale`) and applied.

Until a source is sure, the world's unit is that of the first window. Then the whole map is
rescaled about its origin, once (once more, where a source that is trusted more contradicts it), and
`Placement.rescaled` tells owners of older poses. A later segment does the same about its newest
camera, since the map's origin is not its own. From then on corrections are small and made about
the newest camera, so that nothing near it moves.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, scale_covariance
from vggt_ros.mapping import alignment, scale
from vggt_ros.mapping.alignment import Registration
from vggt_ros.mapping.baseline import CameraPair
from vggt_ros.mapping.odometry import OdometryBuffer, TravelComparison
from vggt_ros.mapping.registration import median_depth, world_points
from vggt_ros.mapping.scale import Estimate, Measurement, ScaleState
from vggt_ros.mapping.velocity import Velocity, VelocityEstimator

GIVEN_SIGMA = 1e-3  # of log scale, for one that the user gives


class Placement(NamedTuple):
    """A window in the world."""

    registration: Registration
    world_from_camera: Float[np.ndarray, "s 4 4"]
    scale: Estimate
    metric: bool
    rescaled: float  # factor that older poses and points of this segment must follow; mostly 1
    about: Float[np.ndarray, "3"]  # the point that stays where it is; the first segment's origin
    velocity: Velocity | None = None  # of the newest camera; None: not known


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
            first = alignment.upright_camera(up_in_camera)
        else:
            return self
        return replace(self, base_from_camera=base_from_camera, world_from_camera=first)


class Sensors(NamedTuple):
    """What other sensors measured at a window's newest frame; None where there is nothing."""

    depth: Float[np.ndarray, "h w"] | None = None  # metres on its pixels, NaN where none
    pair: CameraPair | None = None  # a second camera of the rig
    odom_from_base: OdometryBuffer | None = None


class Map:
    """The map that windows are added to.  Not thread-safe."""

    def __init__(self, sources: tuple[str, ...] = (), priors: Priors | None = None):
        self.priors = priors or Priors()
        self._state = alignment.empty_map(self.priors.world_from_camera)
        self._scale = ScaleState(sources)
        self._travel = TravelComparison()
        self._velocity = VelocityEstimator()
        self._segment = 0
        if self.priors.fixed_scale > 0:
            given = float(np.log(self.priors.fixed_scale))
            fixed = Measurement("fixed", given, GIVEN_SIGMA, 0)
            self._scale = scale.add_measurement(self._scale, fixed)

    def add(
        self,
        window: alignment.WindowGeometry,
        stamp_ns: int,
        sensors: Sensors = Sensors(),  # noqa: B008 (immutable)
    ) -> Placement:
        """Register a window whose newest frame was taken at `stamp_ns`."""
        self._state, found = alignment.register(self._state, window)
        if found.accepted and found.segment != self._segment:
            self._segment = found.segment
            self._scale = scale.restarted(self._scale)
            self._travel.reset()
            self._velocity.reset()
        if found.accepted:
            self._measure(stamp_ns, sensors, found.world_from_window.scale)
        else:
            self._travel.reset()
        found, rescaled, about = self._apply_scale(found)
        cameras = found.world_from_window.apply_to_poses(window.window_from_camera)
        velocity = None
        if found.accepted:
            velocity = self._estimate_velocity(found, window.frame_ids, stamp_ns)
        return Placement(
            found,
            cameras,
            scale.estimate(self._scale),
            self._scale.metric,
            rescaled,
            about,
            velocity,
        )

    def is_keyframe(self) -> bool:
        """Whether the newest frame should stay in the window."""
        return alignment.is_keyframe(self._state)

    def needs(self, source: str) -> bool:
        """Whether measurements of this source, which cost something, are worth it just now."""
        return scale.needs_measurement(self._scale, source)

    def _measure(self, stamp_ns: int, sensors: Sensors, unit: float) -> None:
        """Take a measurement from every source that has one; `unit`: of the window, in world."""
        assert self._state.current is not None
        newest = self._state.current.frames[-1]
        depth, pose = newest.depth, newest.world_from_camera
        scene_depth = median_depth((newest,))
        height = self.priors.camera_height
        found: list[Measurement | None] = []
        if sensors.odom_from_base is not None:
            mount = self.priors.base_from_camera
            found.append(
                self._travel.measure(sensors.odom_from_base, mount, stamp_ns, pose, scene_depth)
            )
        if depth is not None and sensors.depth is not None:
            rows, columns = (
                np.arange(n) * full // n
                for n, full in zip(depth.shape, sensors.depth.shape, strict=True)
            )
            found.append(scale.from_depth(depth, sensors.depth[np.ix_(rows, columns)], stamp_ns))
        if sensors.pair is not None:
            estimated = sensors.pair.estimated.copy()
            estimated[:3, 3] *= unit
            found.append(
                scale.from_baseline(estimated, sensors.pair.mounted, scene_depth, stamp_ns)
            )
        if height > 0 and depth is not None:
            found.append(scale.from_height(world_points(newest), pose[:3, 3], height, stamp_ns))
        for measurement in found:
            if measurement is not None:
                self._scale = scale.add_measurement(self._scale, measurement)

    def _estimate_velocity(
        self, found: Registration, frame_ids: tuple[int, ...], stamp_ns: int
    ) -> Velocity | None:
        """How fast the newest camera moves, as far as the map's unit is known."""
        assert self._state.current is not None and found.world_from_camera is not None
        noise = max(found.residual, alignment.MIN_NOISE) / np.sqrt(6.0)
        velocity = self._velocity.add(
            frame_ids,
            found.world_from_camera,
            stamp_ns,
            noise=noise,
            scene_depth=median_depth(self._state.current.frames[-1:]),
        )
        if velocity is None:
            return None
        unit = scale.estimate(self._scale).sigma if self._scale.metric else 1.0
        covariance = velocity.covariance.copy()
        covariance[:3, :3] += unit**2 * np.outer(velocity.linear, velocity.linear)
        return velocity._replace(covariance=covariance)

    def _apply_scale(
        self, found: Registration
    ) -> tuple[Registration, float, Float[np.ndarray, "3"]]:
        """Bring the map, and the registration just made, to the scale that is known now.

        With what older poses must follow: a factor, and about which point.
        """
        factor = scale.correction(self._scale)
        settled = self._scale.metric or scale.estimate(self._scale).source == "none"
        if (factor == 1.0 and settled) or self._state.current is None:
            return found, 1.0, np.zeros(3)
        at_once = not self._scale.metric or abs(factor - 1.0) > 1.01 * scale.MAX_STEP
        newest = self._state.current.frames[-1].world_from_camera[:3, 3]
        about = np.zeros(3) if at_once and self._segment == 0 else newest.copy()
        self._state = alignment.rescaled(self._state, factor, about)
        self._scale = scale.rescaled(self._scale, factor)
        self._travel.rescale(factor, about)
        self._velocity.rescale(factor, about)
        scaling, cameras = Similarity.scaling(factor, about), found.world_from_camera
        found = found._replace(
            world_from_window=scaling @ found.world_from_window,
            covariance=scale_covariance(found.covariance, factor),
            world_from_camera=None if cameras is None else scaling.apply_to_poses(cameras),
        )
        return found, factor if at_once else 1.0, about
