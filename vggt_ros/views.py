# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's output as cameras of a window, and a registered window as views in the world."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt32

from vggt_ros.engine.extra_views import infer_with_extra_view
from vggt_ros.engine.interface import Engine, InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.frames import ExtraView, Observation, Tracks, View, WindowFrame
from vggt_ros.geometry import (
    extrinsics_from_pose_encoding,
    homogeneous,
    intrinsics_from_pose_encoding,
    inverse_rigid,
)
from vggt_ros.imaging.compressed import compress, decompress
from vggt_ros.imaging.grid import Grid, to_network, to_same_grid
from vggt_ros.imaging.masks import Masking
from vggt_ros.mapping.baseline import BaselineSchedule, CameraPair, check_simultaneous
from vggt_ros.mapping.corrections import Correction, KeyframePoses
from vggt_ros.mapping.keyframe_map import Appearance
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.placement import Placement
from vggt_ros.mapping.window import WindowGeometry
from vggt_ros.tracking import TrackAnchor


def window_geometry(
    frame_ids: tuple[int, ...],
    frames: Sequence[WindowFrame],
    result: InferenceResult,
    *,
    calibrated: bool,
) -> tuple[WindowGeometry, float | None]:
    """Cameras and depth of a window in its own gauge, and the newest focal length ratio.

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
    depth, valid = result.depth, frames[-1].grid.valid
    if valid is not None and not valid.all():
        depth = np.where(valid, depth, np.float32(np.nan))  # black: the camera did not see it
    geometry = WindowGeometry(frame_ids, window_from_camera, intrinsics, depth, result.confidence)
    return geometry, focal


def window_frame(observation: Observation, grid: Grid, masking: Masking) -> WindowFrame:
    """The frame on the network's grid, and what is ignored of it."""
    pixels = to_network(observation.frame.rgb, grid)
    masked = masking.of(pixels, grid, observation.mask)
    return WindowFrame(observation.frame, grid, pixels, observation.sensor_depth, masked)


def camera_from_encoding(encoding: Float[np.ndarray, "9"]) -> Float[np.ndarray, "4 4"]:
    """window_from_camera of one pose encoding."""
    from_window = homogeneous(extrinsics_from_pose_encoding(encoding[None].astype(np.float64)))
    return inverse_rigid(from_window)[0]


def camera_pair(
    extra: Float[np.ndarray, "9"],
    newest: Float[np.ndarray, "9"],
    camera_from_extra: Float[np.ndarray, "4 4"],
) -> CameraPair:
    """Where a second camera stands, by the pose encodings of one window and as mounted."""
    estimated = inverse_rigid(camera_from_encoding(newest)) @ camera_from_encoding(extra)
    return CameraPair(estimated, camera_from_extra)


class WindowFrames:
    """The frames of the window, as the map asks for them (`keyframe_map.Frames`)."""

    def __init__(self, engine: Engine, held: Mapping[int, WindowFrame]):
        self._engine, self._held = engine, held

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """Its descriptor by the network."""
        return self._engine.describe(frame_id)

    def appearance(self, frame_id: int) -> Appearance:
        """What the map keeps of it."""
        held = self._held[frame_id]
        return Appearance(held.frame.stamp_ns, held.frame.camera, compress(held.shown))


def frame_at(stamp_ns: int, held: Mapping[int, WindowFrame]) -> int | None:
    """The frame of that stamp (0: the newest; None: there is none yet).  Raises `UserError`."""
    known = {frame.frame.stamp_ns: key for key, frame in held.items()}
    if stamp_ns and stamp_ns not in known:
        raise UserError(
            f"the query's stamp {stamp_ns} is not one of the {len(known)} frames in the window;"
            " use stamp 0 for the newest frame"
        )
    return known[stamp_ns] if stamp_ns else max(held, default=None)


def input_tracks(
    ids: UInt32[np.ndarray, "n"], held: Sequence[WindowFrame], result: InferenceResult
) -> Tracks:
    """The network's tracks in pixels of the input image."""
    assert result.tracks is not None
    assert result.visibility is not None and result.track_confidence is not None
    pairs = zip(held, result.tracks, strict=True)
    uv = np.stack([h.grid.input_pixels(track) for h, track in pairs])
    stamps = tuple(h.frame.stamp_ns for h in held)
    seen = np.isfinite(uv).all(axis=-1)  # all, unless a lens is undone
    return Tracks(ids, stamps, uv, result.visibility * seen, result.track_confidence)


def infer(
    engine: Engine,
    frame_ids: tuple[int, ...],
    held: Mapping[int, WindowFrame],
    anchor: TrackAnchor | None,
    depth_frames: int,
    extra_image: UInt8[np.ndarray, "h w 3"] | None,
) -> tuple[InferenceResult, Float32[np.ndarray, "9"] | None]:
    """The network's output for a window, and for an extra image its pose encoding.

    None: there is no such image, or the network left it out.
    """
    images = [held[key].shown for key in frame_ids]
    asked = {
        "depth_frames": min(depth_frames, len(frame_ids)),
        "queries": anchor.uv if anchor else None,
        "query_frame": frame_ids.index(anchor.frame_id) if anchor else 0,
    }
    if extra_image is None:
        result, encoding = engine.infer(frame_ids, images, **asked), None
    else:
        result, encoding = infer_with_extra_view(
            engine, frame_ids, images, extra_image, max_depth_frames=depth_frames, **asked
        )
    return without_masked(result, [held[key] for key in frame_ids]), encoding


def without_masked(result: InferenceResult, frames: Sequence[WindowFrame]) -> InferenceResult:
    """The result without depth at masked pixels: NaN with confidence 0, for all that follows."""
    newest = frames[len(frames) - len(result.depth) :]
    if all(frame.masked.mask is None for frame in newest):
        return result
    depth, confidence = result.depth.copy(), result.confidence.copy()
    for i, frame in enumerate(newest):
        if frame.masked.mask is not None:
            depth[i][frame.masked.mask], confidence[i][frame.masked.mask] = np.nan, 0.0
    return result._replace(depth=depth, confidence=confidence)


def second_image(
    extra: ExtraView, newest: WindowFrame, notify: Callable[[str], object]
) -> UInt8[np.ndarray, "h w 3"] | None:
    """A second camera's image on the window's grid; None, and a notice, for one of no use."""
    try:
        check_simultaneous(extra.stamp_ns - newest.frame.stamp_ns)
        return to_same_grid(extra.rgb, newest.grid)
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
    known: Map, newest: WindowFrame, anchor: TrackAnchor | None, missing: int
) -> tuple[int | None, UInt8[np.ndarray, "h w 3"] | None]:
    """The keyframe to show beside the window, and its image; None: none is due, or none can be.

    `missing`: frames that the engine left out of the last window. What stands in the way is an
    obstacle of the map's loops, for as long as it does.
    """
    obstacles, tracked = known.loops.obstacles, 0
    if anchor is not None and not known.is_relocalising:
        tracked = len(anchor.ids)  # programs for tracks have no room for an extra view
    if known.loops.is_on:
        because = (
            f"no loop is sought while {tracked} points are tracked: their programs have no room"
        )
        obstacles.set("tracks", f"{because} for an old keyframe" if tracked else "")
        because = f"no loop is sought while the engine leaves {missing} frames out of the window"
        obstacles.set("window", because if missing else "")
    key, store = known.next_loop, known.keyframes.store
    if missing or tracked or key is None or key not in store:
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


def place_views(
    window: WindowGeometry,
    frames: Sequence[WindowFrame],
    placed: Placement,
    known: Mapping[int, View],
    correction: Correction,
) -> dict[int, View]:
    """The window's views in the world, by frame; frames without depth keep what was known.

    `correction`: what moved since that became known.
    """
    unit = np.float32(placed.registration.world_from_window.scale)
    without_depth = len(window.frame_ids) - len(window.depth)
    views: dict[int, View] = {}
    for i, (key, frame) in enumerate(zip(window.frame_ids, frames, strict=True)):
        j = i - without_depth
        if j < 0 and key in known:
            views[key] = corrected(known[key], placed.keyframes, correction)
            continue
        views[key] = View(
            frame_id=key,
            stamp_ns=frame.frame.stamp_ns,
            camera=frame.frame.camera,
            grid=frame.grid,
            rgb=frame.pixels,
            intrinsics=window.intrinsics[i],
            world_from_camera=placed.world_from_camera[i],
            depth=window.depth[j] * unit if j >= 0 else None,
            confidence=window.confidence[j] if j >= 0 else None,
            input_rgb=frame.frame.rgb,
            segment=placed.registration.segment,
            keyframe=_keyframe(key, window.frame_ids, placed.keyframes),
        )
    return views


def corrected(view: View, keyframes: KeyframePoses, correction: Correction) -> View:
    """A view as it was known, where its keyframe is now."""
    motion = correction.moved.get(view.keyframe)
    if motion is not None:
        depth = None if view.depth is None else view.depth * np.float32(motion.scale)
        pose = motion.apply_to_poses(view.world_from_camera[None])[0]
        view = view._replace(world_from_camera=pose, depth=depth)
    key = correction.heirs.get(view.keyframe, view.keyframe)
    if key in keyframes:
        view = view._replace(keyframe=key, segment=keyframes.segment(key))
    return view


def _keyframe(frame_id: int, window: Sequence[int], keyframes: KeyframePoses) -> int:
    """The keyframe that a view moves with: its own, else the newest of the window."""
    stored = [key for key in window if key in keyframes]
    return frame_id if frame_id in stored else stored[-1] if stored else -1
