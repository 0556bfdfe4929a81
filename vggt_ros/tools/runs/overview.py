# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Overview image of a run: cloud and cameras from behind and from above, drawn without a display.

The world is z up; values that are not finite are left out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from vggt_ros.geometry import transform
from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.splat import (
    SUPERSAMPLING,
    Surfels,
    VirtualCamera,
    bounds,
    cut_height,
    diagonal,
    perspective_camera,
    splat,
    surfels_from,
    top_camera,
)

BACKGROUND, TEXT, MUTED, GRID = (18, 20, 24), (232, 234, 237), (138, 144, 153), (44, 49, 57)
TIME = np.array([[64.0, 196, 255], [240, 110, 220], [255, 138, 60]])  # first to last camera
NEAR_TO_FAR = np.array(
    [[252, 253, 191], [253, 154, 106], [221, 74, 105], [130, 37, 129], [44, 17, 95], [8, 7, 22]]
)


# ---- the sheet


def save_overview(
    path: Path, frames: Sequence[RunFrame], *, caption: str = "", unit: str = ""
) -> None:
    """Write `overview` as a PNG file."""
    overview(frames, caption=caption, unit=unit).save(path)


def overview(frames: Sequence[RunFrame], *, caption: str = "", unit: str = "") -> Image.Image:
    """Cloud and cameras in perspective and from above, over a strip of images and depths.

    `unit` is the world's unit in the scale bar ("m"); empty if it is arbitrary.
    """
    sheet = Image.new("RGB", (1600, 1000), BACKGROUND)
    surfels = surfels_from(frames)
    poses = np.array([frame.world_from_camera for frame in frames]).reshape(-1, 4, 4)
    box = bounds(surfels.points, poses)
    below_ceiling = surfels.points[:, 2] <= cut_height(poses, box)
    surfels = Surfels(*(field[below_ceiling] for field in surfels))
    box = bounds(surfels.points, poses)

    behind = perspective_camera(surfels.points, poses, box, 1040, 660)
    above = top_camera(box, 500, 660)
    for camera, left, title in (
        (behind, 20, "behind the cameras"),
        (above, 1080, "from above, cut over the cameras"),
    ):
        sheet.paste(_scene(camera, surfels, frames, box), (left, 60))
        _write(sheet, (left + 14, 72), title, 16, MUTED)
    _scale_bar(sheet, above.focal, unit, (1094, 700))
    _write(sheet, (20, 18), caption or "vggt_ros", 24, TEXT)
    count = f"{len(frames)} frames   {len(surfels.points):,} points drawn"
    _write(sheet, (1580, 24), count, 18, MUTED, anchor="ra")
    _strip(sheet, frames, (20, 740, 1560, 240))
    return sheet


# ---- drawing


def _scene(
    camera: VirtualCamera,
    surfels: Surfels,
    frames: Sequence[RunFrame],
    box: Float[np.ndarray, "2 3"],
) -> Image.Image:
    """Grid and points, with the cameras on top of both so that none is hidden."""
    big = VirtualCamera(
        camera.camera_from_world,
        camera.focal * SUPERSAMPLING,
        camera.width * SUPERSAMPLING,
        camera.height * SUPERSAMPLING,
        (camera.centre[0] * SUPERSAMPLING, camera.centre[1] * SUPERSAMPLING),
        camera.parallel,
    )
    canvas = Image.new("RGB", (big.width, big.height), (24, 27, 32))
    _grid(ImageDraw.Draw(canvas), big, frames, float(box[0, 2]), diagonal(box))
    colours, seen = splat(big, surfels)
    canvas.paste(Image.fromarray(colours), mask=Image.fromarray(seen))
    _cameras(ImageDraw.Draw(canvas), big, frames, 0.035 * diagonal(box))
    return canvas.resize((camera.width, camera.height), Image.Resampling.LANCZOS)


def _grid(
    draw: ImageDraw.ImageDraw,
    camera: VirtualCamera,
    frames: Sequence[RunFrame],
    floor: float,
    size: float,
) -> None:
    """A grid on the floor with steps of a round length, centred under the cameras."""
    step, count = _round_length(size / 8), 12
    here = np.zeros(2)
    if frames:
        here = np.mean([frame.world_from_camera[:2, 3] for frame in frames], 0)
    here = np.round(here / step) * step
    edge = count * step
    for line in np.arange(-count, count + 1) * step:
        along_x = [[here[0] - edge, here[1] + line, floor], [here[0] + edge, here[1] + line, floor]]
        along_y = [[here[0] + line, here[1] - edge, floor], [here[0] + line, here[1] + edge, floor]]
        for ends in (along_x, along_y):
            _line(draw, camera, np.array(ends), GRID, SUPERSAMPLING)


def _cameras(
    draw: ImageDraw.ImageDraw, camera: VirtualCamera, frames: Sequence[RunFrame], size: float
) -> None:
    """The path, and a dozen of the frusta along it, from blue over magenta to orange."""
    if not frames:
        return
    centres = np.array([frame.world_from_camera[:3, 3] for frame in frames])
    for index in range(len(frames) - 1):
        ends, colour = centres[index : index + 2], _time_colour(index, len(frames))
        _line(draw, camera, ends, colour, 2 * SUPERSAMPLING)
    every = max(1, len(frames) // 12)
    for index in sorted({*range(0, len(frames), every), len(frames) - 1}):
        for ends in _frustum(frames[index], size):
            _line(draw, camera, ends, _time_colour(index, len(frames)), SUPERSAMPLING + 1)


def _frustum(frame: RunFrame, size: float) -> Float[np.ndarray, "8 2 3"]:
    """The eight edges of a camera's frustum, `size` deep, as pairs of world points."""
    height, width = frame.depth.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
    corners = corners - [0.5, 0.5, 0]  # pixel (0, 0) is the centre of the first pixel
    rim = size * corners @ np.linalg.inv(frame.intrinsics).T
    edges = [(np.zeros(3), corner) for corner in rim]
    edges += [(rim[index], rim[(index + 1) % 4]) for index in range(4)]
    return transform(frame.world_from_camera, np.array(edges).reshape(-1, 3)).reshape(8, 2, 3)


def _line(
    draw: ImageDraw.ImageDraw,
    camera: VirtualCamera,
    ends: Float[np.ndarray, "2 3"],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """A line between world points, clipped in front of the camera."""
    z = transform(camera.camera_from_world, ends)[:, 2]
    nearest = 1e-3 * np.abs(z).max()
    if (z < nearest).all():
        return
    if (z < nearest).any():
        behind = int(z[0] > z[1])
        share = (nearest - z[behind]) / (z[1 - behind] - z[behind])
        ends = ends.copy()
        ends[behind] += share * (ends[1 - behind] - ends[behind])
    (u0, v0, _), (u1, v1, _) = camera.project(ends)
    draw.line((u0, v0, u1, v1), fill=colour, width=width)


def _time_colour(index: int, count: int) -> tuple[int, int, int]:
    share = index / max(count - 1, 1)
    red, green, blue = (int(np.interp(share, [0, 0.5, 1], band)) for band in TIME.T)
    return red, green, blue


# ---- around the scene


def depth_colours(depth: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Near is bright, far is dark; values that are not finite are grey."""
    valid = np.isfinite(depth)
    low, high = np.percentile(depth[valid], [2, 98]) if valid.any() else (0.0, 1.0)
    share = np.clip((np.where(valid, depth, low) - low) / max(high - low, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(NEAR_TO_FAR))
    colours = np.stack([np.interp(share, stops, band) for band in NEAR_TO_FAR.T], -1)
    return np.where(valid[..., None], colours, 60).astype(np.uint8)


def _strip(sheet: Image.Image, frames: Sequence[RunFrame], area: tuple[int, int, int, int]) -> None:
    """Evenly chosen frames: the image, and below it its depth."""
    left, top, width, height = area
    if not frames:
        return
    aspect = frames[0].depth.shape[1] / frames[0].depth.shape[0]
    each = (int((height - 6) / 2 * aspect), (height - 6) // 2)
    count = min(len(frames), max(1, (width + 8) // (each[0] + 8)))
    gap = (width - count * each[0]) / max(count - 1, 1)
    for place, index in enumerate(np.linspace(0, len(frames) - 1, count).astype(int)):
        x = int(left + place * (each[0] + gap))
        for row, pixels in enumerate((frames[index].image, depth_colours(frames[index].depth))):
            small = Image.fromarray(pixels).resize(each, Image.Resampling.LANCZOS)
            sheet.paste(small, (x, top + row * (each[1] + 6)))
        box = (x, top, x + each[0] - 1, top + 3)
        ImageDraw.Draw(sheet).rectangle(box, _time_colour(int(index), len(frames)))


def _scale_bar(sheet: Image.Image, focal: float, unit: str, at: tuple[int, int]) -> None:
    length = _round_length(110 / focal)
    x, y = at
    draw = ImageDraw.Draw(sheet)
    draw.line((x, y, x + length * focal, y), fill=TEXT, width=3)
    _write(sheet, (x, y - 26), f"{length:g} {unit or '(units are arbitrary)'}", 16, TEXT)


def _round_length(length: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10 ** np.floor(np.log10(max(length, 1e-9)))
    return float(min((1, 2, 5, 10), key=lambda step: abs(step * power - length)) * power)


def _write(
    sheet: Image.Image,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    ImageDraw.Draw(sheet).text(at, text, colour, ImageFont.load_default(size), anchor=anchor)
