# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image files as stamped frames: natural order, stamps from their names or from a rate."""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.imaging.transport import (
    low_bytes,
    order_of_wide_colour,
    samples_of,
    wide_colour,
    with_end,
)
from vggt_ros.tools.sources.source import LazyFrame, Source

SUFFIXES = frozenset(".bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
SECONDS = re.compile(r"\d+\.\d+")
DEFAULT_RATE = 10.0  # Hz, of images without times in their names


def are_images(path: Path) -> bool:
    """Whether it is a folder or has the suffix of an image; the content is not read."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def open_images(paths: Sequence[Path], reader: ImageReader, rate: float | None = None) -> Source:
    """All images of one folder in natural order, or the given files in the order given.

    `rate` (Hz) takes precedence over times in file names; without either, `DEFAULT_RATE` is used.
    """
    if rate is not None and not 0 < rate <= 1e6:
        raise UserError(f"--rate is {rate:g}; give images a second, above zero")
    if others := [path for path in paths if not are_images(path)]:
        raise UserError(f"several sources must all be images, and {others[0]} is none")
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    files = [
        file for path in paths for file in (_required_images(path) if path.is_dir() else [path])
    ]
    stamps, origin = _stamps([file.stem for file in files], rate)
    lazy_frames = [
        LazyFrame(file.name, stamp, partial(_load, file, stamp, reader))
        for file, stamp in zip(files, stamps, strict=True)
    ]
    return Source(folder, "images", origin, lazy_frames, len(files), notes=reader.notices)


def _required_images(folder: Path) -> list[Path]:
    """Images of a folder; raises `UserError` if there are none, naming a sub-folder with some."""
    found = _find_images(folder)
    if not found:
        near = [path for path in sorted(folder.iterdir()) if path.is_dir() and _find_images(path)]
        hint = f"there are some in {near[0]}" if near else f"it takes {' '.join(sorted(SUFFIXES))}"
        raise UserError(f"{folder} holds no images; {hint}")
    return found


def _find_images(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    found = sorted(files, key=lambda path: natural(path.name))
    if all(SECONDS.fullmatch(path.stem) for path in found):
        found.sort(key=lambda path: Fraction(path.stem))  # 0.5 comes after 0.25
    return found


def natural(name: str) -> list[int | str]:
    """A sort key that puts frame10 after frame9."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def _stamps(stems: Sequence[str], rate: float | None) -> tuple[list[int], str]:
    """Nanoseconds, and a description of their origin."""
    named = None if rate else stamps_from_names(stems)
    if named:
        return named.stamps_ns, f"file names ({named.unit})"
    hertz = Fraction(rate or DEFAULT_RATE)
    origin = f"{float(hertz):g} Hz" + ("" if rate else ", assumed; set it with --rate")
    return [int(number * 10**9 / hertz) for number in range(len(stems))], origin


def _load(file: Path, stamp_ns: int, reader: ImageReader) -> Frame:
    try:
        samples = _samples(with_end(file.read_bytes()))
    except UnidentifiedImageError:
        raise UserError("not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(str(error)) from None
    kind = "mono" if samples.ndim == 2 else "rgb"
    return Frame(reader.samples(samples, f"{kind}{8 * samples.itemsize}"), stamp_ns)


def _samples(data: bytes) -> np.ndarray:
    """The image as a viewer shows it: EXIF orientation applied, white where transparent."""
    with Image.open(BytesIO(data)) as stored:
        order = order_of_wide_colour(stored) if stored.mode == "RGB" else ""
        image = ImageOps.exif_transpose(stored)
        if order:
            return wide_colour(image, ImageOps.exif_transpose(low_bytes(data, order)))
        if image.has_transparency_data and image.mode[0] not in "IF":
            white = Image.new("RGBA", image.size, "white")
            return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
        return samples_of(image)


class NamedStamps(NamedTuple):
    """Stamps that were read from file names."""

    stamps_ns: list[int]
    unit: str


UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
YEAR_2001, YEAR_2100 = 978_307_200 * 10**9, 4_102_444_800 * 10**9


def stamps_from_names(stems: Sequence[str]) -> NamedStamps | None:
    """Nanoseconds if all names are rising times, else None; counters (0001) are not times.

    A time is seconds with decimals, or a whole number of ns, us, ms or s since 1970 that falls
    into the years 2001 to 2099; that is the case for at most one of the four units.
    """
    if all(SECONDS.fullmatch(stem) for stem in stems):
        found = NamedStamps([int(Fraction(stem) * 10**9) for stem in stems], "s")
    elif all(re.fullmatch(r"\d+", stem) for stem in stems):
        read = (NamedStamps([int(stem) * ns for stem in stems], unit) for unit, ns in UNITS.items())
        found = next((r for r in read if _in_years_2001_to_2099(r.stamps_ns)), None)
    else:
        return None
    rising = found and all(before < after for before, after in pairwise(found.stamps_ns))
    return found if rising else None


def _in_years_2001_to_2099(stamps_ns: Sequence[int]) -> bool:
    return YEAR_2001 <= min(stamps_ns) and max(stamps_ns) < YEAR_2100
