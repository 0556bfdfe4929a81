# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's answer about a window, frame by frame: what is left of it, and its tracks."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Float32, UInt32

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.frames import Tracks, WindowFrame
from vggt_ros.tracking import Tracker

# Why layout view_time attends a window as one sequence, where no camera is missing.
ONE_CAMERA = "there is one camera"
BESIDE = "an old keyframe, or a frame whose points are tracked, is shown beside the window"


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


def views_of(frames: Sequence[WindowFrame], *, is_rig: bool, beside: bool) -> tuple[int, str]:
    """By how many views layout view_time attends a window; 0: as one sequence, and why.

    Each instant must have the same cameras. `beside`: an image is shown that is none of these.
    """
    if not is_rig:
        return 0, ONE_CAMERA
    if beside:
        return 0, BESIDE
    groups = groupby(frames, key=lambda frame: frame.instant)
    instants = [tuple(frame.frame.camera_name for frame in group) for _, group in groups]
    if len(set(instants)) == 1:
        return len(instants[0]), ""
    counts = Counter(name for instant in instants for name in instant)
    parts = [f"{n} of {name}" for name, n in counts.items() if n < len(instants)]
    return 0, f"{len(instants)} instants have {' and '.join(parts)}"
