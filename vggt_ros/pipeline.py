# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The one page that joins the stages: a camera frame in, maybe a piece of the map out.

Node, command line, viewer and benchmark drive this very class, so what is measured is what the
robot runs.  No topics, no files; time is data (integer nanoseconds) and so is the stopwatch.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt32

from vggt_ros.engine.interface import Engine, Look
from vggt_ros.errors import UserError
from vggt_ros.frames import Companion, Frame, FrameError, Held, Tracks, Update, View
from vggt_ros.geometry import (
    extrinsics_from_pose_encoding,
    intrinsics_from_pose_encoding,
    inverse_rigid,
)
from vggt_ros.imaging.grid import Grid, to_network
from vggt_ros.mapping import alignment
from vggt_ros.mapping.map import Known, Placement, World
from vggt_ros.mapping.odometry import Odometry
from vggt_ros.second_camera import Pair, Rig
from vggt_ros.settings import Settings
from vggt_ros.tracking import TrackAnchor, mapped
from vggt_ros.window import Window, push

Clock = Callable[[], float]


class Pipeline:
    """Frames in, updates out.  Not thread-safe: one worker owns it."""

    PATIENCE = 5  # frames of a clock that went back before it is believed

    def __init__(
        self, engine: Engine, settings: Settings | None = None, clock: Clock | None = None
    ):
        self.engine = engine
        self.settings = settings or Settings()
        self.clock: Clock = clock or (lambda: 0.0)
        self.notices: list[str] = []  # what happened to the stream; the shell empties it
        self.odometry = Odometry()  # the shell fills it, before the frame it is about
        self._known = Known(
            camera_height=self.settings.camera_height, fixed_scale=self.settings.fixed_scale
        )
        self._rig = Rig(engine, self.settings, lambda notice: self.notices.append(notice))
        self._frame_id = 0
        self._window_id = 0
        self.reset()

    def reset(self) -> None:
        """Empty window, tracks and map; the compiled network stays."""
        self._window = Window()
        self._held: dict[int, Held] = {}
        self._views: dict[int, View] = {}
        self._newest, self._missing = -1, 0  # frame of the last look; how many older ones it lacked
        self.world = World(self.settings.scale_source, self._known, self.odometry)
        self._anchor: TrackAnchor | None = None
        self._last: Frame | None = None
        self._refused_back: list[int] = []
        self._focal: float | None = None
        self._rig.reset()
        self.engine.reset()

    def mounted(
        self,
        base_from_camera: Float[np.ndarray, "4 4"] | None,
        world_from_camera: Float[np.ndarray, "4 4"],
    ) -> None:
        """Where the camera sits on the robot, and how its first frame stands in a world with z up.

        The second takes effect where a map begins: now if there is none, else at the next reset.
        """
        self._known = replace(
            self._known, base_from_camera=base_from_camera, world_from_camera=world_from_camera
        )
        self.odometry.base_from_camera = base_from_camera
        if not self._views:
            self.world = World(self.settings.scale_source, self._known, self.odometry)

    def query(self, ids: UInt32[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"], stamp_ns: int = 0):
        """Track these pixels of the input image from now on; an empty list clears.

        `stamp_ns` says which frame they are seen in (0: the newest).  Raises `UserError` for
        pixels that are not numbers or lie outside the picture, and for a frame not in the window.
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
        self._anchor = TrackAnchor.at(
            ids, uv, known[stamp_ns] if stamp_ns else max(self._held, default=None)
        )
        if self._anchor.frame_id is not None:
            self._anchor = self._anchor.placed(self._held[self._anchor.frame_id].grid)

    def step(self, frame: Frame) -> Update | None:
        """Take one frame; look if it is time.  Raises `FrameError` for one that must be refused."""
        self._admit(frame)
        times = {"start": self.clock()}
        height, width = frame.rgb.shape[:2]
        grid = self.settings.grid(width, height, self.engine.default_width)
        frame_id, self._frame_id = self._frame_id, self._frame_id + 1
        pixels = to_network(frame.rgb, grid)
        self._held[frame_id] = Held(frame._replace(companion=None), grid, pixels)
        times["resize"] = self.clock()
        self._window, due = self._with(frame_id)
        self._held = {key: self._held[key] for key in self._window.frame_ids}
        if self._anchor is not None and self._anchor.frame_id is None:
            self._place_anchor(frame_id, grid)
        return self._look(times, frame.companion) if due else None

    def wants_companion(self, stamp_ns: int) -> bool:
        """Whether a frame of that time should bring its companion, for scale source baseline."""
        _, looks = self._with(self._frame_id)
        room = self._missing == 0  # else the window itself does not fit, or not yet
        return looks and room and self._rig.is_due(stamp_ns, self.world.wants("baseline"))

    def _with(self, frame_id: int) -> tuple[Window, bool]:
        """The window with one more frame, and whether to look at it."""
        size, stride = self.settings.window_size, self.settings.stride
        return push(self._without_newest(), frame_id, size=size, stride=stride)

    def _without_newest(self) -> Window:
        """The window that the next frame enters: a newest frame that showed nothing new leaves it.

        A robot at rest, or a fast camera, so keeps the views that made the window worth looking at.
        """
        ids = self._window.frame_ids
        spare = len(ids) == self.settings.window_size > 1 and self.settings.stride == 1
        if not (self.settings.keyframes and spare) or self.world.is_keyframe():
            return self._window
        if self._anchor is not None and self._anchor.within(ids[:-1]) is None:
            return self._window  # the queried points are known in that frame alone
        return self._window._replace(frame_ids=ids[:-1])

    def _admit(self, frame: Frame) -> None:
        """Refuse what cannot follow the last frame; begin anew where the stream itself changed."""
        if frame.stamp_ns <= 0:
            raise FrameError("the image's stamp is zero; the driver must stamp its images")
        if self._last is None:
            self._last = frame
            return
        if frame.stamp_ns <= self._last.stamp_ns and not self._clock_restarted(frame.stamp_ns):
            kind = "repeats" if frame.stamp_ns == self._last.stamp_ns else "goes back before"
            raise FrameError(
                f"the image's stamp {frame.stamp_ns} {kind} the last one, {self._last.stamp_ns};"
                " check for two publishers on one topic"
            )
        if frame.stamp_ns < self._last.stamp_ns:
            self._restart("time went back")
        elif frame.rgb.shape != self._last.rgb.shape:
            was, now = (f"{f.rgb.shape[1]}x{f.rgb.shape[0]}" for f in (self._last, frame))
            self._restart(f"image size changed from {was} to {now}")
        elif frame.camera != self._last.camera:
            self._restart(f"frame_id changed from '{self._last.camera}' to '{frame.camera}'")
        self._last = frame
        self._refused_back = []

    def _clock_restarted(self, stamp_ns: int) -> bool:
        """True once several frames in a row run forward on an earlier clock: a looped recording."""
        if self._refused_back and stamp_ns <= self._refused_back[-1]:
            self._refused_back = []
        self._refused_back.append(stamp_ns)
        return len(self._refused_back) > self.PATIENCE

    def _restart(self, why: str) -> None:
        self.notices.append(f"{why}: a new window and a new map begin")
        self.reset()

    def _place_anchor(self, frame_id: int, grid: Grid) -> None:
        assert self._anchor is not None
        try:
            self._anchor = self._anchor._replace(frame_id=frame_id).placed(grid)
        except UserError as error:
            self._anchor = None
            self.notices.append(str(error))

    def _look(self, times: dict[str, float], companion: Companion | None) -> Update:
        ids = self._window.frame_ids
        held = [self._held[key] for key in ids]
        anchor = self._anchor
        if anchor is not None:
            anchor = anchor.within(ids[self._missing :]) or anchor.within(ids)
        if self._anchor is not None and anchor is None:
            self.notices.append(self._anchor.epitaph())
        self._anchor = anchor
        look, pair = self._rig.look(
            ids,
            held,
            companion,
            queries=anchor.uv if anchor else None,
            query_frame=ids.index(anchor.frame_id) if anchor else 0,
        )
        times["network"] = self.clock()
        if look.notice:
            self.notices.append(look.notice)
        self._missing = len(ids) - len(look.pose_encoding)
        ids, held = ids[self._missing :], held[self._missing :]
        if self._missing and not any(key in self._views for key in ids):
            # A window too small to share a frame with the last one: nothing ties it to the map.
            self.world = World(self.settings.scale_source, self._known, self.odometry)
        placed, fresh = self._place(ids, held, look, pair)
        tracks = None
        if anchor is not None and look.tracks is not None:
            tracks = self._tracked(anchor, ids, held, look)
        times["geometry"] = self.clock()
        self._window_id += 1
        seconds = {name: t - before for (_, before), (name, t) in pairwise(times.items())}
        return Update(
            views=tuple(self._views[key] for key in ids),
            fresh=fresh,
            tracks=tracks,
            window_id=self._window_id - 1,
            join=placed.join,
            seconds=seconds,
            metric=placed.metric,
            scale=placed.scale,
            focal=self._focal,
            rescaled=placed.rescaled,
            about=placed.about,
            motion=placed.motion,
            missing=self._missing,
        )

    def _place(
        self, ids: tuple[int, ...], held: list[Held], look: Look, pair: Pair | None
    ) -> tuple[Placement, int]:
        """Cameras from the encoding, the window joined to the map, every view put in the world."""
        height, width = held[-1].pixels.shape[:2]
        window_from_camera = np.tile(np.eye(4), (len(ids), 1, 1))
        window_from_camera[:, :3] = inverse_rigid(
            extrinsics_from_pose_encoding(look.pose_encoding.astype(np.float64))
        )
        intrinsics = self._intrinsics(held, look, height, width)
        window = alignment.WindowGeometry(
            ids, window_from_camera, intrinsics, look.depth, look.confidence
        )
        placed = self.world.add(window, held[-1].frame.stamp_ns, held[-1].metres(), pair)
        unit, segment = np.float32(placed.join.world_from_window.scale), placed.join.segment
        without_depth = len(ids) - len(look.depth)
        fresh = sum(key > self._newest for key in ids)
        views: dict[int, View] = {}
        for i, (key, h) in enumerate(zip(ids, held, strict=True)):
            j = i - without_depth
            if j < 0 and key in self._views:
                views[key] = self._views[key].rescaled(placed.rescaled, placed.about, segment)
                continue
            views[key] = View(
                frame_id=key,
                stamp_ns=h.frame.stamp_ns,
                camera=h.frame.camera,
                grid=h.grid,
                rgb=h.pixels,
                intrinsics=intrinsics[i],
                world_from_camera=placed.world_from_camera[i],
                depth=look.depth[j] * unit if j >= 0 else None,
                confidence=look.confidence[j] if j >= 0 else None,
                input_rgb=h.frame.rgb,
                segment=segment,
            )
        self._views, self._newest = views, ids[-1]
        return placed, fresh

    def _intrinsics(
        self, held: list[Held], look: Look, height: int, width: int
    ) -> Float[np.ndarray, "s 3 3"]:
        encoding = look.pose_encoding.astype(np.float64)
        intrinsics = np.array(intrinsics_from_pose_encoding(encoding, height, width))
        self._focal = None
        for i, h in enumerate(held):
            if h.frame.intrinsics is not None:
                calibrated = h.grid.network_from_input @ h.frame.intrinsics
                self._focal = float(intrinsics[i, 0, 0] / calibrated[0, 0])
                if self.settings.intrinsics == "camera_info":
                    intrinsics[i] = calibrated
        return intrinsics

    def _tracked(
        self, anchor: TrackAnchor, ids: tuple[int, ...], held: list[Held], look: Look
    ) -> Tracks:
        """Tracks in input pixels; remembers them, since the anchor frame will leave the window."""
        assert look.tracks is not None
        assert look.visibility is not None and look.track_confidence is not None
        self._anchor = anchor.seen(ids, look.tracks)
        pairs = zip(held, look.tracks, strict=True)
        uv = np.stack([mapped(h.grid.input_from_network, track) for h, track in pairs])
        stamps = tuple(h.frame.stamp_ns for h in held)
        return Tracks(anchor.ids, stamps, uv, look.visibility, look.track_confidence)
