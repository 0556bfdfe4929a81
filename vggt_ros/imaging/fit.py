# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One grid of the network for images of all shapes.

Around a padded image its edge is repeated.  With the bundled network, and every third frame of the
bundled clip cut to a portrait, the camera path is off by 5.8 % of its length then (mirrored: 5.7,
the mean colour: 5.5), but by 23.5 % with white, which the reference's loader has, 25 % with black,
and 11 % where the grid is filled by cropping.  What is padded is no scenery: the grid's `valid` is
false there.
"""

from typing import Literal, NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import PATCH, Grid, grid_for, patches
from vggt_ros.imaging.size import check_size

FitKind = Literal["crop", "pad"]


class Fit(NamedTuple):
    """`pad`: the whole image is kept; `crop`: the whole grid is filled, from the middle."""

    kind: FitKind
    width: int  # network pixels, multiples of 14
    height: int
    usual: tuple[int, int] = 0, 0  # images of this size come as `grid_for` has them

    def grid(self, input_width: int, input_height: int) -> Grid:
        """The grid of an image of this size.  Raises `UserError` for one that is too narrow."""
        check_size(input_width, input_height)
        size = input_width, input_height
        rows = patches(input_height * (self.width / input_width))  # of its own grid
        whole = rows <= self.width or self.kind == "crop"
        if size == self.usual or (whole and min(rows, self.width) == self.height):
            return grid_for(*size, self.width)
        factors = self.width / input_width, self.height / input_height
        scale = min(factors) if self.kind == "pad" else max(factors)
        width, height = (max(1, round(side * scale)) for side in size)
        if min(width, height) < PATCH:
            raise UserError(
                f"image size {input_width} x {input_height} is too narrow for the grid of the"
                f" others, {self.width} x {self.height}; crop it, or leave it out"
            )
        return Grid(
            input_width=input_width,
            input_height=input_height,
            width=self.width,
            height=self.height,
            crop_top=(height - self.height) // 2,
            scale_x=width / input_width,
            scale_y=height / input_height,
            crop_left=(width - self.width) // 2,
        )
