# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One keyframe, and where many of them are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.medians import median


class Keyframe(NamedTuple):
    """A frame that stays in the map.  Its own unit is the world's when it was first placed."""

    frame_id: int
    stamp_ns: int
    camera: str  # name of its optical frame
    segment: int
    world_from_keyframe: Similarity
    intrinsics: Float[np.ndarray, "3 3"]  # of the grid of `depth`
    depth: Float[np.ndarray, "h w"] | None  # own unit, NaN where not trusted
    descriptor: Float32[np.ndarray, "d"] | None
    image: bytes = b""  # compressed, on the network's grid; empty: none


class Views(NamedTuple):
    """Where all keyframes are and where they look, by rising frame id."""

    ids: Int[np.ndarray, "n"]
    segments: Int[np.ndarray, "n"]
    centres: Float[np.ndarray, "n 3"]  # in the world
    directions: Float[np.ndarray, "n 3"]  # unit vectors along the optical axes, in the world


def packed(depth: Float[np.ndarray, "h w"] | None) -> Float[np.ndarray, "h w"] | None:
    """In at most 32 bits a pixel, and not a view that keeps a larger array alive."""
    if depth is None:
        return None
    return np.array(depth, np.float16 if depth.dtype == np.float16 else np.float32, order="C")


def scene_depth(depth: Float[np.ndarray, "h w"] | None) -> float:
    known = depth[np.isfinite(depth)] if depth is not None else np.zeros(0)
    return median(known.astype(np.float32)) if known.size else 1.0
