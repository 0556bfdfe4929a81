# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run at one glance: cloud and cameras from behind and from above, drawn without a display.

World is z up; anything that is not finite is left out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from vggt_ros.geometry import transform
from vggt_ros.tools.runs.format import Shot
from vggt_ros.tools.runs.splat import (
    SHARP,
    Dots,
    Eye,
    bounds,
    cut_height,
    dots_from,
    perspective_eye,
    reach,
    splat,
    top_eye,
)

PAPER, INK, FAINT, GRID = (18, 20, 24), (232, 234, 237), (138, 144, 153), (44, 49, 57)
TIME = np.array([[64.0, 196, 255], [240, 110, 220], [255, 138, 60]])  # first to last camera
NEAR_TO_FAR = np.array(
    [[252, 253, 191], [253, 154, 106], [221, 74, 105], [130, 37, 129], [44, 17, 95], [8, 7, 22]]
)


# ---- the sheet


def save_picture(path: Path, shots: Sequence[Shot], *, caption: str = "", unit: str = "") -> None:
    """Write `picture` as a PNG."""
    picture(shots, caption=caption, unit=unit).save(path)


def picture(shots: Sequence[Shot], *, caption: str = "", unit: str = "") -> Image.Image:
    """Cloud and cameras in perspective and from above, over a strip of images and depths.

    `unit` names the world's unit in the scale bar ("m"); empty says that it is arbitrary.
    """
    sheet = Image.new("RGB", (1600, 1000), PAPER)
    dots = dots_from(shots)
    poses = np.array([shot.world_from_camera for shot in shots]).reshape(-1, 4, 4)
    box = bounds(dots.points, poses)
    below_ceiling = dots.points[:, 2] <= cut_height(poses, box)
    dots = Dots(*(field[below_ceiling] for field in dots))
    box = bounds(dots.points, poses)

    behind = perspective_eye(dots.points, poses, box, 1040, 660)
    above = top_eye(box, 500, 660)
    for eye, left, title in (
        (behind, 20, "behind the cameras"),
        (above, 1080, "from above, cut over the cameras"),
    ):
        sheet.paste(_scene(eye, dots, shots, box), (left, 60))
        _write(sheet, (left + 14, 72), title, 16, FAINT)
    _scale_bar(sheet, above.focal, unit, (1094, 700))
    words = caption or "vggt_ros"
    _write(sheet, (20, 18), words, 24, INK)
    count = f"{len(shots)} frames   {len(dots.points):,} points drawn"
    _write(sheet, (1580, 24), count, 18, FAINT, anchor="ra")
    _strip(sheet, shots, (20, 740, 1560, 240))
    return sheet


# ---- drawing


def _scene(
    eye: Eye, dots: Dots, shots: Sequence[Shot], box: Float[np.ndarray, "2 3"]
) -> Image.Image:
    """Grid, points, then cameras on top of both: they are what a person looks for."""
    big = Eye(
        eye.eye_from_world,
        eye.focal * SHARP,
        eye.width * SHARP,
        eye.height * SHARP,
        (eye.centre[0] * SHARP, eye.centre[1] * SHARP),
        eye.parallel,
    )
    canvas = Image.new("RGB", (big.width, big.height), (24, 27, 32))
    _grid(ImageDraw.Draw(canvas), big, shots, float(box[0, 2]), reach(box))
    colours, seen = splat(big, dots)
    canvas.paste(Image.fromarray(colours), mask=Image.fromarray(seen))
    _cameras(ImageDraw.Draw(canvas), big, shots, 0.035 * reach(box))
    return canvas.resize((eye.width, eye.height), Image.Resampling.LANCZOS)


def _grid(
    draw: ImageDraw.ImageDraw, eye: Eye, shots: Sequence[Shot], floor: float, reach: float
) -> None:
    """A floor of round steps, centred under the cameras, for the eye to measure by."""
    step, count = _round_length(reach / 8), 12
    here = np.mean([shot.world_from_camera[:2, 3] for shot in shots], 0) if shots else np.zeros(2)
    here = np.round(here / step) * step
    edge = count * step
    for line in np.arange(-count, count + 1) * step:
        along_x = [[here[0] - edge, here[1] + line, floor], [here[0] + edge, here[1] + line, floor]]
        along_y = [[here[0] + line, here[1] - edge, floor], [here[0] + line, here[1] + edge, floor]]
        for ends in (along_x, along_y):
            _line(draw, eye, np.array(ends), GRID, SHARP)


def _cameras(draw: ImageDraw.ImageDraw, eye: Eye, shots: Sequence[Shot], size: float) -> None:
    """The path, and a dozen of the pyramids along it, from blue over magenta to orange."""
    if not shots:
        return
    centres = np.array([shot.world_from_camera[:3, 3] for shot in shots])
    for index in range(len(shots) - 1):
        _line(draw, eye, centres[index : index + 2], _time_colour(index, len(shots)), 2 * SHARP)
    every = max(1, len(shots) // 12)
    for index in sorted({*range(0, len(shots), every), len(shots) - 1}):
        for ends in _pyramid(shots[index], size):
            _line(draw, eye, ends, _time_colour(index, len(shots)), SHARP + 1)


def _pyramid(shot: Shot, size: float) -> Float[np.ndarray, "8 2 3"]:
    """The eight edges of a camera's view, `size` deep, as pairs of world points."""
    height, width = shot.depth.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) - [
        0.5,
        0.5,
        0,
    ]
    rim = size * corners @ np.linalg.inv(shot.intrinsics).T
    edges = [(np.zeros(3), corner) for corner in rim]
    edges += [(rim[index], rim[(index + 1) % 4]) for index in range(4)]
    return transform(shot.world_from_camera, np.array(edges).reshape(-1, 3)).reshape(8, 2, 3)


def _line(
    draw: ImageDraw.ImageDraw,
    eye: Eye,
    ends: Float[np.ndarray, "2 3"],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """A world segment, cut where it would pass behind the eye."""
    z = transform(eye.eye_from_world, ends)[:, 2]
    nearest = 1e-3 * np.abs(z).max()
    if (z < nearest).all():
        return
    if (z < nearest).any():
        behind = int(z[0] > z[1])
        share = (nearest - z[behind]) / (z[1 - behind] - z[behind])
        ends = ends.copy()
        ends[behind] += share * (ends[1 - behind] - ends[behind])
    (u0, v0, _), (u1, v1, _) = eye.project(ends)
    draw.line((u0, v0, u1, v1), fill=colour, width=width)


def _time_colour(index: int, count: int) -> tuple[int, int, int]:
    share = index / max(count - 1, 1)
    red, green, blue = (int(np.interp(share, [0, 0.5, 1], band)) for band in TIME.T)
    return red, green, blue


# ---- around the scene


def depth_colours(depth: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Near is bright, far is dark; what is not finite is grey."""
    valid = np.isfinite(depth)
    low, high = np.percentile(depth[valid], [2, 98]) if valid.any() else (0.0, 1.0)
    share = np.clip((np.where(valid, depth, low) - low) / max(high - low, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(NEAR_TO_FAR))
    colours = np.stack([np.interp(share, stops, band) for band in NEAR_TO_FAR.T], -1)
    return np.where(valid[..., None], colours, 60).astype(np.uint8)


def _strip(sheet: Image.Image, shots: Sequence[Shot], area: tuple[int, int, int, int]) -> None:
    """Evenly chosen frames: the image, and below it its depth."""
    left, top, width, height = area
    if not shots:
        return
    aspect = shots[0].depth.shape[1] / shots[0].depth.shape[0]
    each = (int((height - 6) / 2 * aspect), (height - 6) // 2)
    count = min(len(shots), max(1, (width + 8) // (each[0] + 8)))
    gap = (width - count * each[0]) / max(count - 1, 1)
    for place, index in enumerate(np.linspace(0, len(shots) - 1, count).astype(int)):
        x = int(left + place * (each[0] + gap))
        for row, pixels in enumerate((shots[index].image, depth_colours(shots[index].depth))):
            small = Image.fromarray(pixels).resize(each, Image.Resampling.LANCZOS)
            sheet.paste(small, (x, top + row * (each[1] + 6)))
        box = (x, top, x + each[0] - 1, top + 3)
        ImageDraw.Draw(sheet).rectangle(box, _time_colour(int(index), len(shots)))


def _scale_bar(sheet: Image.Image, focal: float, unit: str, at: tuple[int, int]) -> None:
    length = _round_length(110 / focal)
    x, y = at
    draw = ImageDraw.Draw(sheet)
    draw.line((x, y, x + length * focal, y), fill=INK, width=3)
    _write(sheet, (x, y - 26), f"{length:g} {unit or '(units are arbitrary)'}", 16, INK)


def _round_length(length: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10 ** np.floor(np.log10(max(length, 1e-9)))
    return float(min((1, 2, 5, 10), key=lambda step: abs(step * power - length)) * power)


def _write(
    sheet: Image.Image,
    at: tuple[int, int],
    words: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    ImageDraw.Draw(sheet).text(at, words, colour, ImageFont.load_default(size), anchor=anchor)
