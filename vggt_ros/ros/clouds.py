# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth to points, as fast as a look needs it: float32, one pass per coordinate, no message yet."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from vggt_ros.pipeline import View


class Points(NamedTuple):
    """Points without order or gaps."""

    xyz: Float32[np.ndarray, "p 3"]
    rgb: UInt8[np.ndarray, "p 3"]
    confidence: Float32[np.ndarray, "p"]


def camera_points(
    depth: Float32[np.ndarray, "h w"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """`geometry.unproject` for one picture, laid out plane by plane (the result is a view of it).

    NaN depth gives NaN in all three coordinates.
    """
    height, width = depth.shape
    (fx, _, cx), (_, fy, cy) = intrinsics[:2]
    planes = np.empty((3, height, width), np.float32)
    np.multiply(depth, ((np.arange(width) - cx) / fx).astype(np.float32), out=planes[0])
    np.multiply(depth, ((np.arange(height) - cy) / fy).astype(np.float32)[:, None], out=planes[1])
    planes[2] = depth
    return planes.transpose(1, 2, 0)


def window_points(views: Iterable[View], min_confidence: float, step: int) -> Points:
    """Confident points of all views in the world, from every `step`-th row and column."""
    parts = [_world_points(view, min_confidence, step) for view in views if view.depth is not None]
    xyz, rgb, confidence = zip(*parts, strict=True)
    return Points(
        np.concatenate(xyz, axis=1).T, np.concatenate(rgb, axis=1).T, np.concatenate(confidence)
    )


def _world_points(
    view: View, min_confidence: float, step: int
) -> tuple[Float32[np.ndarray, "3 p"], UInt8[np.ndarray, "3 p"], Float32[np.ndarray, "p"]]:
    """Coordinates, colours and confidence, one row each: gathering triples is ten times slower."""
    assert view.depth is not None and view.confidence is not None
    coarse = np.s_[::step, ::step]
    confidence = view.confidence[coarse]
    depth = view._replace(depth=view.depth[coarse], confidence=confidence).masked_depth(
        min_confidence
    )
    kept = np.flatnonzero(np.isfinite(depth))
    in_camera = camera_points(depth, view.intrinsics / np.array([[step], [step], [1]]))
    world_from_camera = view.world_from_camera.astype(np.float32)
    xyz = world_from_camera[:3, :3] @ _rows(in_camera, kept) + world_from_camera[:3, 3:]
    return xyz, _rows(view.rgb[coarse], kept), confidence.ravel()[kept]


def _rows(picture: Shaped[np.ndarray, "h w 3"], kept: Int[np.ndarray, "p"]) -> np.ndarray:
    return np.stack([picture[..., i].ravel()[kept] for i in range(3)])
