# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page that joins the stages: an observation in, an update of the map out.

Node, command line, viewer and benchmark drive this very class, so what is measured is what the
robot runs.  No topics, no files; time is data (integer nanoseconds) and so is the stopwatch.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt32

from vggt_ros.engine.interface import Engine, window_lengths
from vggt_ros.frames import Instant, Needs, Observation, Update, View, place_views, window_frames
from vggt_ros.imaging.fit import Fit
from vggt_ros.imaging.grid import Grid
from vggt_ros.mapping.corrections import KeyframeFollower, KeyframePoses
from vggt_ros.mapping.loading import OlderMap, open_map
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.metric.measuring import Outcomes, Priors, Sensors
from vggt_ros.mapping.metric.scale import of_rig
from vggt_ros.mapping.rig.rig import describe, rig_of
from vggt_ros.settings import Settings
from vggt_ros.timeline import StreamGate, Window, push
from vggt_ros.tracking import SeenFrame, Tracker
from vggt_ros.views import WindowInference, window_geometry
from vggt_ros.windows.cameras import Cameras, Taken
from vggt_ros.windows.held import HeldFrames, WindowFrames
from vggt_ros.windows.late_depth import Depths
from vggt_ros.windows.results import input_tracks, keep_tracks, whole_instants
from vggt_ros.windows.sliding import without_newest

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
        cameras: Sequence[str] = (),
    ):
        """With `background` graphs are solved while the map goes on; `stream` judges frames.

        With `fit` frames of any size come to one grid; else another size is another stream. More
        than one of `cameras`, by name, are a rig, and the first is its reference: windows are then
        of that many instants, and a step takes an instant.
        """
        self.engine = engine
        self.settings = settings or Settings()
        self.clock: Clock = clock or (lambda: 0.0)
        self.notices: list[str] = []  # what happened to the stream; the caller empties it
        self._notify: Callable[[str], None] = lambda text: self.notices.append(text)
        self.cameras = Cameras(cameras, self._own_grid, self._notify, stream=stream, fit=fit)
        count, instants = self.cameras.count, self.settings.window_size
        self._network = WindowInference(
            engine, count * self.settings.frames_with_depth, count * instants, self._notify, count
        )
        self._lengths, self._background = window_lengths(range(1, instants + 1), count), background
        self.masking = self.settings.masking()
        self._older: OlderMap | None = None  # that was loaded
        self._frame_id = self._window_id = 0
        self.map = Map()
        self.reset()

    def reset(self) -> None:
        """Empty window, tracks and map; the compiled network stays, and so does a loaded map."""
        self.cameras.reset()
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

    def query(
        self, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], stamp_ns: int = 0,
        camera: str = "",
    ) -> None:  # fmt: skip
        """Track these pixels of the input image from now on; an empty list clears.

        `stamp_ns` and `camera` (its optical frame id) name the frame they were chosen in (0, empty:
        the newest), which is kept until they have been tracked.  Raises `UserError` as
        `Tracker.query`; what is tracked then goes on.
        """
        self._tracker.query(ids, uv, stamp_ns, camera)

    def needs(self, stamp_ns: int) -> Needs:
        """What an observation of that time should bring, for the sources of scale."""
        _, due = self._with(self._frame_id)
        extra = due and "baseline" in self.settings.sources and self._missing == 0  # else no room
        extra = extra and not self.cameras.is_rig  # which has its own pairs
        extra = extra and self._network.baseline.is_due(stamp_ns, self.map.needs("baseline"))
        return Needs(level=not self.map.frame_ids, extra_view=extra)

    def step(self, observation: Observation | Instant) -> Update | None:
        """Take one frame, or those of an instant; infer if it is time.

        Raises `FrameError` for a frame that is refused, or an instant of which all are; `Cameras`
        keeps which others were left out. Raises `UserError` for an instant that is not the rig's.
        """
        instant = observation if isinstance(observation, Instant) else Instant((observation,))
        taken = self._taken(instant)
        robot = taken.robot
        self._priors = self._priors.observed(
            robot.base_from_camera, robot.world_from_base, robot.up_in_camera
        )
        self.map.set_priors(self._priors)
        describe(self.map.rig, instant.rig, taken.optical_frames)
        times = {"start": self.clock()}
        grids = [
            self.grid(*o.frame.rgb.shape[1::-1])._replace(rectification=o.frame.rectification)
            for o in taken.observations
        ]
        first, self._frame_id = self._frame_id, self._frame_id + len(grids)
        held = self._held.add(first, window_frames(taken.observations, grids, self.masking))
        times["resize"] = self.clock()
        self._window, due = self._with(first)
        self._held.keep(self._window.frame_ids)
        for key, frame in reversed(list(enumerate(held, first))):  # the first is the newest
            ns, camera = frame.frame.stamp_ns, frame.frame.camera
            self._tracker.arrived(SeenFrame(key, ns, frame.grid, frame.shown, camera))
        self._robot = robot
        return self._update(times, robot) if due else None

    def finish(self) -> Update | None:
        """Infer the frames since the last inference, where a stream ends; None: there are none."""
        if not self._window.fresh:
            return None
        self._window = self._window._replace(fresh=0)
        return self._update({"start": self.clock()}, self._robot)

    def _taken(self, instant: Instant) -> Taken:
        """Refuse what cannot follow the last frames; restart where a stream itself changed."""
        taken = self.cameras.take(instant)
        if taken.starts_map:
            if self.is_tracking:
                self.notices.append("tracks end with the window: send the points again")
            self._restart()
        return taken

    def _restart(self) -> None:
        """All that `reset` does, but for the stamps."""
        self._window = Window()
        self._held = HeldFrames()
        self._views: dict[int, View] = {}
        self._depths, self.outcomes = Depths(), Outcomes()  # of other sensors
        self._follower = KeyframeFollower()
        # Frame of the last inference, and how many older frames of its window it left out.
        self._newest, self._missing = -1, 0
        self.map.close(0.0)
        # What was observed of another map, or of another camera, may be otherwise now.
        self._priors = Priors(
            camera_height=self.settings.camera_height, fixed_scale=self.settings.fixed_scale
        )
        self.map = self._empty_map()
        self._tracker = Tracker(self._notify, self.cameras.count)
        self._network.baseline.reset()
        self.engine.reset()

    def _empty_map(self) -> Map:
        settings = self.settings
        made = Map(
            of_rig(settings.sources) if self.cameras.is_rig else settings.sources,
            self._priors,
            loop_period=settings.loop_period if settings.extra_views and settings.loops else 0,
            max_keyframes=settings.max_keyframes,
            background=self._background,
            older=self._older,
            rig=rig_of(self.cameras.names),
        )
        made.loops.obstacles.set("settings", settings.no_loops)
        return made

    def grid(self, width: int, height: int) -> Grid:
        """The network's pixel grid for an image of this size.

        Raises `UserError` for one that leaves no row, or that a loaded map was not made for; of a
        rig also for one that is too narrow for the grid of the others, which the first decides.
        """
        return self.cameras.grid(width, height)

    def _own_grid(self, width: int, height: int) -> Grid:
        grid = self.settings.grid(width, height, self.engine.default_width)
        if self._older:
            self._older.check_grid(grid.height, grid.width)
        return grid

    def load_map(self, folder: Path, *, extend: bool = True) -> LoadedMap:
        """Start again in a map that was saved, and seek the camera in it; so does `reset`.

        It stays as it is unless it is to `extend`. Raises `UserError`; then everything goes on.
        """
        settings, engine = self.settings, self.engine
        settings.check_relocalises()
        older = open_map(folder, engine.fingerprint, settings.max_keyframes, extend=extend)
        now = None if (newest := self._held.newest) is None else newest.grid.height
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
        assert (newest := self._held.newest) is not None
        grid = newest.grid
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
        tracker = self._tracker
        before = without_newest(self._window, self.settings, self.map, tracker, self._held.of)
        return push(before, frame_id, size=size, stride=stride)

    def _update(self, times: dict[str, float], robot: Observation) -> Update:
        ids = self._held.shown(self._window.frame_ids, self._lengths)
        found = self._network.infer(
            ids, self._held.frames, self._tracker, self.map, self._missing, robot.extra_view
        )
        result = found.result
        times["network"] = self.clock()
        if result.notice:
            self.notices.append(result.notice)
        asked, ids, result = len(ids), *whole_instants(ids, self._held.instant, result)
        self._missing = asked - len(ids)
        held = [self._held.frames[key] for key in ids]
        instants = tuple(self._held.instant(key) for key in ids)
        # The window started again, or is too small to share a frame with the last one.
        begin = not set(ids) & set(self.map.frame_ids) and (self.map.lost or self._missing > 0)
        window, focal = window_geometry(
            ids, instants, held, result, calibrated=self.settings.intrinsics != "model"
        )
        newest = self._held.frames[instants[-1]]  # of a rig the first camera that is there
        self._depths.add(instants[-1], newest, robot.depth_source)
        sensors = Sensors(self._depths, found.pairs, robot.odom_from_base, self.outcomes)
        placed = self.map.add(
            window, newest.frame.stamp_ns, sensors, WindowFrames(self.engine, self._held.frames),
            found.loop, begin=begin and self.settings.has_map,
        )  # fmt: skip
        fresh = sum(key > self._newest for key in ids)
        moved = self._follower.follow(placed.keyframes)
        self._views = place_views(window, held, placed, self._views, moved)
        self._newest = ids[-1]
        tracks = None
        if found.anchor is not None and result.tracks is not None:
            keep_tracks(self._tracker, found.anchor.camera, ids, held, result.tracks)
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
            as_sequence=found.as_sequence,
            **placed.shared(),
        )
