# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's answer about a window, frame by frame: what is left of it, and its tracks."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, UInt32

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.frames import Tracks, WindowFrame
from vggt_ros.tracking import Tracker


def whole_instants(
    ids: tuple[int, ...], instant: Callable[[int], int], result: InferenceResult
) -> tuple[tuple[int, ...], InferenceResult]:
    """The frames of a result, without those whose instant's first frame is not in it."""
    ids = ids[len(ids) - len(result.pose_encoding) :]
    cut = next((i for i, key in enumerate(ids) if instant(key) in ids), 0)
    if not cut:
        return ids, result
    depth_frames = min(len(result.depth), len(ids) - cut)
    rest = (result.tracks, result.visibility, result.track_confidence)
    tracks, visibility, trust = (None if rows is None else rows[cut:] for rows in rest)
    return ids[cut:], InferenceResult(
        result.pose_encoding[cut:],
        result.depth[len(result.depth) - depth_frames :],
        result.confidence[len(result.depth) - depth_frames :],
        tracks, visibility, trust, result.notice,
    )  # fmt: skip


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
    cameras = tuple(h.frame.camera for h in held)
    return Tracks(ids, stamps, uv, result.visibility * seen, result.track_confidence, cameras)


def keep_tracks(
    tracker: Tracker,
    camera: str,
    ids: tuple[int, ...],
    held: Sequence[WindowFrame],
    tracks: Float32[np.ndarray, "s n 2"],
) -> None:
    """Tell the tracker where its points are in the frames of the camera they were chosen in."""
    own = [i for i, frame in enumerate(held) if frame.frame.camera == camera]
    newest = held[own[-1]].shown if own else None
    tracker.tracked(tuple(ids[i] for i in own), tracks[own], newest)


def whole_views(cameras: Sequence[str]) -> int:
    """How many cameras each instant of a window has, by the camera of each frame; 0: not the same.

    Frames are instant by instant, in the order of the rig's cameras.
    """
    count = next((i for i in range(1, len(cameras)) if cameras[i] == cameras[0]), len(cameras))
    is_whole = len(cameras) % count == 0 and list(cameras) == [*cameras[:count]] * (
        len(cameras) // count
    )
    return count if is_whole else 0
