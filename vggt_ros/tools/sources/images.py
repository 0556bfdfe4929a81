# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Picture files become stamped frames: natural order, times from their names or from a rate."""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.grid import decode
from vggt_ros.tools.sources.source import Sighting, Source

SUFFIXES = frozenset(".bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
SECONDS = re.compile(r"\d+\.\d+")
DEFAULT_RATE = 10.0  # Hz, of pictures that carry no times


def are_pictures(path: Path) -> bool:
    """By what it is called, not by what is in it: a folder may still be empty."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def open_pictures(paths: Sequence[Path], rate: float | None = None) -> Source:
    """All pictures of one folder in natural order, or the given files in the order given.

    `rate` (Hz) wins over times in file names; without either, `DEFAULT_RATE` is assumed.
    """
    if rate is not None and not 0 < rate <= 1e6:
        raise UserError(f"--rate is {rate:g}; give pictures a second, above zero")
    if strange := [path for path in paths if not are_pictures(path)]:
        raise UserError(f"several sources must all be pictures, and {strange[0]} is none")
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
    stamps, said = _stamps([file.stem for file in files], rate)
    sightings = [
        Sighting(file.name, stamp, partial(_load, file, stamp))
        for file, stamp in zip(files, stamps, strict=True)
    ]
    return Source(folder, "pictures", said, sightings, len(files))


def _inside(folder: Path) -> list[Path]:
    """Raises `UserError` for a folder without pictures, and says where there are some."""
    found = _listed(folder)
    if not found:
        near = [path for path in sorted(folder.iterdir()) if path.is_dir() and _listed(path)]
        hint = f"there are some in {near[0]}" if near else f"it takes {' '.join(sorted(SUFFIXES))}"
        raise UserError(f"{folder} holds no pictures; {hint}")
    return found


def _listed(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    found = sorted(files, key=lambda path: natural(path.name))
    if all(SECONDS.fullmatch(path.stem) for path in found):
        found.sort(key=lambda path: Fraction(path.stem))  # 0.5 comes after 0.25
    return found


def natural(name: str) -> list[int | str]:
    """A sort key that puts frame10 after frame9."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def _stamps(stems: Sequence[str], rate: float | None) -> tuple[list[int], str]:
    """Nanoseconds, and in words where they come from."""
    named = None if rate else stamps_from_names(stems)
    if named:
        return named.stamps_ns, f"file names ({named.unit})"
    hertz = Fraction(rate or DEFAULT_RATE)
    said = f"{float(hertz):g} Hz" + ("" if rate else ", assumed; --rate says otherwise")
    return [int(number * 10**9 / hertz) for number in range(len(stems))], said


def _load(file: Path, stamp_ns: int) -> Frame:
    """As its owner sees it: turned by its EXIF note, on white where transparent."""
    try:
        with Image.open(file) as stored:
            picture = ImageOps.exif_transpose(stored)
            if picture.mode.startswith("I"):
                return Frame(_grey16(np.asarray(picture)), stamp_ns)
            if picture.has_transparency_data:
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA"))
            return Frame(np.array(picture.convert("RGB")), stamp_ns)
    except UnidentifiedImageError:
        raise UserError("not a picture that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(str(error)) from None


def _grey16(samples: np.ndarray) -> np.ndarray:
    height, width = samples.shape
    data = samples.clip(0, 65535).astype("<u2").tobytes()
    step = 2 * width
    return decode(
        data, encoding="mono16", height=height, width=width, step=step, is_bigendian=False
    )


class NamedStamps(NamedTuple):
    stamps_ns: list[int]
    unit: str


UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
YEAR_2001, YEAR_2100 = 978_307_200 * 10**9, 4_102_444_800 * 10**9


def stamps_from_names(stems: Sequence[str]) -> NamedStamps | None:
    """Nanoseconds, where every name plainly is a time and they rise; counters (0001) are none.

    A time is seconds with decimals, or a whole number of ns, us, ms or s since 1970 that falls
    into the years 2001 to 2099, which only one of the four units can make of it.
    """
    if all(SECONDS.fullmatch(stem) for stem in stems):
        found = NamedStamps([int(Fraction(stem) * 10**9) for stem in stems], "s")
    elif all(re.fullmatch(r"\d+", stem) for stem in stems):
        read = (NamedStamps([int(stem) * ns for stem in stems], unit) for unit, ns in UNITS.items())
        found = next((r for r in read if _of_our_time(r.stamps_ns)), None)
    else:
        return None
    rising = found and all(before < after for before, after in pairwise(found.stamps_ns))
    return found if rising else None


def _of_our_time(stamps_ns: Sequence[int]) -> bool:
    return YEAR_2001 <= min(stamps_ns) and max(stamps_ns) < YEAR_2100
