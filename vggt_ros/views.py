# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the network is asked about a window, and its output as cameras and tracks."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vggt_ros.engine.extra_views import infer_with_extra_view
from vggt_ros.engine.interface import Engine, InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.frames import ExtraView, WindowFrame
from vggt_ros.geometry import (
    extrinsics_from_pose_encoding,
    homogeneous,
    intrinsics_from_pose_encoding,
    inverse_rigid,
)
from vggt_ros.imaging.compressed import decompress
from vggt_ros.imaging.grid import to_same_grid
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.metric.baseline import (
    BaselineSchedule,
    CameraPair,
    camera_pair,
    check_simultaneous,
)
from vggt_ros.mapping.pose_graph.loops import LoopView
from vggt_ros.mapping.window import WindowGeometry, camera_from_encoding
from vggt_ros.tracking import TrackAnchor, Tracker
from vggt_ros.windows.results import views_of, without_masked


def window_geometry(
    frame_ids: tuple[int, ...],
    instants: tuple[int, ...],
    frames: Sequence[WindowFrame],
    result: InferenceResult,
    *,
    calibrated: bool,
) -> tuple[WindowGeometry, float | None]:
    """Cameras and depth of a window in its own gauge, and the newest focal length ratio.

    `instants`: the first frame of each frame's instant.
    With `calibrated`, K is that of the frames that have one, else the network's. The ratio is the
    network's focal length over the calibrated one; None without any.
    """
    height, width = frames[-1].pixels.shape[:2]
    encoding = result.pose_encoding.astype(np.float64)
    window_from_camera = homogeneous(inverse_rigid(extrinsics_from_pose_encoding(encoding)))
    intrinsics = np.array(intrinsics_from_pose_encoding(encoding, height, width))
    focal = None
    for i, frame in enumerate(frames):
        if frame.frame.intrinsics is not None:
            known = frame.grid.network_from_input @ frame.frame.intrinsics
            focal = float(intrinsics[i, 0, 0] / known[0, 0])
            if calibrated:
                intrinsics[i] = known
    depth = result.depth
    for i, frame in enumerate(frames[len(frames) - len(depth) :]):
        valid = frame.grid.valid
        if valid is not None and not valid.all():
            depth = depth.copy() if depth is result.depth else depth
            depth[i][~valid] = np.nan  # black, or padding: the camera did not see it
    geometry = WindowGeometry(frame_ids, window_from_camera, intrinsics, depth, result.confidence)
    names = tuple(frame.frame.camera_name for frame in frames)
    return (geometry._replace(instants=instants, cameras=names) if any(names) else geometry), focal


class Inferred(NamedTuple):
    """The network's output for a window, and what became of the image shown beside it."""

    result: InferenceResult
    anchor: TrackAnchor | None = None  # the points that were to be tracked
    pairs: tuple[CameraPair, ...] = ()  # where a second camera stands
    loop: LoopView | None = None  # where an old keyframe stands
    as_sequence: str = ""  # as `Update` has it


class WindowInference:
    """Asks the network about windows: which image is shown beside one, which points are tracked.

    There is room for one image.  That of a frame whose points wait to be tracked comes first, then
    a second camera's, then an old keyframe's.
    """

    def __init__(
        self,
        engine: Engine,
        depth_frames: int,
        window_size: int,
        notify: Callable[[str], object],
        cameras: int = 1,
    ):
        """`depth_frames` and `window_size` are of all `cameras` together."""
        self._cameras = cameras
        self._engine, self._notify = engine, notify
        self._depth_frames, self._window_size = depth_frames, window_size
        self.baseline = BaselineSchedule()

    def infer(
        self,
        ids: tuple[int, ...],
        held: Mapping[int, WindowFrame],
        tracker: Tracker,
        known: Map,
        missing: int,
        extra: ExtraView | None,
    ) -> Inferred:
        """The network's output for the frames `ids`, of which it left out `missing` the last time.

        `extra` is a second camera's image. `tracker` learns why points are not tracked, if not.
        """
        anchor = tracker.find(ids, missing)
        if anchor is not None and anchor.frame_id not in ids:
            reason = self._obstacle(len(ids) + 1, anchor.kept.pixels, len(anchor.ids))
            if not reason:
                result, _, why = self._ask(ids, held, anchor, anchor.kept.pixels)
                found = Inferred(result, anchor, as_sequence=why)
                return self._checked(found, len(ids) + 1, tracker)
            tracker.not_tracked(reason)
            anchor = None
        newest = held[ids[-1]]
        if extra is not None:
            self.baseline.attempt(newest.frame.stamp_ns)
            image = second_image(extra, newest, self._notify)
            result, encoding, why = self._ask(ids, held, anchor, image)
            pair = None
            if encoding is not None:
                pair = checked_pair(self.baseline, encoding, result, extra, self._notify)
            if image is not None and len(result.pose_encoding) < len(ids):
                self.baseline.pause()
            pairs = () if pair is None else (pair,)
            return self._checked(Inferred(result, anchor, pairs, None, why), len(ids), tracker)
        key, image = known.next_loop, None
        if self._may_show_keyframe(len(ids)):
            reason = ""
            if anchor is not None and known.loops.is_on and not known.is_relocalising:
                # No gap in the tracks while the program with room for one more is compiled.
                reason = self._obstacle(len(ids) + 1, newest.pixels, len(anchor.ids))
                reason = reason and f"while {len(anchor.ids)} points are tracked: {reason}"
            key, image = keyframe_to_show(known, newest, reason, missing)
            if image is not None and (reason := self._no_room(len(ids) + 1, newest, anchor)):
                known.loops.obstacles.set("room", f"no loop is sought: {reason}")
                key = image = None
        result, encoding, why = self._ask(ids, held, anchor, image)
        loop = None
        if key is not None and encoding is not None and len(result.pose_encoding) == len(ids):
            loop = LoopView(key, camera_from_encoding(encoding))
        elif image is not None:
            known.loops.pause(len(ids))
        return self._checked(Inferred(result, anchor, (), loop, why), len(ids), tracker)

    def _may_show_keyframe(self, frames: int) -> bool:
        """Not where it would come first: a short window would be measured by its camera alone.

        Of a rig: beside as many instants as are in a full window, of whichever cameras are there.
        """
        if self._cameras == 1:
            return frames > min(self._depth_frames, self._window_size - 1)
        return frames % (self._window_size // self._cameras) == 0

    def _checked(self, found: Inferred, frames: int, tracker: Tracker) -> Inferred:
        """The same; `tracker` is told if there are no tracks in it."""
        if found.anchor is not None and found.result.tracks is None:
            reason = self._obstacle(frames, found.anchor.kept.pixels, len(found.anchor.ids))
            tracker.not_tracked(reason or "the network could not run with them")
        return found

    def _no_room(self, frames: int, newest: WindowFrame, anchor: TrackAnchor | None) -> str:
        """Why no image fits into so many frames, with the points or without; empty: it does."""
        if anchor and not self._obstacle(frames, newest.pixels, len(anchor.ids)):
            return ""
        return self._obstacle(frames, newest.pixels)

    def _obstacle(self, frames: int, pixels: UInt8[np.ndarray, "h w 3"], points: int = 0) -> str:
        """Why so many points are not tracked in an inference of `frames`; empty: they are."""
        height, width = pixels.shape[:2]
        depth_frames = min(self._depth_frames, frames)
        return self._engine.obstacle(
            (height, width), frames, depth_frames=depth_frames, queries=points
        )

    def _ask(
        self,
        ids: tuple[int, ...],
        held: Mapping[int, WindowFrame],
        anchor: TrackAnchor | None,
        image: UInt8[np.ndarray, "h w 3"] | None,
    ) -> tuple[InferenceResult, Float32[np.ndarray, "9"] | None, str]:
        """The network's output, the pose encoding of an image beside the window, and `as_sequence`.

        None: there is no such image, or the network left it out. Points that are pinned in none of
        these frames are given in the image, which must be the one that is kept of theirs.
        """
        frames = [held[key] for key in ids]
        images, views, why = [frame.shown for frame in frames], 0, ""
        if self._engine.layout == "view_time":
            views, why = views_of(frames, is_rig=self._cameras > 1, beside=image is not None)
        inside = anchor is not None and anchor.frame_id in ids
        query_frame = ids.index(anchor.frame_id) if anchor and inside else None
        queries = anchor.uv if anchor else None
        depth_frames = min(self._depth_frames, len(ids))
        if image is not None and self._cameras > 1:
            depth_frames = min(depth_frames, len(ids) - 1)  # it never comes first
        if image is None:
            result = self._engine.infer(
                ids, images, depth_frames=depth_frames,
                queries=queries, query_frame=query_frame or 0, views=views,
            )  # fmt: skip
            encoding = None
        else:
            result, encoding = infer_with_extra_view(
                self._engine, ids, images, image, depth_frames=depth_frames,
                max_depth_frames=self._depth_frames, queries=queries, query_frame=query_frame,
            )  # fmt: skip
        return without_masked(result, frames), encoding, why


def second_image(
    extra: ExtraView, newest: WindowFrame, notify: Callable[[str], object]
) -> UInt8[np.ndarray, "h w 3"] | None:
    """A second camera's image on the window's grid; None, and a notice, for one of no use."""
    try:
        check_simultaneous(extra.stamp_ns - newest.frame.stamp_ns)
        return to_same_grid(extra.rgb, newest.grid, extra.rectification)
    except UserError as error:
        notify(f"baseline: {error}")
        return None


def checked_pair(
    schedule: BaselineSchedule,
    encoding: Float[np.ndarray, "9"],
    result: InferenceResult,
    extra: ExtraView,
    notify: Callable[[str], object],
) -> CameraPair | None:
    """Where a second camera stands by one inference; None, and a notice, if it is not believed."""
    pair = camera_pair(encoding, result.pose_encoding[-1], extra.camera_from_extra)
    try:
        return schedule.check(pair, result.depth[-1])
    except UserError as error:
        notify(str(error))
        return None


def keyframe_to_show(
    known: Map, newest: WindowFrame, tracks: str, missing: int
) -> tuple[int | None, UInt8[np.ndarray, "h w 3"] | None]:
    """The keyframe to show beside the window, and its image; None: none is due, or none can be.

    `tracks`: why none can be beside points that are tracked, or empty. `missing`: frames that the
    engine left out of the last window. What stands in the way is an obstacle of the map's loops,
    for as long as it does.
    """
    obstacles = known.loops.obstacles
    if known.loops.is_on:
        obstacles.set("tracks", tracks and f"no loop is sought {tracks}")
        because = f"no loop is sought while the engine leaves {missing} frames out of the window"
        obstacles.set("window", because if missing else "")
    key, store = known.next_loop, known.keyframes.store
    if missing or tracks or key is None or key not in store:
        return key, None
    stored = store.get(key).image
    image = decompress(stored) if stored else None
    if image is None:
        obstacles.leave_out(key, len(store), "has no image")
    elif image.shape != newest.pixels.shape:
        sizes = [
            f"{width}x{height}" for height, width in (image.shape[:2], newest.pixels.shape[:2])
        ]
        obstacles.leave_out(key, len(store), f"has an image of {sizes[0]}, the window {sizes[1]}")
        image = None
    return key, image
