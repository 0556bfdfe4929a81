# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One map with one scale: windows registered, keyframes kept, loops closed, metres applied.

Until a source is sure, the world's unit is that of the first window. Then the whole map is
rescaled about its origin, once (once more, where a source that is trusted more contradicts it). A
later segment does the same about its newest camera, since the map's origin is not its own. From
then on corrections are small and made about the newest camera, so that nothing near it moves.

A window that contradicts the map is refused, and the camera stands where it is predicted to be.
After some in a row the window starts again, at the prediction and in the same unit as far as that
is known: tied by odometry (`bridging`), or else as a new segment of the map, which becomes a part
of the older one again once the network recognises one of that one's keyframes (`loop_search`).
"""

import numpy as np

from vggt_ros.geometry import Similarity, inverse_rigid
from vggt_ros.mapping import alignment, recovery
from vggt_ros.mapping import segment as segments
from vggt_ros.mapping.bridging import NEW_UNIT_SIGMA, Bridging
from vggt_ros.mapping.loading import OlderMap, Part, part_of
from vggt_ros.mapping.metric import measuring, scale
from vggt_ros.mapping.metric.measuring import Priors, Sensors
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.placement import Placement, map_status
from vggt_ros.mapping.pose_graph.graph_updates import GraphUpdates
from vggt_ros.mapping.pose_graph.keyframe_map import Frames, KeyframeMap
from vggt_ros.mapping.pose_graph.loop_search import LoopSearch
from vggt_ros.mapping.pose_graph.loops import LoopView
from vggt_ros.mapping.recovery import Motion, Prediction
from vggt_ros.mapping.rig import placing
from vggt_ros.mapping.rig.rig import Rig
from vggt_ros.mapping.segment import Registration, Segment
from vggt_ros.mapping.standing import Standing
from vggt_ros.mapping.status import ESTABLISHED
from vggt_ros.mapping.window import WindowGeometry


class Map(Standing):
    """The map that windows are added to.  Not thread-safe."""

    def __init__(
        self,
        sources: tuple[str, ...] = (),
        priors: Priors | None = None,
        *,
        loop_period: int = 0,
        max_keyframes: int = 2000,
        background: bool = False,
        older: OlderMap | None = None,
        rig: Rig | None = None,
    ):
        """`loop_period`: inferences from one loop attempt to the next; 0: no loops. `background`:
        graphs are solved while the map goes on; else at once. `older`: a loaded map that the camera
        is sought in. `rig`: the cameras that windows are of; None: one.
        """
        self.priors, self._older, self.rig = priors or Priors(), older, rig
        self.keyframes = older.keyframes(max_keyframes) if older else KeyframeMap(max_keyframes)
        self.loops = LoopSearch(self.keyframes, loop_period)
        self._graph = GraphUpdates(self.keyframes, self.loops, background=background)
        self.next_loop: int | None = None  # the keyframe to show beside the next window
        self._begun = older.next_segment if older else 0  # number of the present segment
        self._state = segments.empty_map(self.priors.world_from_camera, self._begun)
        self._scale = scale.with_given(ScaleState(sources), self.priors.fixed_scale)
        self._scales = older.scales(sources) if older else {}  # of segments when they were left
        self._motion = Motion()
        self._bridging = Bridging(self.keyframes)
        self._kept_in_segment = 0  # keyframes of the present one, since the last loss
        self._odom_from_world = np.eye(4)

    def set_priors(self, priors: Priors) -> None:
        """They say how the first camera stands where the map has no window yet."""
        self.priors = priors
        self._state = segments.started_at(self._state, priors.world_from_camera)

    # ---- windows ------------------------------------------------------------------------------

    def add(
        self,
        window: WindowGeometry,
        stamp_ns: int,
        sensors: Sensors = Sensors(),  # noqa: B008 (immutable)
        frames: Frames | None = None,
        seen: LoopView | None = None,
        *,
        begin: bool = False,
    ) -> Placement:
        """Register a window whose newest frame was taken at `stamp_ns`.

        `frames` are those of this window; without them no keyframes are kept. `seen` is
        what the network said of the keyframe `next_loop`. With `begin` the window, which shares no
        frame with the map, begins another segment.
        """
        self.next_loop = None
        self.settle(wait=False)
        held = placing.hold(self.rig, window, self._state, self._scale, self._motion.unit_of)
        window, sensors = held.leading, sensors._replace(pairs=held.pairs or sensors.pairs)
        before, mount = self._state.current, self.priors.base_from_camera
        metres = self._bridging.metres_per_unit(self._scale)
        predicted = self._motion.predict(stamp_ns, sensors.odom_from_base, mount, metres)
        predicted = placing.of_leader(self.rig, window, self._scale, predicted)
        self._state = placing.started(self.rig, window, self._state)
        sound = bool(np.isfinite(window.window_from_camera).all())
        if begin and sound and before is not None and predicted is not None:
            found, before = self._begin_segment(held, predicted), None
        else:
            expected = predicted and predicted.world_from_camera
            self._state, found = alignment.register(self._state, window, expected, held.sampled)
        placing.learn(self.rig, held, found)
        if found.accepted:
            self._take_in(window, sensors, stamp_ns, before, frames)
            found = self._apply_scale(found)
            if seen is not None:
                found = self._judge(seen, found)
            now = self._of_reference(window)
            velocity = self._motion.observe(found, now, self._scale, stamp_ns)
        else:
            velocity, found = None, self._motion.at_prediction(found, window, predicted)
        if frames is not None and (now := self._state.current) is not None:
            newest, lost = window.frame_ids[-1], self.is_relocalising
            self.next_loop = self.loops.propose(now, newest, frames.describe, lost=lost)
        poses = recovery.placed(found, held.whole)
        status = map_status(
            found, self._state, self.keyframes, self.loops, self.sought_in,
            lost=self.lost, searching=self.is_relocalising, kept=self._kept_in_segment,
            guessed=self._bridging.is_open,
        )  # fmt: skip
        return Placement(
            found, poses, scale.estimate(self._scale), self._scale.metric, velocity,
            self.keyframes.store.snapshot(), self._odom_from_world, status,
            self._bridging.scale_about, *placing.placed_rig(self.rig, held, self._scale, poses),
        )  # fmt: skip

    def _of_reference(self, window: WindowGeometry) -> Segment:
        assert self._state.current is not None
        return placing.of_reference(self.rig, window.cameras, self._scale, self._state.current)

    def close(self, timeout: float) -> None:
        """End the thread that solves graphs."""
        self._graph.close(timeout)

    def settle(self, *, wait: bool = True) -> None:
        """Apply the solution of the graph; with `wait` compute it now, if one is due at all."""
        current = self._state.current
        correction = self._graph.correct(current, wait=wait) if current is not None else None
        if correction is not None:
            self._move(correction)

    def _take_in(
        self,
        window: WindowGeometry,
        sensors: Sensors,
        stamp_ns: int,
        before: Segment | None,
        frames: Frames | None,
    ) -> None:
        """Measure the scale; keyframes enter and leave with the frames of the window."""
        assert (current := self._state.current) is not None
        reference = self._of_reference(window).frames[-1]
        self._scale = measuring.measured(
            self._scale,
            self._motion.comparisons,
            self.priors,
            sensors,
            stamp_ns,
            current,
            reference,
        )
        if frames is None:
            return
        new = self.keyframes.take_in(before, current, window.frame_ids, frames, self._state.noise)
        self._kept_in_segment += new
        if before is None:
            self._bridging.tie(NEW_UNIT_SIGMA)

    # ---- losses -------------------------------------------------------------------------------

    def _begin_segment(self, held: placing.HeldWindow, predicted: Prediction) -> Registration:
        """The window where the camera is predicted to be.

        By odometry it is of the present segment, tied to what was before; else of another one.
        """
        current, noise, window = self._state.current, self._state.noise, held.leading
        assert current is not None
        self.keyframes.leave(current, (), noise)
        self.loops.forget_candidates()
        first, unit = self._motion.first_camera(window, predicted)
        number, covariance = current.number, predicted.covariance
        known, is_stump = self._scales.get(number), self._kept_in_segment <= 1
        if known is None or not (is_stump and scale.is_to_keep(known, self._scale)):
            self._scales[number] = self._scale
        so_far = self._bridging.begin(
            current, window.frame_ids[0], first, predicted.led, self._scale, noise, stump=is_stump
        )
        if so_far is None:
            self._begun += number in self.keyframes
            number = self._begun
        else:
            covariance = covariance + so_far
        self._scale = scale.widened(self._scales[current.number], NEW_UNIT_SIGMA)
        self._kept_in_segment = 0
        self._motion.reset()
        self._state, found = alignment.start_segment(
            self._state, window, number, first, unit, covariance, held.sampled
        )
        placing.restart(self.rig)
        return found

    # ---- loops --------------------------------------------------------------------------------

    def _judge(self, seen: LoopView, found: Registration) -> Registration:
        """What the network says of an old keyframe; a camera found again moves to its map."""
        current = self._state.current
        assert current is not None
        again = self.loops.judge(seen, current, found.world_from_window, self._state.noise)
        if again is None:
            return found
        now_from_then = self.loops.join(current, again)
        self._kept_in_segment = ESTABLISHED
        if now_from_then is None:
            return found
        self._state = segments.renumbered(self._state, again.segment)
        joining, older = self._scale, self._scales.get(again.segment, ScaleState())
        self._move(now_from_then)
        found = segments.moved_registration(found, now_from_then)._replace(segment=again.segment)
        self._older = self._older.after(again.segment) if self._older else None
        self._bridging.forget()
        if self.keyframes.fixed or scale.is_to_keep(older, joining):
            self._scale = older
        elif joining.metric:  # the older map takes up the metres of this one
            found = self._rescale(found, 1.0 / now_from_then.scale, at_once=True)
        return found

    def part(self) -> Part:
        """What is to be saved: all that is tied to the newest window.  Raises `UserError`."""
        self.settle()
        return part_of(self.keyframes, self._state, self._scale, self._older)

    # ---- corrections --------------------------------------------------------------------------

    def _move(self, now_from_then: Similarity) -> None:
        """The window's map follows a correction; the continuous frame absorbs it."""
        assert self._state.current is not None
        then = self._state.current.frames[-1].world_from_camera
        self._state = segments.moved(self._state, now_from_then)
        now = self._state.current.frames[-1].world_from_camera
        self._odom_from_world = self._odom_from_world @ then @ inverse_rigid(now)
        self._bridging.move(now_from_then)
        self._scale = scale.moved(self._scale, now_from_then.scale)
        self._motion.move(now_from_then)
        placing.move(self.rig, now_from_then.scale)

    def _apply_scale(self, found: Registration) -> Registration:
        """Bring the map, and the registration just made, to the scale that is known now."""
        due, bridging = scale.due(self._scale), self._bridging
        if due is not None:
            part = bridging.is_open and self._scale.metric
            found = self._rescale(found, due.factor, at_once=due.at_once, part=part)
            self._scale = scale.adopted(self._scale)
        if (factor := bridging.factor_due(self._scale)) is not None:
            found = self._rescale(found, factor, at_once=True, part=True)
            bridging.scaled(self._scale)
        return found

    def _rescale(
        self, found: Registration, factor: float, *, at_once: bool, part: bool = False
    ) -> Registration:
        """All of the segment `at_once`, or the `part` since a loss; or what is in the window."""
        assert self._state.current is not None
        scaling = self._bridging.rescale(self._state.current, factor, at_once=at_once, part=part)
        self._move(scaling)
        return segments.moved_registration(found, scaling)
