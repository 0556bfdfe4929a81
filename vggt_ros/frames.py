# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes through the pipeline: a camera's frame in, views placed in the world and tracks out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt32

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import Grid
from vggt_ros.mapping.alignment import Join
from vggt_ros.mapping.scale import NOTHING, Estimate
from vggt_ros.mapping.velocity import UNKNOWN, Motion

ORIGIN = np.zeros(3)
ORIGIN.flags.writeable = False  # it is shared


class FrameError(UserError):
    """A frame that was refused; the window stays as it was."""


class Companion(NamedTuple):
    """What another camera of the same rig saw at that moment."""

    rgb: UInt8[np.ndarray, "h w 3"]
    stamp_ns: int
    camera_from_companion: Float[np.ndarray, "4 4"]  # as mounted, in metres


class Frame(NamedTuple):
    """One picture as the camera took it."""

    rgb: UInt8[np.ndarray, "h w 3"]
    stamp_ns: int
    camera: str = "camera"  # the camera's optical frame id
    intrinsics: Float[np.ndarray, "3 3"] | None = None  # calibrated K of this very picture
    metres: Float32[np.ndarray, "h w"] | None = None  # another sensor's depth of it; NaN: none
    companion: Companion | None = None  # for scale source baseline


class Held(NamedTuple):
    """A frame of the window before and between looks."""

    frame: Frame
    grid: Grid
    pixels: UInt8[np.ndarray, "h w 3"]  # on that grid

    def metres(self) -> Float[np.ndarray, "h w"] | None:
        """The other sensor's depth on the network's grid: the nearest pixel of the input."""
        metres, grid = self.frame.metres, self.grid
        if metres is None:
            return None
        (sx, _, x0), (_, sy, y0), _ = grid.input_from_network
        columns = np.rint(sx * np.arange(grid.width) + x0).astype(int)
        rows = np.rint(sy * np.arange(grid.height) + y0).astype(int)
        return metres[rows.clip(0, len(metres) - 1)[:, None], columns.clip(0, metres.shape[1] - 1)]


class View(NamedTuple):
    """One frame of the window, placed in the world (z up), on the network's pixel grid."""

    frame_id: int
    stamp_ns: int
    camera: str
    grid: Grid
    rgb: UInt8[np.ndarray, "h w 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]
    depth: Float32[np.ndarray, "h w"] | None  # z-depth in world units; None: not asked for
    confidence: Float32[np.ndarray, "h w"] | None
    input_rgb: UInt8[np.ndarray, "H W 3"]  # the picture at the camera's own size
    segment: int = 0  # of the map in which it was placed

    def masked_depth(self, min_confidence: float) -> Float32[np.ndarray, "h w"]:
        """Depth with NaN wherever it is not to be trusted."""
        assert self.depth is not None and self.confidence is not None
        usable = (self.confidence >= min_confidence) & (self.depth > 0) & np.isfinite(self.depth)
        return np.where(usable, self.depth, np.float32(np.nan))

    def rescaled(self, factor: float, about: Float[np.ndarray, "3"], segment: int) -> "View":
        """The same view where a segment was rescaled about a point; all hang on the first one."""
        if factor == 1.0 or segment not in (0, self.segment):
            return self
        pose = self.world_from_camera.copy()
        pose[:3, 3] = about + factor * (pose[:3, 3] - about)
        depth = None if self.depth is None else self.depth * np.float32(factor)
        return self._replace(world_from_camera=pose, depth=depth)


class Tracks(NamedTuple):
    """Where the queried points are in each frame of the window, in pixels of the input image."""

    ids: UInt32[np.ndarray, "n"]
    stamps_ns: tuple[int, ...]
    uv: Float32[np.ndarray, "s n 2"]
    visibility: Float32[np.ndarray, "s n"]
    confidence: Float32[np.ndarray, "s n"]


class Update(NamedTuple):
    """What one look adds: the window's views oldest to newest, and how it joined the map."""

    views: tuple[View, ...]
    fresh: int  # how many of the newest views were never published before
    tracks: Tracks | None
    window_id: int
    join: Join
    seconds: dict[str, float]
    metric: bool = False  # are world units metres?
    scale: Estimate = NOTHING
    focal: float | None = None  # the network's focal length over the calibrated one
    rescaled: float = 1.0  # factor that older poses and points of this segment must follow,
    about: Float[np.ndarray, "3"] = ORIGIN  # and the point about which; all follow the first's
    motion: Motion | None = None  # of the newest camera; None: not known
    missing: int = 0  # older frames of the window that the network did not look at, or not yet

    @property
    def covariance(self) -> Float[np.ndarray, "6 6"]:
        """Of the newest camera (x y z, rotation vector), with that of the scale along its way.

        Where a window that does not fit the map was put, its cameras may be anywhere.
        """
        if not self.join.accepted:
            return UNKNOWN * np.eye(6)
        away = np.zeros(6)
        away[:3] = self.views[-1].world_from_camera[:3, 3]
        sigma = self.scale.sigma if self.metric else 1.0
        return self.join.covariance + sigma**2 * np.outer(away, away)

    @property
    def scale_source(self) -> str:
        """Who says so; "none": units are arbitrary."""
        return self.scale.source
