# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One map with one scale: windows joined (`align`), metres found (`scale`) and taken up.

Until a source is sure, the world's unit is that of the first window. Then the whole map is
rescaled about its origin, once (once more, where a source that is trusted more contradicts it), and
`Placement.rescaled` tells whoever keeps older poses. A later segment does the same about the camera
that takes the scale up, since the map's origin is not its own. From then on corrections are small
and made about the newest camera, so that nothing near it moves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity
from vggt_ros.mapping import alignment, scale
from vggt_ros.mapping.odometry import Odometry
from vggt_ros.mapping.registration import scene_depth, world_points
from vggt_ros.mapping.scale import Estimate
from vggt_ros.mapping.velocity import Motion, Recent
from vggt_ros.second_camera import Pair


class Placement(NamedTuple):
    """A window in the world."""

    join: alignment.Join
    world_from_camera: Float[np.ndarray, "s 4 4"]
    scale: Estimate
    metric: bool
    rescaled: float  # factor that older poses and points of this segment must follow; mostly 1
    about: Float[np.ndarray, "3"]  # the point that stays where it is; the first segment's origin
    motion: Motion | None = None  # of the newest camera; None: not known


@dataclass(frozen=True)
class Known:
    """What is known of the robot beforehand; None where it is not."""

    world_from_camera: Float[np.ndarray, "4 4"] | None = None  # of the first frame; z up
    base_from_camera: Float[np.ndarray, "4 4"] | None = None
    camera_height: float = 0.0  # metres above the ground; 0: not known
    fixed_scale: float = 0.0  # metres per unit of the first window; 0: not known


class World:
    """The map that windows are added to.  Not thread-safe."""

    def __init__(
        self,
        sources: str = "none",
        known: Known | None = None,
        odometry: Odometry | None = None,
    ):
        self.known = known or Known()
        self.odometry = odometry or Odometry()
        self.odometry.base_from_camera = self.known.base_from_camera
        self.odometry.lost()
        self._map = alignment.begin(self.known.world_from_camera)
        self._scale = scale.listen_to(sources)
        self._segment = 0
        self._recent = Recent()
        if self.known.fixed_scale > 0:
            given = float(np.log(self.known.fixed_scale))
            self._scale = scale.observe(self._scale, scale.Evidence("fixed", given, 1e-3, 0))

    def add(
        self,
        window: alignment.WindowGeometry,
        stamp_ns: int,
        metres: Float[np.ndarray, "h w"] | None = None,
        pair: Pair | None = None,
    ) -> Placement:
        """Join a window whose newest frame was taken at `stamp_ns`.

        `metres` is another sensor's depth on the newest frame's pixels, NaN where it has none;
        `pair` is another camera of the rig, as it was seen from there.
        """
        self._map, join = alignment.join(self._map, window)
        if join.accepted and join.segment != self._segment:
            self._segment = join.segment
            self._scale = scale.forgotten(self._scale)
            self.odometry.lost()
            self._recent.lost()
        if join.accepted:
            self._measure(stamp_ns, metres, pair, join.world_from_window.scale)
        else:
            self.odometry.lost()
        join, rescaled, about = self._take_up(join)
        cameras = alignment.place(join.world_from_window, window.window_from_camera)
        found, metric = scale.estimate(self._scale), self._scale.metric
        motion = self._motion(join, window.frame_ids, stamp_ns) if join.accepted else None
        return Placement(join, cameras, found, metric, rescaled, about, motion)

    def is_keyframe(self) -> bool:
        """Whether the newest frame should stay in the window."""
        return alignment.is_keyframe(self._map)

    def wants(self, source: str) -> bool:
        """Whether measurements of this source, which cost something, are worth it just now."""
        return scale.is_wanting(self._scale, source)

    def _measure(
        self,
        stamp_ns: int,
        metres: Float[np.ndarray, "h w"] | None,
        pair: Pair | None,
        unit: float,
    ) -> None:
        """Ask every source that is listened to."""
        assert self._map.current is not None
        newest = self._map.current.frames[-1]
        depth, pose, reach = newest.depth, newest.world_from_camera, scene_depth((newest,))
        found = [self.odometry.measure(stamp_ns, pose, reach)]
        if depth is not None and metres is not None:
            rows, columns = (
                np.arange(n) * full // n for n, full in zip(depth.shape, metres.shape, strict=True)
            )
            found.append(scale.from_depth(depth, metres[np.ix_(rows, columns)], stamp_ns))
        if pair is not None:
            seen = pair.seen.copy()
            seen[:3, 3] *= unit
            found.append(scale.from_baseline(seen, pair.mounted, reach, stamp_ns))
        if self.known.camera_height > 0 and depth is not None:
            cloud = world_points(newest)
            found.append(scale.from_height(cloud, pose[:3, 3], self.known.camera_height, stamp_ns))
        for evidence in found:
            if evidence is not None:
                self._scale = scale.observe(self._scale, evidence)

    def _motion(
        self, join: alignment.Join, frame_ids: tuple[int, ...], stamp_ns: int
    ) -> Motion | None:
        """How fast the newest camera moves, as far as the map's unit is known."""
        assert self._map.current is not None and join.world_from_camera is not None
        noise = max(join.residual, alignment.LEAST_NOISE) / np.sqrt(6.0)
        reach = scene_depth(self._map.current.frames[-1:])
        motion = self._recent.add(
            frame_ids, join.world_from_camera, stamp_ns, noise=noise, scene_depth=reach
        )
        if motion is None:
            return None
        unit = scale.estimate(self._scale).sigma if self._scale.metric else 1.0
        covariance = motion.covariance.copy()
        covariance[:3, :3] += unit**2 * np.outer(motion.linear, motion.linear)
        return motion._replace(covariance=covariance)

    def _take_up(
        self, join: alignment.Join
    ) -> tuple[alignment.Join, float, Float[np.ndarray, "3"]]:
        """Bring the map, and the joint just made, to the scale that is known now.

        With what others must follow: a factor, and about which point.
        """
        factor = scale.correction(self._scale)
        settled = self._scale.metric or scale.estimate(self._scale).source == "none"
        if (factor == 1.0 and settled) or self._map.current is None:
            return join, 1.0, np.zeros(3)
        at_once = not self._scale.metric or abs(factor - 1.0) > 1.01 * scale.SLOW
        newest = self._map.current.frames[-1].world_from_camera[:3, 3]
        about = np.zeros(3) if at_once and self._segment == 0 else newest.copy()
        self._map = alignment.rescaled(self._map, factor, about)
        self._scale = scale.rescaled(self._scale, factor)
        self.odometry.rescaled(factor, about)
        self._recent.rescaled(factor, about)
        grown = Similarity(factor, np.eye(3), about - factor * about)
        cameras = (
            None
            if join.world_from_camera is None
            else alignment.place(grown, join.world_from_camera)
        )
        units = np.repeat([factor, 1.0], 3)
        join = join._replace(
            world_from_window=grown @ join.world_from_window,
            covariance=units[:, None] * join.covariance * units,
            world_from_camera=cameras,
        )
        return join, factor if at_once else 1.0, about
