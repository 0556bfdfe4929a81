# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixels to ignore: a mask of the image, one of the robot's own body, a rule for the sky.

Masks are true where a pixel is to be ignored. `mask_on_grid` is the one way of a mask of the input
image to the network's grid.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import PATCH, Grid

SAME_SHAPE = 0.02  # relative difference of width over height up to which a mask fits an image
MOST = 0.8  # share of an image that is masked, from which a mask may be the other way round
REACH = PATCH // 2  # network pixels by which a mask grows to each side where it covers the image
SKY_BRIGHT = 90  # of 255: the blue of the darkest sky
SKY_COLD = 12  # by how much red or green may exceed blue
SKY_STEP = 12  # from one network pixel to the one below
SKY_ROWS = PATCH  # network rows; less is no sky, but a lamp or a bright rim


class Masked(NamedTuple):
    """What is ignored of one frame, and what the network is shown instead."""

    mask: Bool[np.ndarray, "h w"] | None = None  # network's grid; None: nothing is ignored
    shown: UInt8[np.ndarray, "h w 3"] | None = None  # None: the image as it is


class Masking:
    """All masks of a camera.

    `fault` says why one that was asked for is not used, or what is odd about it; empty: all are
    used. `share` of the newest image's pixels is ignored.
    """

    def __init__(self, file: str = "", *, sky: bool = False, cover: bool = False):
        """`file`: an image, not zero where the robot's own body is seen; empty: none.

        `cover`: the network sees a flat colour there.  Raises `UserError` where the file cannot be
        read.
        """
        self._body = read_mask(Path(file).expanduser()) if file else None
        self._file, self._sky, self._cover = file, sky, cover
        self.fault, self.share = "", 0.0

    def of(
        self,
        pixels: UInt8[np.ndarray, "h w 3"],
        grid: Grid,
        mask: Bool[np.ndarray, "mh mw"] | None = None,
    ) -> Masked:
        """`pixels`: the image on the network's grid; `mask`: that of its stamp, of any size."""
        parts, self.fault, self.share = [], "", 0.0
        for name, part in ((f"mask_file {self._file}", self._body), ("mask", mask)):
            if part is not None:
                try:
                    parts.append(mask_on_grid(part, grid))
                except UserError as error:
                    self.fault = f"{name} is not used: {error}"
        if self._sky:
            parts.append(sky(pixels))
        if not parts:
            return Masked()
        found = np.logical_or.reduce(parts)
        self.share = float(found.mean())
        if self.share > MOST and not self.fault:
            self.fault = (
                f"masks leave less than {1 - MOST:.0%} of the image: what is not zero is ignored;"
                " if it is the other way round, exchange both"
            )
        return Masked(found, covered(pixels, found) if self._cover and found.any() else None)


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """A mask from an image file: true where any channel but alpha is not zero."""
    try:
        with Image.open(path) as image:
            plain = image.mode in ("1", "L", "RGB", "I", "F", "I;16")
            pixels = np.asarray(image if plain else image.convert("RGB"))
    except UnidentifiedImageError:
        raise UserError(f"mask_file {path} is not an image that Pillow can read") from None
    except OSError as fault:
        raise UserError(f"mask_file {path} cannot be read: {fault.strerror or fault}") from None
    return np.any(pixels.reshape(*pixels.shape[:2], -1), axis=2)


def mask_on_grid(mask: Bool[np.ndarray, "mh mw"], grid: Grid) -> Bool[np.ndarray, "h w"]:
    """A mask of the input image on the network's grid: the nearest of its pixels.

    It may be smaller or larger than the image.  Raises `UserError` where it is of another shape.
    """
    height, width = mask.shape
    if abs(width * grid.input_height / (height * grid.input_width) - 1.0) > SAME_SHAPE:
        raise UserError(
            f"it has {width}x{height} pixels, and the image {grid.input_width}x{grid.input_height};"
            " give it the image's size, or one of its shape"
        )
    if grid.remap is not None:
        columns, rows = np.moveaxis(grid.remap.uv, -1, 0)
    else:
        (sx, _, x0), (_, sy, y0), _ = grid.input_from_network
        columns = (sx * np.arange(grid.width) + x0)[None]
        rows = (sy * np.arange(grid.height) + y0)[:, None]
    columns = ((columns + 0.5) * (width / grid.input_width)).astype(int).clip(0, width - 1)
    rows = ((rows + 0.5) * (height / grid.input_height)).astype(int).clip(0, height - 1)
    return mask[rows, columns]


def sky(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """From the upper rim down, as long as pixels are bright, not warm, and like the one above.

    A rule for day and outdoors: a white ceiling is sky to it as well.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.int16), -1, 0)
    like = (blue >= SKY_BRIGHT) & (np.maximum(red, green) <= blue + SKY_COLD)
    steps = np.abs(np.diff(rgb.astype(np.int16), axis=0)).max(axis=-1)
    like[1:] &= steps <= SKY_STEP
    found = np.logical_and.accumulate(like, axis=0)
    return found & found[min(SKY_ROWS, len(found)) - 1]


def dilated(mask: Bool[np.ndarray, "h w"], reach: int) -> Bool[np.ndarray, "h w"]:
    """The mask grown by a box: by `reach` pixels to each side and corner."""
    for axis in (0, 1):
        lines = np.moveaxis(mask, axis, 0)
        grown = lines.copy()
        for step in range(1, min(reach, len(lines) - 1) + 1):
            grown[step:] |= lines[:-step]
            grown[:-step] |= lines[step:]
        mask = np.moveaxis(grown, 0, axis)
    return mask


def covered(
    rgb: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with a flat colour, the mean of the rest, in boxes around what is masked.

    A tight outline would show the network the shape that it is not to see.
    """
    boxes = dilated(mask, REACH)
    shown = rgb.copy()
    shown[boxes] = rgb[~boxes].mean(axis=0) if not boxes.all() else 127
    return shown
