# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Across a loss by odometry: the part of a segment mapped after it is tied to the part before.

The first keyframe after the loss stands where odometry leads, and an edge says how sure that is.
The unit of the new part is guessed (scenes are about as deep) until the camera has moved along with
odometry, or another source of scale has measured it; then the new part is rescaled about its first
keyframe, whose place does not depend on the guess.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import Similarity, inverse_rigid
from vggt_ros.mapping.map_frames import median_depth
from vggt_ros.mapping.metric import scale
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.pose_graph.edges import BRIDGE, Edge
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.registration import CENTRE_FLOOR
from vggt_ros.mapping.segment import Segment

SLIP = 0.05  # of odometry, relative to the distance travelled and to the angle turned
HEADING = 0.02  # radians that its heading is off after a metre
IDLE = 0.001  # radians and metres by which it is off after a second, also at rest
NEW_UNIT_SIGMA = 0.3  # of the log unit of a part of the map that is guessed by its median depth
LEAST = 0.01  # radians and metres by which it is off at once


class Lead(NamedTuple):
    """How odometry went on from the last camera that was registered."""

    begin_ns: int  # stamp of that camera
    stamp_ns: int  # up to here it was followed
    last_from_camera: Float[np.ndarray, "4 4"]  # metres
    travelled: float = 0.0  # metres, along the way
    turned: float = 0.0  # radians, along the way
    metres_per_unit: float = 1.0  # of the world

    @classmethod
    def at(cls, stamp_ns: int) -> "Lead":
        """Of a camera that is known at this stamp."""
        return cls(stamp_ns, stamp_ns, np.eye(4))

    def followed(
        self,
        stamp_ns: int,
        odom_from_base: OdometryBuffer,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
        metres_per_unit: float,
    ) -> "Lead | None":
        """Up to a later stamp; None where odometry does not join the two."""
        then, now = odom_from_base.at(self.stamp_ns), odom_from_base.at(stamp_ns)
        if then is None or now is None:
            return None
        mount = np.eye(4) if base_from_camera is None else base_from_camera
        step = inverse_rigid(then @ mount) @ now @ mount
        metres, radians = odom_from_base.way(self.stamp_ns, stamp_ns)
        return self._replace(
            stamp_ns=stamp_ns,
            last_from_camera=self.last_from_camera @ step,
            travelled=self.travelled + metres,
            turned=self.turned + radians,
            metres_per_unit=metres_per_unit,
        )

    @property
    def seconds(self) -> float:
        """Since the last camera that was registered."""
        return 1e-9 * (self.stamp_ns - self.begin_ns)

    @property
    def turn_sigma(self) -> float:
        """One sigma of the orientation about each axis, radians."""
        return LEAST + SLIP * self.turned + HEADING * self.travelled + IDLE * self.seconds

    @property
    def shift_sigma(self) -> float:
        """One sigma of the position on each axis, metres."""
        slipped = LEAST + SLIP * self.travelled + IDLE * self.seconds
        return math.hypot(slipped, 0.5 * self.turn_sigma * self.travelled)


class _Bridge(NamedTuple):
    """Between the last keyframe before a loss and the first one after it."""

    before: int
    after: int
    turn: float  # sigmas of the second, seen from the first: radians,
    shift: float  # world units
    metres: float  # per world unit, before the loss: the new part is to have the same
    is_scaled: bool = False  # whether the unit of the new part was measured


class Bridging:
    """What ties the present part of the map to the part before the last loss."""

    def __init__(self, keyframes: KeyframeMap):
        self._keyframes = keyframes
        self._bridge: _Bridge | None = None  # None: a segment began with the present part
        self.scale_about = np.zeros(3)  # world; an error of the scale moves nothing there

    @property
    def is_open(self) -> bool:
        """Whether the unit of the present part is a guess."""
        return self._bridge is not None and not self._bridge.is_scaled

    def metres_per_unit(self, state: ScaleState) -> float | None:
        """To take odometry's motion by; None: not known."""
        known = scale.by_odometry(state)
        if known is None:
            return None if self._bridge is None else self._bridge.metres
        return known.value

    def factor_due(self, state: ScaleState) -> float | None:
        """What the present part is to be multiplied by, once its unit was measured; None: not yet.

        In a map that is in metres it took them up already.
        """
        measured = scale.by_odometry(state)
        if not self.is_open or measured is None or state.guessed:
            return None
        assert self._bridge is not None
        return 1.0 if state.metric else measured.value / self._bridge.metres

    def begin(
        self,
        segment: Segment,
        after: int,
        world_from_camera: Float[np.ndarray, "4 4"],
        led: Lead | None,
        state: ScaleState,
        noise: NoiseEstimate,
        *,
        stump: bool,
    ) -> Float[np.ndarray, "6 6"] | None:
        """Tie another part, whose first frame is `after`, to the segment so far.

        `world_from_camera` of that frame; `led` to it by odometry from the last registered camera;
        None: nothing is tied. The part before is dropped if it came to nothing (`stump`); then
        the bridge to it is prolonged. Returns what the scale up to there (`state`) adds to the
        covariance of the pose, since from here on its error acts again; None: nothing was tied.
        """
        store, earlier = self._keyframes.store, self._bridge if stump else None
        if stump:
            store.drop(segment.number, earlier.after if earlier else 0)
        self._bridge, views = None, store.centres()
        rows = np.flatnonzero(views.segments == segment.number)
        if led is None or not len(rows):
            return None
        step = float(np.linalg.norm(world_from_camera[:3, 3] - views.centres[rows[-1]]))
        seen = noise.shift * (step + CENTRE_FLOOR * median_depth(segment.frames))
        turn = math.hypot(noise.turn, led.turn_sigma)
        shift = math.hypot(seen, led.shift_sigma / led.metres_per_unit)
        if earlier is not None:
            shift = math.hypot(shift, earlier.shift, earlier.turn * step)
            turn = math.hypot(turn, earlier.turn)
        self._bridge = _Bridge(int(views.ids[rows[-1]]), after, turn, shift, led.metres_per_unit)
        away = np.append(
            segment.frames[-1].world_from_camera[:3, 3] - self.scale_about, np.zeros(3)
        )
        self.scale_about = world_from_camera[:3, 3].copy()
        sigma = scale.estimate(state).sigma if state.metric else 0.0
        return sigma**2 * np.outer(away, away)

    def tie(self, scale_sigma: float) -> None:
        """Put the edge, in place of an earlier one; `scale_sigma`: of the new part's log unit."""
        store, bridge = self._keyframes.store, self._bridge
        if bridge is None or bridge.before not in store or bridge.after not in store:
            return  # thinned out meanwhile: the edge was handed on as it was
        first = store.get(bridge.before).world_from_keyframe
        relative = first.inverse() @ store.get(bridge.after).world_from_keyframe
        sigma = (bridge.turn, bridge.shift / float(first.scale), scale_sigma)
        store.replace_edge(Edge(bridge.before, bridge.after, relative, sigma, BRIDGE))

    def move(self, now_from_then: Similarity) -> None:
        """The world near the window was corrected."""
        self.scale_about = now_from_then.apply(self.scale_about)

    def rescale(self, segment: Segment, factor: float, *, at_once: bool, part: bool) -> Similarity:
        """Rescale keyframes, and say how the window's map is to follow.

        With `at_once` all of the segment: the first one about the map's origin, a later one about
        its newest camera; or only the `part` since the last loss, about its first keyframe. Else
        the keyframes in the window.
        """
        keyframes, bridge = self._keyframes, self._bridge
        about = segment.frames[-1].world_from_camera[:3, 3].copy()
        if not at_once:
            scaling = Similarity.scaling(factor, about)
            keyframes.move(segment, scaling)
            return scaling
        if part and bridge is not None and bridge.after in keyframes.store:
            about = keyframes.store.get(bridge.after).world_from_keyframe.translation.copy()
            keyframes.rescale(segment.number, factor, about, since=bridge.after)
            return Similarity.scaling(factor, about)
        if segment.number == 0:
            about = np.zeros(3)
        keyframes.rescale(segment.number, factor, about)
        if bridge is not None:
            metres, shift = bridge.metres / factor, bridge.shift * factor
            self._bridge = bridge._replace(metres=metres, shift=shift)
        return Similarity.scaling(factor, about)

    def scaled(self, state: ScaleState) -> None:
        """The present part has taken up the unit that was measured."""
        measured = scale.by_odometry(state)
        assert self._bridge is not None and measured is not None
        self._bridge = self._bridge._replace(is_scaled=True)
        self.tie(measured.sigma)

    def forget(self) -> None:
        """The present part became one with another segment, which gave it its unit."""
        self._bridge = None
