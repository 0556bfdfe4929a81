# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which grid of the network the images of a source come to, where they are of several shapes."""

from typing import Literal

from vggt_ros.errors import UserError
from vggt_ros.imaging.fit import Fit, FitKind
from vggt_ros.imaging.grid import Grid, grid_for
from vggt_ros.tools.sources.source import Source

Fitting = Literal["auto", "crop", "pad"]


def choose_fit(
    fitting: Fitting, source: Source, first: tuple[int, int], network_width: int
) -> Fit | None:
    """The one grid of a run, with a note if images are padded or cropped for it.

    It is that of the most frequent size, or of the `first` image where files do not say their
    sizes.  None: all images have it anyway, or (of a bag) another size is another camera.
    """
    sizes = source.sizes()
    usual = max(sizes, key=sizes.__getitem__) if sizes else first
    kind: FitKind = "pad" if fitting == "auto" else fitting
    if fitting == "auto" and (source.kind == "bag" or len(sizes) == 1):
        return None
    target = grid_for(*usual, network_width)
    as_they_come = {size for size in sizes if _own(size, network_width) == target[2:4]}
    if fitting == "auto":
        if sizes and len(as_they_come) == len(sizes):
            return Fit("crop", *target[2:4])  # of several sizes and one shape
        if not sizes:  # a video: what turns or changes its size later is fitted
            return Fit("pad", *target[2:4], usual)
    fit = Fit(kind, *target[2:4])
    changed = sum(count for size, count in sizes.items() if _is_changed(fit, size))
    if changed:
        how = "their edges are repeated" if kind == "pad" else "what does not fit is cut off"
        other = "--fit crop cuts them" if kind == "pad" else "--fit pad keeps all of them"
        source.note(
            f"{changed} of {sizes.total()} images have another shape than the grid of"
            f" {fit.width}x{fit.height} that all come to: {how} ({other})"
        )
    return fit


def _own(size: tuple[int, int], network_width: int) -> tuple[int, int] | None:
    try:
        return grid_for(*size, network_width)[2:4]
    except UserError:
        return None


def _is_changed(fit: Fit, size: tuple[int, int]) -> bool:
    try:
        grid: Grid = fit.grid(*size)
    except UserError:
        return False  # refused, and said then
    return bool(grid.crop_top or grid.crop_left)
