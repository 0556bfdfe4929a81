# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page that joins the stages: an observation in, an update of the map out.

Node, command line, viewer and benchmark drive this very class, so what is measured is what the
robot runs.  No topics, no files; time is data (integer nanoseconds) and so is the stopwatch.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt32

from vggt_ros.engine.extra_views import infer_with_extra_view
from vggt_ros.engine.interface import Engine, InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.frames import ExtraView, Frame, Needs, Observation, Tracks, Update, View, WindowFrame
from vggt_ros.imaging.grid import Grid, to_network, to_same_grid
from vggt_ros.mapping.baseline import BaselineSchedule, CameraPair, check_simultaneous
from vggt_ros.mapping.map import Map, Priors, Sensors
from vggt_ros.settings import Settings
from vggt_ros.timeline import StreamGate, Window, push
from vggt_ros.tracking import TrackAnchor, transform_pixels
from vggt_ros.views import camera_pair, place_views, window_geometry

Clock = Callable[[], float]


class Pipeline:
    """Observations in, updates out.  Not thread-safe: one worker owns it."""

    def __init__(
        self, engine: Engine, settings: Settings | None = None, clock: Clock | None = None
    ):
        self.engine = engine
        self.settings = settings or Settings()
        self.clock: Clock = clock or (lambda: 0.0)
        self.notices: list[str] = []  # what happened to the stream; the caller empties it
        self._priors = Priors(
            camera_height=self.settings.camera_height, fixed_scale=self.settings.fixed_scale
        )
        self._baseline = BaselineSchedule()
        self._stream = StreamGate()
        self._frame_id = 0
        self._window_id = 0
        self.reset()

    def reset(self) -> None:
        """Empty window, tracks and map; the compiled network stays."""
        self._stream.reset()
        self._restart()

    @property
    def is_tracking(self) -> bool:
        """Whether queried points are being tracked, or will be from the next frame on."""
        return self._anchor is not None

    @property
    def window_stamps(self) -> tuple[int, ...]:
        """Stamps of the frames in the window, oldest first."""
        return tuple(held.frame.stamp_ns for held in self._held.values())

    def query(self, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], stamp_ns: int = 0):
        """Track these pixels of the input image from now on; an empty list clears.

        `stamp_ns` names the frame they were chosen in (0: the newest).  Raises `UserError` for
        pixels that are not finite or lie outside the image, and for a frame not in the window;
        what is tracked then goes on.
        """
        if len(ids) == 0:
            self._anchor = None
            return
        known = {held.frame.stamp_ns: key for key, held in self._held.items()}
        if stamp_ns and stamp_ns not in known:
            raise UserError(
                f"the query's stamp {stamp_ns} is not one of the {len(known)} frames in the window;"
                " use stamp 0 for the newest frame"
            )
        key = known[stamp_ns] if stamp_ns else max(self._held, default=None)
        anchor = TrackAnchor.at(ids, uv, key)  # what is refused leaves the tracks as they are
        self._anchor = anchor if key is None else anchor.on_grid(self._held[key].grid)

    def needs(self, stamp_ns: int) -> Needs:
        """What an observation of that time should bring, for the sources of scale."""
        _, due = self._with(self._frame_id)
        # An extra view has room where the window itself is not cut short.
        extra = due and self.settings.extra_views > 0 and self._missing == 0
        return Needs(
            sensor_depth=due and "depth" in self.settings.sources,
            extra_view=extra and self._baseline.is_due(stamp_ns, self.map.needs("baseline")),
        )

    def step(self, observation: Observation) -> Update | None:
        """Take one frame; infer if it is time.  Raises `FrameError` for one that is refused."""
        frame = observation.frame
        self._check(frame)
        self._set_priors(observation)
        times = {"start": self.clock()}
        height, width = frame.rgb.shape[:2]
        grid = self.settings.grid(width, height, self.engine.default_width)
        frame_id, self._frame_id = self._frame_id, self._frame_id + 1
        pixels = to_network(frame.rgb, grid)
        self._held[frame_id] = WindowFrame(frame, grid, pixels, observation.sensor_depth)
        times["resize"] = self.clock()
        self._window, due = self._with(frame_id)
        self._held = {key: self._held[key] for key in self._window.frame_ids}
        if self._anchor is not None and self._anchor.frame_id is None:
            self._pin(self._anchor, frame_id, grid)
        return self._update(times, observation) if due else None

    def _check(self, frame: Frame) -> None:
        """Refuse what cannot follow the last frame; restart where the stream itself changed."""
        height, width = frame.rgb.shape[:2]
        if reason := self._stream.check(frame.stamp_ns, width, height, frame.camera):
            self.notices.append(f"{reason}: a new window and a new map start")
            self._restart()

    def _restart(self) -> None:
        """All that `reset` does, but for the stamps."""
        self._window = Window()
        self._held: dict[int, WindowFrame] = {}
        self._views: dict[int, View] = {}
        # Frame of the last inference, and how many older frames of its window it left out.
        self._newest, self._missing = -1, 0
        self.map = self._empty_map()
        self._anchor: TrackAnchor | None = None
        self._baseline.reset()
        self.engine.reset()

    def _set_priors(self, seen: Observation) -> None:
        """Where the camera is mounted, and how the first frame stands in a world with z up.

        The second takes effect where a map starts: now if there is none, else at the next reset.
        """
        self._priors = self._priors.observed(
            seen.base_from_camera, seen.world_from_base, seen.up_in_camera
        )
        self.map.priors = self._priors
        if not self._views:
            self.map = self._empty_map()

    def _empty_map(self) -> Map:
        return Map(self.settings.sources, self._priors)

    def _with(self, frame_id: int) -> tuple[Window, bool]:
        """The window with one more frame, and whether an inference is due."""
        size, stride = self.settings.window_size, self.settings.stride
        return push(self._without_newest(), frame_id, size=size, stride=stride)

    def _without_newest(self) -> Window:
        """The window that the next frame enters: a newest frame that showed nothing new leaves it.

        A robot at rest, or a fast camera, so keeps the views that made the window worth inferring.
        """
        ids = self._window.frame_ids
        spare = len(ids) == self.settings.window_size > 1 and self.settings.stride == 1
        if not (self.settings.keyframes and spare) or self.map.is_keyframe():
            return self._window
        if self._anchor is not None and self._anchor.within(ids[:-1]) is None:
            return self._window  # the queried points are known in that frame alone
        return self._window._replace(frame_ids=ids[:-1])

    def _pin(self, anchor: TrackAnchor, frame_id: int, grid: Grid) -> None:
        try:
            self._anchor = anchor._replace(frame_id=frame_id).on_grid(grid)
        except UserError as error:
            self._anchor = None
            self.notices.append(str(error))

    def _update(self, times: dict[str, float], observation: Observation) -> Update:
        ids = self._window.frame_ids
        anchor = self._find_anchor(ids)
        result, pair = self._infer(ids, anchor, observation.extra_view)
        times["network"] = self.clock()
        if result.notice:
            self.notices.append(result.notice)
        self._missing = len(ids) - len(result.pose_encoding)
        ids = ids[self._missing :]
        held = [self._held[key] for key in ids]
        if self._missing and not any(key in self._views for key in ids):
            # A window too small to share a frame with the last one: nothing ties it to the map.
            self.map = self._empty_map()
        window, focal = window_geometry(
            ids, held, result, calibrated=self.settings.intrinsics == "camera_info"
        )
        sensors = Sensors(held[-1].depth_on_grid(), pair, observation.odom_from_base)
        placed = self.map.add(window, held[-1].frame.stamp_ns, sensors)
        fresh = sum(key > self._newest for key in ids)
        self._views, self._newest = place_views(window, held, placed, self._views), ids[-1]
        tracks = self._tracks(anchor, ids, held, result)
        times["geometry"] = self.clock()
        self._window_id += 1
        return Update(
            views=tuple(self._views[key] for key in ids),
            fresh=fresh,
            tracks=tracks,
            window_id=self._window_id - 1,
            registration=placed.registration,
            seconds={name: t - before for (_, before), (name, t) in pairwise(times.items())},
            metric=placed.metric,
            scale=placed.scale,
            focal=focal,
            rescaled=placed.rescaled,
            about=placed.about,
            velocity=placed.velocity,
            missing=self._missing,
        )

    def _find_anchor(self, ids: tuple[int, ...]) -> TrackAnchor | None:
        """Where the queried points are pinned in this window; a notice where nowhere any more."""
        if self._anchor is not None:
            anchor = self._anchor.within(ids[self._missing :]) or self._anchor.within(ids)
            if anchor is None:
                self.notices.append(self._anchor.lost_reason())
            self._anchor = anchor
        return self._anchor

    def _infer(
        self, ids: tuple[int, ...], anchor: TrackAnchor | None, extra: ExtraView | None
    ) -> tuple[InferenceResult, CameraPair | None]:
        """The network's output for the window; with an extra view also where that one stands."""
        images = [self._held[key].pixels for key in ids]
        asked = {
            "depth_frames": min(self.settings.depth_frames, len(ids)),
            "queries": anchor.uv if anchor else None,
            "query_frame": ids.index(anchor.frame_id) if anchor else 0,
        }
        if extra is None:
            return self.engine.infer(ids, images, **asked), None
        pair, newest = None, self._held[ids[-1]]
        self._baseline.attempt(newest.frame.stamp_ns)
        try:
            check_simultaneous(extra.stamp_ns - newest.frame.stamp_ns)
            image = to_same_grid(extra.rgb, newest.grid)
        except UserError as error:
            self.notices.append(f"baseline: {error}")
            return self.engine.infer(ids, images, **asked), None
        result, encoding = infer_with_extra_view(
            self.engine, ids, images, image,
            max_depth_frames=self.settings.depth_frames, **asked,
        )  # fmt: skip
        if encoding is not None:
            pair = camera_pair(encoding, result.pose_encoding[-1], extra.camera_from_extra)
            try:
                pair = self._baseline.check(pair, result.depth[-1])
            except UserError as error:
                self.notices.append(str(error))
                pair = None
        if encoding is None or len(result.pose_encoding) < len(ids):
            self._baseline.pause()
        return result, pair

    def _tracks(
        self,
        anchor: TrackAnchor | None,
        ids: tuple[int, ...],
        held: list[WindowFrame],
        result: InferenceResult,
    ) -> Tracks | None:
        """Tracks in input pixels; kept in the anchor, since its frame will leave the window."""
        if anchor is None or result.tracks is None:
            return None
        assert result.visibility is not None and result.track_confidence is not None
        self._anchor = anchor.with_tracks(ids, result.tracks)
        pairs = zip(held, result.tracks, strict=True)
        uv = np.stack([transform_pixels(h.grid.input_from_network, track) for h, track in pairs])
        stamps = tuple(h.frame.stamp_ns for h in held)
        return Tracks(anchor.ids, stamps, uv, result.visibility, result.track_confidence)
