# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth of a run on the images that it was made of, whatever the grid cuts off or adds."""

import numpy as np
from jaxtyping import Float32, Float64

from vggt_ros.tools.runs.format import RunFrame


def depth_on_image(
    frame: RunFrame, image_from_grid: Float64[np.ndarray, "3 3"], image_size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """Depth of the whole image, as fine as the grid has it; NaN where it has none.

    It has the shape of the image, whose width and height are given in pixels: rows and columns that
    the grid cuts off are added, padding is not.
    """
    (x, _, x0), (_, y, y0), _ = np.linalg.inv(image_from_grid)
    size = [max(1, round(side * step)) for side, step in zip(image_size, (x, y), strict=True)]
    columns, rows = (
        np.rint((np.arange(n) + 0.5) * side / n * step - 0.5 * step + first).astype(int)
        for n, side, step, first in zip(size, image_size, (x, y), (x0, y0), strict=True)
    )
    height, width = frame.depth.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    found = frame.depth[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return np.where(inside, found, np.float32(np.nan))


def whole_depth(frame: RunFrame) -> Float32[np.ndarray, "H W"]:
    """Depth of the whole input image; on the grid itself where that has all of it and no more."""
    (x, _, x0), (_, y, y0), _ = frame.input_from_grid
    edges = np.array([[x0 - 0.5 * x, y0 - 0.5 * y], [0.0, 0.0]]) + 0.5
    edges[1] = edges[0] + frame.depth.shape[::-1] * np.array([x, y]) - frame.input_size
    if not frame.input_size.all() or np.abs(edges).max() < 0.5:
        return frame.depth
    width, height = map(int, frame.input_size)
    return depth_on_image(frame, frame.input_from_grid, (width, height))
