# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of the page of `vggt app`: masks, chosen points, and tracks."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from vggt_ros.tools.runs.format import RunFrame

NO_DEPTH = (230, 40, 60)  # RGB of pixels without depth
WIDEST = 1280  # pixels of the image in which points are chosen

Rgb = UInt8[np.ndarray, "h w 3"]


def reduced(image: Rgb) -> tuple[UInt8[np.ndarray, "a b 3"], float]:
    """The image at most `WIDEST` wide, and how many of its pixels one of the result is wide."""
    height, width = image.shape[:2]
    if width <= WIDEST:
        return image, 1.0
    size = WIDEST, max(1, round(height * WIDEST / width))
    return np.asarray(Image.fromarray(image).resize(size)), width / WIDEST


def masked(frame: RunFrame) -> Rgb:
    """The frame's image; pixels without depth are red."""
    image, hidden = frame.image.copy(), ~np.isfinite(frame.depth)
    image[hidden] = (0.4 * image[hidden] + 0.6 * np.array(NO_DEPTH)).astype(np.uint8)
    return image


def marked(image: Rgb, points: Sequence[tuple[float, float]]) -> Rgb:
    """The image with a dot at each chosen pixel (u, v)."""
    drawn = Image.fromarray(image)
    draw, radius = ImageDraw.Draw(drawn), max(3, image.shape[1] // 120)
    for number, (u, v) in enumerate(points):
        box = (u - radius, v - radius, u + radius, v + radius)
        draw.ellipse(box, _colour(number), (255, 255, 255))
    return np.asarray(drawn)


def drawn_tracks(
    frame: RunFrame, tracks: Float32[np.ndarray, "t n 2"], visibility: Float32[np.ndarray, " n"]
) -> Rgb:
    """The frame's image, twice as large, with the path of each point up to this frame.

    `tracks` are pixels of the input image, oldest first; a point that is hidden is a ring.
    """
    grid_from_input = np.linalg.inv(frame.input_from_grid)
    height, width = frame.image.shape[:2]
    large = Image.fromarray(frame.image).resize((2 * width, 2 * height))
    draw = ImageDraw.Draw(large)
    for number, path in enumerate(np.moveaxis(tracks, 1, 0)):
        colour = _colour(number)
        on_grid = (
            path[np.isfinite(path).all(1)] @ grid_from_input[:2, :2].T + grid_from_input[:2, 2]
        )
        corners = [(2 * u + 0.5, 2 * v + 0.5) for u, v in on_grid.tolist()]
        if len(corners) > 1:
            draw.line(corners, colour, 2)
        if corners:
            (u, v), visible = corners[-1], visibility[number] > 0.5
            draw.ellipse((u - 4, v - 4, u + 4, v + 4), colour if visible else None, colour, 2)
    return np.asarray(large)


def _colour(number: int) -> tuple[int, int, int]:
    """RGB; hues of successive numbers are far apart."""
    hue = Image.new("HSV", (1, 1), (number * 157 % 256, 230, 255)).convert("RGB")
    red, green, blue = np.asarray(hue)[0, 0].tolist()
    return red, green, blue
