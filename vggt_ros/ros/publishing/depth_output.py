# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One view as it is published: masked, on the network's pixel grid or the camera's.

Every part is computed once, and only when a topic needs it.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from vggt_ros.frames import View
from vggt_ros.imaging.grid import Grid

Surface = Callable[[View], Bool[np.ndarray, "h w"]]

SAME_SURFACE = 1.1  # neighbouring depths within this ratio are blended, others never


class DepthOutput:
    """A view that has depth, masked below `min_confidence`, on the chosen pixel grid."""

    def __init__(
        self,
        view: View,
        *,
        min_confidence: float,
        on_input_grid: bool,
        surface: Surface | None = None,
    ):
        """`surface`: which pixels of the network's grid may be points; None: all with depth."""
        self.view = view
        self._surface = surface
        self._min_confidence = min_confidence
        self._on_input_grid = on_input_grid

    @cached_property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        if not self._on_input_grid:
            return self.view.rgb
        rectification, image = self.view.grid.rectification, self.view.input_rgb
        return image if rectification is None else rectification.image(image)

    @cached_property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """K of exactly this pixel grid."""
        if self._on_input_grid:
            return self.view.grid.input_from_network @ self.view.intrinsics
        return self.view.intrinsics

    @cached_property
    def depth(self) -> Float32[np.ndarray, "h w"]:
        return self._on_grid(self._network_depth)

    @cached_property
    def _network_depth(self) -> Float32[np.ndarray, "h w"]:
        return self.view.masked_depth(self._min_confidence)

    def _on_grid(self, values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "H W"]:
        return on_input_grid(values, self.view.grid) if self._on_input_grid else values

    @cached_property
    def confidence(self) -> Float32[np.ndarray, "h w"]:
        assert self.view.confidence is not None
        return self._on_grid(self.view.confidence)

    @cached_property
    def points_depth(self) -> Float32[np.ndarray, "h w"]:
        """That of the points: NaN where there is no depth, and where the pixel is not surface."""
        return self.depth if self._surface is None else self._on_grid(self.surface)

    @cached_property
    def surface(self) -> Float32[np.ndarray, "h w"]:
        """Depth on the network's grid, NaN also where the pixel is not surface."""
        if self._surface is None:
            return self._network_depth
        return np.where(self._surface(self.view), self._network_depth, np.float32(np.nan))


def on_input_grid(values: Float32[np.ndarray, "h w"], grid: Grid) -> Float32[np.ndarray, "H W"]:
    """Network pixels enlarged to the camera's, which are those of its rectified image.

    The nearest pixel decides: where it is NaN, or outside the network's image, so is the result;
    neighbours are blended in (bilinear) only where all of them belong to the same surface, so that
    no points appear between an object and the background.
    """
    affine = grid.network_from_input
    columns = affine[0, 0] * np.arange(grid.input_width) + affine[0, 2]
    rows = affine[1, 1] * np.arange(grid.input_height) + affine[1, 2]
    left, right, blend_x, near_x = _neighbours(columns, grid.width)
    above, below, blend_y, near_y = _neighbours(rows, grid.height)

    top, bottom = values[above], values[below]
    corners = [row[:, column] for row in (top, bottom) for column in (left, right)]
    lowest = np.minimum(np.minimum(*corners[:2]), np.minimum(*corners[2:]))  # NaN if one is
    highest = np.maximum(np.maximum(*corners[:2]), np.maximum(*corners[2:]))
    upper = corners[0] + blend_x * (corners[1] - corners[0])
    lower = corners[2] + blend_x * (corners[3] - corners[2])
    blended = upper + blend_y[:, None] * (lower - upper)
    nearest = values[near_y][:, near_x]
    result = np.where(highest <= SAME_SURFACE * lowest, blended, nearest)
    result[np.abs(rows - near_y) > 0.5 + 1e-9] = np.nan  # rows that the network never saw
    return result


def _neighbours(
    positions: Float[np.ndarray, "n"], size: int
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, "n"], np.ndarray]:
    """Pixels before and after each position, the weight of the latter, and the nearest one."""
    inside = np.clip(positions, 0, size - 1)
    before = np.minimum(inside.astype(np.intp), max(size - 2, 0))
    after = np.minimum(before + 1, size - 1)
    return before, after, (inside - before).astype(np.float32), np.rint(inside).astype(np.intp)
