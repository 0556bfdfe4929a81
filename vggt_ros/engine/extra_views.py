# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An image beside the window in one inference: inserted into it, and taken out of the result.

Of another camera, of an old keyframe, or of a frame that left the window with points to track.

The extra view lies before the frames that get depth. The window, the frames that are cached and
the compiled programs stay as they are, and such an inference costs one frame more.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from vggt_ros.engine.interface import Engine, InferenceResult


def infer_with_extra_view(
    engine: Engine,
    frame_ids: tuple[int, ...],
    images: list[UInt8[np.ndarray, "h w 3"]],
    extra_image: UInt8[np.ndarray, "h w 3"],
    *,
    depth_frames: int,
    max_depth_frames: int,
    queries: Float32[np.ndarray, "n 2"] | None = None,
    query_frame: int | None = 0,
) -> tuple[InferenceResult, Float32[np.ndarray, "9"] | None]:
    """The window's result, as `Engine.infer` returns it, and the extra view's pose encoding.

    None where the engine left it out, as it does with the oldest frames of a window that is too
    long. `max_depth_frames` are those of a window that is one frame longer. `query_frame` counts
    the window's frames; None: `queries` are pixels of the extra view.
    """
    at = len(frame_ids) - depth_frames
    # A number that no frame has, nor any extra view before: the engine caches frames by it.
    every_id = (*frame_ids[:at], ~frame_ids[-1], *frame_ids[at:])
    found = engine.infer(
        every_id,
        [*images[:at], extra_image, *images[at:]],
        depth_frames=min(max_depth_frames, len(every_id)),
        queries=queries,
        query_frame=at if query_frame is None else query_frame + (query_frame >= at),
    )
    at -= len(every_id) - len(found.pose_encoding)  # the oldest are left out
    if at < 0:
        return found, None
    return without_view(found, at, depth_frames), found.pose_encoding[at]


def without_view(found: InferenceResult, at: int, depth_frames: int) -> InferenceResult:
    """The same result without its frame `at`, which is none of the newest `depth_frames`."""

    def others(rows: np.ndarray | None) -> np.ndarray | None:
        return None if rows is None else np.delete(rows, at, axis=0)

    return found._replace(
        pose_encoding=np.delete(found.pose_encoding, at, axis=0),
        depth=found.depth[-depth_frames:],
        confidence=found.confidence[-depth_frames:],
        tracks=others(found.tracks),
        visibility=others(found.visibility),
        track_confidence=others(found.track_confidence),
    )
