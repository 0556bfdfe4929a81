# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image files as stamped frames: which of a folder, in what order, with stamps from their names.

A file of a folder that is left out is said, with the reason.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from os.path import commonpath
from pathlib import Path
from typing import Literal, NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.sources.image_files import (
    SUFFIXES,
    VIDEOS,
    images_in,
    is_animated,
    read_samples,
    shown_size,
    time_taken,
)
from vggt_ros.tools.sources.source import LazyFrame, Source

Order = Literal["auto", "natural", "given", "time"]
SECONDS = re.compile(r"\d+\.\d+")
DEFAULT_RATE = 10.0  # Hz, of images without times in their names
LISTED = 4  # names of files that are left out
BESIDE = re.compile(r"(.+?)[._-](depth|disparity|mask|masks|seg|labels|normal|normals|conf)", re.I)
"""A picture that says something of another one, and is no photo, by its stem."""
PHOTO = re.compile(r"[._-](color|colour|rgb|image|img)$", re.I)


def are_images(path: Path) -> bool:
    """Whether it is a folder or has the suffix of an image; an animation is a video."""
    return path.is_dir() or (path.suffix.lower() in SUFFIXES and not is_animated(path))


def open_images(
    paths: Sequence[Path],
    reader: ImageReader,
    rate: float | None = None,
    order: Order = "auto",
    root: Path | None = None,
) -> Source:
    """All images of one folder in natural order, or the given files in the order given.

    `rate` (Hz) takes precedence over times in file names; without either, `DEFAULT_RATE` is used.
    `order`: `natural` (frame9 before frame10) or `time` (when they were taken) for given files too.
    Images are named by their paths below `root`, by default the folder that holds all of them.
    """
    if rate is not None and not 0 < rate <= 1e6:
        raise UserError(f"--rate is {rate:g}; give images a second, above zero")
    if others := [path for path in paths if not are_images(path)]:
        raise UserError(f"several sources must all be images, and {others[0]} is none")
    notes = reader.notices
    files = [
        file
        for path in paths
        for file in (_required_images(path, notes) if path.is_dir() else [path])
    ]
    files = _each_once(files, notes)
    files = _ordered(files, order, notes, given=any(not path.is_dir() for path in paths))
    folders = [path if path.is_dir() else path.parent for path in paths]
    root = root or Path(commonpath([folder.absolute() for folder in folders]))
    stamps, origin = _stamps([file.stem for file in files], rate)
    lazy_frames = []
    for file, stamp in zip(files, stamps, strict=True):
        name = file.absolute().relative_to(root.absolute()).as_posix()
        lazy_frames.append(LazyFrame(name, stamp, partial(_load, file, stamp, reader)))
    source = Source(root, "images", origin, lazy_frames, len(files), notes=notes)
    source.sizes = lambda: Counter(filter(None, map(shown_size, files)))
    return source


# ---- which


def _required_images(folder: Path, notes: list[str]) -> list[Path]:
    """Images of a folder; raises `UserError` if there are none, naming a sub-folder with some."""
    found, left_out = _find_images(folder)
    inner = {
        path.name: count
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name[0] != "." and (count := len(_find_images(path)[0]))
    }
    if not found:
        hint = f"it takes {' '.join(sorted(SUFFIXES))}"
        films = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEOS]
        if films:
            hint = f"it has the video {films[0].name}: give {films[0]}"
        if inner:
            hint = f"there are some in {folder / next(iter(inner))}"
        raise UserError(f"{folder} holds no images; {hint}")
    notes += left_out
    if inner:
        listed = ", ".join(f"{name} ({count})" for name, count in list(inner.items())[:LISTED])
        notes.append(
            f"images in sub-folders of {folder} are not read: {listed}"
            f"{_and_more(len(inner))}; name the folders to read them"
        )
    return found


def _find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Its images in natural order, and a line for each kind of file that is left out."""
    files = [p for p in sorted(folder.iterdir()) if p.name[0] != "." and p.is_file()]
    images = [p for p in files if p.suffix.lower() in SUFFIXES]
    stems = {p.stem for p in images}
    stems |= {PHOTO.sub("", stem) for stem in stems}
    beside = [p for p in images if (m := BESIDE.fullmatch(p.stem)) and m[1] in stems]
    other = [p for p in files if p not in images]
    lines = []
    if beside:
        kinds = ", ".join(sorted({m[2].lower() for p in beside if (m := BESIDE.fullmatch(p.stem))}))
        lines.append(f"left out by their names ({kinds} of another image): {_listed(beside)}")
    if other:
        lines.append(f"left out, since they are no images: {_listed(other)}")
    found = sorted((p for p in images if p not in beside), key=lambda p: natural(p.name))
    if all(SECONDS.fullmatch(path.stem) for path in found):
        found.sort(key=lambda path: Fraction(path.stem))  # 0.5 comes after 0.25
    return found, lines


def _each_once(files: list[Path], notes: list[str]) -> list[Path]:
    """Without files that were given before, as by a folder and by name."""
    once = list({file.absolute(): file for file in files}.values())
    if again := len(files) - len(once):
        twice = [file for file, times in Counter(f.absolute() for f in files).items() if times > 1]
        notes.append(f"given more than once, and used once: {_listed(twice)} ({again} left out)")
    return once


def _listed(files: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in files[:LISTED])
    plural = "" if len(files) == 1 else "s"
    return f"{len(files)} file{plural}: {names}{_and_more(len(files))}"


def _and_more(count: int) -> str:
    return f" and {count - LISTED} more" if count > LISTED else ""


# ---- in what order


def _ordered(files: list[Path], order: Order, notes: list[str], *, given: bool) -> list[Path]:
    in_natural_order = sorted(files, key=lambda path: natural(str(path)))
    if order == "natural":
        return in_natural_order
    if order == "time":
        return _by_time(files, notes)
    if order == "auto" and given and files == sorted(files, key=str) != in_natural_order:
        pairs = zip(files, in_natural_order, strict=True)
        first, other = next((a.name, b.name) for a, b in pairs if a != b)
        notes.append(
            f"files are used in the order given, as a shell sorts them ({first} before {other});"
            " if they count up, use --order natural, or name the folder; --order given: no note"
        )
    return files


def _by_time(files: list[Path], notes: list[str]) -> list[Path]:
    taken = [time_taken(path) for path in files]
    if None not in taken:
        notes.append("order: by the time when they were taken (EXIF)")
        return [path for _, _, path in sorted(zip(taken, map(_key, files), files, strict=True))]
    notes.append(
        f"order: by the time when the files were changed, since {taken.count(None)} of"
        f" {len(files)} do not say when they were taken"
    )
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, _key(path)))


def _key(path: Path) -> list[int | str]:
    return natural(path.name)


def natural(name: str) -> list[int | str]:
    """A sort key that puts frame10 after frame9."""
    parts = re.split(r"(\d+)", name)  # every second one is a number
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]


# ---- stamps


def _stamps(stems: Sequence[str], rate: float | None) -> tuple[list[int], str]:
    """Nanoseconds, and a description of their origin."""
    named = None if rate else stamps_from_names(stems)
    if named:
        return named.stamps_ns, f"file names ({named.unit})"
    hertz = Fraction(rate or DEFAULT_RATE)
    origin = f"{float(hertz):g} Hz" + ("" if rate else ", assumed; set it with --rate")
    return [int(number * 10**9 / hertz) for number in range(len(stems))], origin


class NamedStamps(NamedTuple):
    """Stamps that were read from file names."""

    stamps_ns: list[int]
    unit: str


UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
YEAR_2001, YEAR_2010, YEAR_2100 = (s * 10**9 for s in (978_307_200, 1_262_304_000, 4_102_444_800))


def stamps_from_names(stems: Sequence[str]) -> NamedStamps | None:
    """Nanoseconds if all names are rising times, else None; counters (0001) are not times.

    A time is seconds with decimals, or a whole number of ns, us, ms or s since 1970 that falls
    into the years 2001 to 2099; that is the case for at most one of the four units. Whole seconds
    begin with 2010: phones count their photos up from 1,000,000,000.
    """
    if all(SECONDS.fullmatch(stem) for stem in stems):
        found = NamedStamps([int(Fraction(stem) * 10**9) for stem in stems], "s")
    elif all(re.fullmatch(r"\d+", stem) for stem in stems):
        read = (NamedStamps([int(stem) * ns for stem in stems], unit) for unit, ns in UNITS.items())
        found = next((r for r in read if _are_times(r)), None)
    else:
        return None
    rising = found and all(before < after for before, after in pairwise(found.stamps_ns))
    return found if rising else None


def _are_times(found: NamedStamps) -> bool:
    first = YEAR_2010 if found.unit == "s" else YEAR_2001
    return first <= min(found.stamps_ns) and max(found.stamps_ns) < YEAR_2100


def _load(file: Path, stamp_ns: int, reader: ImageReader) -> Frame:
    samples = read_samples(file)
    about = "files that hold several images: of each the first one is used, as of "
    if (count := images_in(file)) > 1 and not any(n.startswith(about) for n in reader.notices):
        reader.notices.append(f"{about}{file.name} ({count}); make a video of an animation")
    kind = "mono" if samples.ndim == 2 else "rgb"
    return Frame(reader.samples(samples, f"{kind}{8 * samples.itemsize}"), stamp_ns)
