# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera pixels to the network's pixels, and the way back.

`Grid` is the map between the two; `to_network` is the same arithmetic as the reference's own
loader (Pillow's bicubic filter on 8-bit samples), so both see the same image bit for bit. Where the
camera's lens is undone, the map goes through the rectified image, and one remap does both steps.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.imaging.rectify import Rectification, Remap
from vggt_ros.imaging.size import check_size

PATCH = 14  # network pixels a token
PADDING = "edge"  # NumPy's mode: what is around an image of another shape (see `fit.py`)
TALLEST = 8  # heights per width; beyond it hardly anything would be left of the image


class Grid(NamedTuple):
    """The network's pixel grid for one camera: its size, and where its pixels come from."""

    input_width: int  # pixels of the camera
    input_height: int
    width: int  # pixels of the network, multiples of 14
    height: int
    crop_top: int  # network rows cut off above (portrait images only); below 0: added
    scale_x: float  # network pixels per camera pixel
    scale_y: float
    rectification: Rectification | None = None  # None: the camera's pixels are used as they come
    crop_left: int = 0  # network columns cut off to the left; below 0: added (see `fit.Fit`)

    @property
    def resized_height(self) -> int:
        """Network rows before any are cut off or added."""
        return round(self.input_height * self.scale_y)

    @property
    def resized_width(self) -> int:
        """Network columns before any are cut off or added."""
        return round(self.input_width * self.scale_x)

    @property
    def is_padded(self) -> bool:
        """Whether there are pixels around the image that it does not show."""
        return min(self.crop_top, self.crop_left) < 0

    @property
    def network_from_input(self) -> Float64[np.ndarray, "3 3"]:
        """Affine on pixel coordinates; (0, 0) is the centre of the first pixel on both sides.

        Applied to a calibration matrix K from the left it gives K on the network's grid. Pixels of
        a raw image are rectified first: `network_pixels` is the whole way.
        """
        x, y = self.scale_x, self.scale_y
        return np.array(
            [
                [x, 0, x / 2 - 0.5 - self.crop_left],
                [0, y, y / 2 - 0.5 - self.crop_top],
                [0, 0, 1],
            ],
            np.float64,
        )

    @property
    def input_from_network(self) -> Float64[np.ndarray, "3 3"]:
        """The inverse of `network_from_input`."""
        return np.linalg.inv(self.network_from_input)

    def network_pixels(self, uv: Float[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Pixels of the input image on the network's grid; NaN where rectifying loses them."""
        if self.rectification is not None:
            uv = self.rectification.rectified_from_input(uv.astype(np.float64))
        return _moved(self.network_from_input, uv)

    def input_pixels(self, uv: Float[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """The way back; NaN for what no pixel of the input image shows."""
        if self.rectification is None:
            there = _moved(self.input_from_network, uv)
            if self.is_padded:
                ends = np.array([self.input_width, self.input_height]) - 0.5
                there[~((there >= -0.5) & (there <= ends)).all(-1)] = np.nan
            return there
        (x, _, x0), (_, y, y0), _ = self.input_from_network
        there = uv.astype(np.float64) * [x, y] + [x0, y0]
        return self.rectification.input_from_rectified(there).astype(np.float32)

    @property
    def remap(self) -> Remap | None:
        """Where the network's pixels are in a raw image; None where nothing is rectified."""
        if self.rectification is None:
            return None
        return self.rectification.remap(self.input_from_network, self.width, self.height)

    @property
    def valid(self) -> Bool[np.ndarray, "h w"] | None:
        """Which of the network's pixels the input image shows; None: all."""
        if self.remap is not None:
            return self.remap.valid
        if not self.is_padded:
            return None
        rows, columns = np.arange(self.height)[:, None], np.arange(self.width)
        inside = (rows >= -self.crop_top) & (rows < self.resized_height - self.crop_top)
        return (
            inside & (columns >= -self.crop_left) & (columns < self.resized_width - self.crop_left)
        )

    def nearest_input(self) -> tuple[Int[np.ndarray, "h _"], Int[np.ndarray, "_ w"]]:
        """Row and column of the input's pixel nearest to each of the network's, by broadcasting."""
        if self.remap is not None:
            rows, columns = self.remap.nearest
        else:
            (sx, _, x0), (_, sy, y0), _ = self.input_from_network
            columns = np.rint(sx * np.arange(self.width) + x0).astype(int)[None]
            rows = np.rint(sy * np.arange(self.height) + y0).astype(int)[:, None]
        return rows.clip(0, self.input_height - 1), columns.clip(0, self.input_width - 1)


def grid_for(input_width: int, input_height: int, network_width: int = 518) -> Grid:
    """The network's pixel grid for an image of this size.

    The width becomes `network_width`, the height the nearest multiple of 14, each with its own
    scale and nothing cut off; only an image that comes out taller than wide loses rows, above
    and below alike. Raises UserError for sizes that leave no row, or next to nothing.
    """
    check_size(input_width, input_height)
    if network_width < PATCH or network_width % PATCH:
        raise UserError(f"network width {network_width} is not a positive multiple of {PATCH}")
    if input_height > TALLEST * input_width:
        raise UserError(
            f"image size {input_width} x {input_height} is taller than {TALLEST} times its width; "
            "turn or crop the image"
        )
    height = patches(input_height * (network_width / input_width))
    if not height:
        raise UserError(
            f"image size {input_width} x {input_height} is too flat: at width {network_width} "
            f"it has less than one row of patches; crop its sides"
        )
    kept = min(height, network_width)
    return Grid(
        input_width=input_width,
        input_height=input_height,
        width=network_width,
        height=kept,
        crop_top=(height - kept) // 2,
        scale_x=network_width / input_width,
        scale_y=height / input_height,
    )


def patches(length: float) -> int:
    """The nearest multiple of the patch size; Python's ties to even, as the reference has it."""
    return round(length / PATCH) * PATCH


def to_network(rgb: UInt8[np.ndarray, "h w 3"], grid: Grid) -> UInt8[np.ndarray, "H W 3"]:
    """The image on the network's grid."""
    if grid.remap is not None:
        return grid.remap.image(rgb)
    resized = bicubic(Image.fromarray(rgb), grid.resized_width, grid.resized_height)
    top, left = max(grid.crop_top, 0), max(grid.crop_left, 0)
    kept = resized[top : top + grid.height, left : left + grid.width]
    if not grid.is_padded:
        return kept
    above, before = max(-grid.crop_top, 0), max(-grid.crop_left, 0)
    below, behind = grid.height - above - len(kept), grid.width - before - kept.shape[1]
    return np.pad(kept, ((above, below), (before, behind), (0, 0)), mode=PADDING)


def to_same_grid(
    rgb: UInt8[np.ndarray, "h w 3"], grid: Grid, rectification: Rectification | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """An image of another camera on a network grid of the same width and height.

    `rectification` is that camera's. Raises `UserError` where its shape leads to another grid.
    """
    height, width = rgb.shape[:2]
    try:
        own = grid_for(width, height, grid.width)
    except UserError as error:
        raise UserError(f"the second image cannot be used: {error}") from error
    if own.height != grid.height:
        raise UserError(
            f"the second image is {width}x{height}, of another shape than the first; set both"
            " cameras to one resolution"
        )
    return to_network(rgb, own._replace(rectification=rectification))


def _moved(
    target_from_source: Float[np.ndarray, "3 3"], uv: Float[np.ndarray, "n 2"]
) -> Float32[np.ndarray, "n 2"]:
    """Pixel coordinates on another grid, by an affine matrix."""
    return (uv @ target_from_source[:2, :2].T + target_from_source[:2, 2]).astype(np.float32)


def bicubic(image: Image.Image, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The reference's resize."""
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))
