# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bayer mosaics to RGB, interpolated bilinearly."""

import numpy as np
from jaxtyping import UInt8

from vggt_ros.errors import UserError

RED_AT = {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}
"""Row and column of the first red pixel, by the order of the first two rows."""


def demosaic(raw: UInt8[np.ndarray, "h w"], order: str) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a mosaic in this order, a key of `RED_AT`.

    Raises `UserError` for a side of one pixel, which lacks a colour.
    """
    if min(raw.shape) < 2:
        raise UserError(f"a Bayer image of {raw.shape[::-1]} pixels lacks a colour")
    # Reflection about the edge pixel keeps the mosaic's phase, so borders need no other rule.
    wide = np.pad(raw, 1, mode="reflect").astype(np.uint16)
    beside = wide[1:-1, :-2] + wide[1:-1, 2:]
    above = wide[:-2] + wide[2:]
    across = (above[:, :-2] + above[:, 2:] + 2) >> 2  # the four diagonal neighbours
    above = above[:, 1:-1]
    cross = (beside + above + 2) >> 2
    beside, above = (beside + 1) >> 1, (above + 1) >> 1

    red_row, red_column = RED_AT[order]
    rgb = np.empty((*raw.shape, 3), np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            match row == red_row, column == red_column:
                case True, True:
                    colour = raw, cross, across
                case False, False:
                    colour = across, cross, raw
                case True, False:  # green, in a row of reds
                    colour = beside, raw, above
                case _:  # green, in a row of blues
                    colour = above, raw, beside
            here = np.s_[row::2, column::2]
            for channel, plane in enumerate(colour):
                rgb[*here, channel] = plane[here]
    return rgb
