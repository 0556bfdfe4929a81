# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page that joins the stages: an observation in, an update of the map out.

Node, command line, viewer and benchmark drive this very class, so what is measured is what the
robot runs.  No topics, no files; time is data (integer nanoseconds) and so is the stopwatch.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt32

from vggt_ros.engine.interface import Engine
from vggt_ros.frames import (
    Depths,
    Frame,
    Needs,
    Observation,
    Update,
    View,
    WindowFrame,
    place_views,
    window_frame,
)
from vggt_ros.imaging.fit import Fit
from vggt_ros.imaging.grid import Grid
from vggt_ros.mapping.corrections import KeyframeFollower, KeyframePoses
from vggt_ros.mapping.loading import OlderMap, open_map
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.measuring import Outcomes, Priors, Sensors
from vggt_ros.settings import Settings
from vggt_ros.timeline import StreamGate, Window, push
from vggt_ros.tracking import SeenFrame, Tracker
from vggt_ros.views import (
    WindowFrames,
    WindowInference,
    input_tracks,
    window_geometry,
)

Clock = Callable[[], float]


class Pipeline:
    """Observations in, updates out.  Not thread-safe: one worker owns it."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings | None = None,
        clock: Clock | None = None,
        *,
        background: bool = False,
        stream: StreamGate | None = None,
        fit: Fit | None = None,
    ):
        """With `background` graphs are solved while the map goes on; `stream` judges frames.

        With `fit` frames of any size come to one grid; else another size is another stream.
        """
        self.engine = engine
        self.settings = settings or Settings()
        self.clock: Clock = clock or (lambda: 0.0)
        self.notices: list[str] = []  # what happened to the stream; the caller empties it
        self._notify: Callable[[str], None] = lambda text: self.notices.append(text)
        self._priors = Priors(
            camera_height=self.settings.camera_height, fixed_scale=self.settings.fixed_scale
        )
        depth_frames, window_size = self.settings.frames_with_depth, self.settings.window_size
        self._network = WindowInference(engine, depth_frames, window_size, self._notify)
        self._stream, self._background, self._fit = stream or StreamGate(), background, fit
        self.masking = self.settings.masking()
        self._older: OlderMap | None = None  # that was loaded
        self._frame_id = 0
        self._window_id = 0
        self.map = self._empty_map()
        self.reset()

    def reset(self) -> None:
        """Empty window, tracks and map; the compiled network stays, and so does a loaded map."""
        self._stream.reset()
        self._restart()

    @property
    def is_tracking(self) -> bool:
        """Whether queried points are being tracked, or will be from the next frame on."""
        return self._tracker.is_on

    @property
    def tracked_points(self) -> int:
        """How many queried points are tracked, or will be."""
        return self._tracker.count

    @property
    def untracked(self) -> str:
        """Why points that were queried are not tracked, with figures; empty: they are."""
        return self._tracker.waiting

    @property
    def window_stamps(self) -> tuple[int, ...]:
        """Stamps of the frames in the window, oldest first."""
        return tuple(held.frame.stamp_ns for held in self._held.values())

    def query(self, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], stamp_ns: int = 0):
        """Track these pixels of the input image from now on; an empty list clears.

        `stamp_ns` names the frame they were chosen in (0: the newest), which is kept until they
        have been tracked.  Raises `UserError` as `Tracker.query`; what is tracked then goes on.
        """
        self._tracker.query(ids, uv, stamp_ns)

    def needs(self, stamp_ns: int) -> Needs:
        """What an observation of that time should bring, for the sources of scale."""
        _, due = self._with(self._frame_id)
        extra = due and "baseline" in self.settings.sources and self._missing == 0  # else no room
        extra = extra and self._network.baseline.is_due(stamp_ns, self.map.needs("baseline"))
        return Needs(level=not self.map.frame_ids, extra_view=extra)

    def step(self, observation: Observation) -> Update | None:
        """Take one frame; infer if it is time.  Raises `FrameError` for one that is refused."""
        frame = observation.frame
        self._check(frame)
        self._priors = self._priors.observed(
            observation.base_from_camera, observation.world_from_base, observation.up_in_camera
        )
        self.map.set_priors(self._priors)
        times = {"start": self.clock()}
        grid = self.grid(*frame.rgb.shape[1::-1])._replace(rectification=frame.rectification)
        frame_id, self._frame_id = self._frame_id, self._frame_id + 1
        held = self._held[frame_id] = window_frame(observation, grid, self.masking)
        times["resize"] = self.clock()
        self._window, due = self._with(frame_id)
        self._held = {key: self._held[key] for key in self._window.frame_ids}
        shown = held.shown  # what the network sees of it, whenever it does
        self._tracker.arrived(SeenFrame(frame_id, frame.stamp_ns, grid, shown))
        return self._update(times, observation) if due else None

    def _check(self, frame: Frame) -> None:
        """Refuse what cannot follow the last frame; restart where the stream itself changed."""
        size = (0, 0) if self._fit else frame.rgb.shape[1::-1]
        change = self._stream.check(frame.stamp_ns, frame.camera, *size)
        self.notices += filter(None, [change.notice])
        if change.starts_map:
            if self.is_tracking:
                self.notices.append("tracks end with the window: send the points again")
            self._restart()

    def _restart(self) -> None:
        """All that `reset` does, but for the stamps."""
        self._window = Window()
        self._held: dict[int, WindowFrame] = {}
        self._views: dict[int, View] = {}
        self._depths, self.outcomes = Depths(), Outcomes()  # of other sensors
        self._follower = KeyframeFollower()
        # Frame of the last inference, and how many older frames of its window it left out.
        self._newest, self._missing = -1, 0
        self.map.close(0.0)
        self.map = self._empty_map()
        self._tracker = Tracker(self._notify)
        self._network.baseline.reset()
        self.engine.reset()

    def _empty_map(self) -> Map:
        settings = self.settings
        made = Map(
            settings.sources,
            self._priors,
            loop_period=settings.loop_period if settings.extra_views and settings.loops else 0,
            max_keyframes=settings.max_keyframes,
            background=self._background,
            older=self._older,
        )
        made.loops.obstacles.set("settings", settings.no_loops)
        return made

    def grid(self, width: int, height: int) -> Grid:
        """The network's pixel grid for an image of this size.

        Raises `UserError` for one that leaves no row, or that a loaded map was not made for.
        """
        if self._fit is not None:
            return self._fit.grid(width, height)
        grid = self.settings.grid(width, height, self.engine.default_width)
        if self._older is not None:
            self._older.check_grid(grid.height, grid.width)
        return grid

    def load_map(self, folder: Path, *, extend: bool = True) -> LoadedMap:
        """Start again in a map that was saved, and seek the camera in it; so does `reset`.

        It stays as it is unless it is to `extend`. Raises `UserError`; then everything goes on.
        """
        settings, engine = self.settings, self.engine
        settings.check_relocalises()
        older = open_map(folder, engine.fingerprint, settings.max_keyframes, extend=extend)
        now = next(reversed(self._held.values())).grid.height if self._held else None
        older.check_grid(now, settings.network_width or engine.default_width)
        self._older, self._frame_id = older, max(self._frame_id, older.next_id)
        self._restart()
        return older.loaded

    def save_map(
        self, folder: Path, write_cloud: Callable[[Path, KeyframePoses], None] | None = None
    ) -> int:
        """Save all that is tied to the newest window; returns how many keyframes that is.

        `write_cloud` is given the PLY file to write, and where the keyframes stand by then.
        Raises `UserError`, what `write_cloud` raises, and as `map_files.save_map` says.
        """
        part, keyframes = self.map.part(), self.map.keyframes.store.snapshot()
        grid = next(reversed(self._held.values())).grid
        write = write_cloud and (lambda path: write_cloud(path, keyframes))
        part.save(folder, self.engine.fingerprint, self.engine.name, grid.height, grid.width, write)
        return len(part.store)

    def settle(self) -> KeyframePoses:
        """Where every keyframe stands once the loops found so far are closed."""
        self.map.settle()
        return self.map.keyframes.store.snapshot()

    def _with(self, frame_id: int) -> tuple[Window, bool]:
        """The window with one more frame, and whether an inference is due."""
        size, stride = self.settings.window_size, self.settings.stride
        return push(self._without_newest(), frame_id, size=size, stride=stride)

    def _without_newest(self) -> Window:
        """The window that the next frame enters: a newest frame that showed nothing new leaves it.

        A robot at rest, or a fast camera, so keeps the views that made the window worth inferring.
        """
        ids = self._window.frame_ids
        if self.map.refused and self.settings.has_map:
            # What was refused leaves the window; its frames before are the way back to the map.
            known = () if self.map.lost else [key for key in ids if key in self.map.frame_ids]
            return self._window._replace(frame_ids=tuple(known))
        spare = len(ids) == self.settings.window_size > 1 and self.settings.stride == 1
        if not (self.settings.keyframes and spare) or self.map.is_keyframe():
            return self._window
        if not self._tracker.are_known_in(ids[:-1]):
            return self._window  # the queried points are known in that frame alone
        return self._window._replace(frame_ids=ids[:-1])

    def _update(self, times: dict[str, float], observation: Observation) -> Update:
        ids = self._window.frame_ids
        found = self._network.infer(
            ids, self._held, self._tracker, self.map, self._missing, observation.extra_view
        )
        result = found.result
        times["network"] = self.clock()
        if result.notice:
            self.notices.append(result.notice)
        self._missing = len(ids) - len(result.pose_encoding)
        ids = ids[self._missing :]
        held = [self._held[key] for key in ids]
        # The window started again, or is too small to share a frame with the last one.
        begin = not set(ids) & set(self.map.frame_ids) and (self.map.lost or self._missing > 0)
        window, focal = window_geometry(
            ids, held, result, calibrated=self.settings.intrinsics != "model"
        )
        self._depths.add(ids[-1], held[-1], observation.depth_source)
        sensors = Sensors(self._depths, found.pair, observation.odom_from_base, self.outcomes)
        frames = WindowFrames(self.engine, self._held)
        placed = self.map.add(
            window, held[-1].frame.stamp_ns, sensors, frames, found.loop,
            begin=begin and self.settings.has_map,
        )  # fmt: skip
        fresh = sum(key > self._newest for key in ids)
        moved = self._follower.follow(placed.keyframes)
        self._views = place_views(window, held, placed, self._views, moved)
        self._newest = ids[-1]
        tracks = None
        if found.anchor is not None and result.tracks is not None:
            self._tracker.tracked(ids, result.tracks, held[-1].shown)
            tracks = input_tracks(found.anchor.ids, held, result)
        times["geometry"] = self.clock()
        self._window_id += 1
        return Update(
            views=tuple(self._views[key] for key in ids),
            fresh=fresh,
            tracks=tracks,
            window_id=self._window_id - 1,
            seconds={name: t - before for (_, before), (name, t) in pairwise(times.items())},
            focal=focal,
            missing=self._missing,
            **placed.shared(),
        )
