# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One image file: its samples as a viewer shows them, its size, when it was taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vggt_ros.errors import UserError, install_extra
from vggt_ros.imaging.size import check_size
from vggt_ros.imaging.transport import (
    low_bytes,
    order_of_wide_colour,
    samples_of,
    wide_colour,
    with_end,
)

HEIF = frozenset((".heic", ".heif", ".hif"))
SUFFIXES = HEIF | frozenset(
    ".avif .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pfm .pgm"
    " .png .pnm .ppm .qoi .sgi .tga .tif .tiff .webp".split()
)
VIDEOS = frozenset(".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split())
SEVERAL = frozenset(".avif .gif .png .tif .tiff .webp".split())  # formats of several images
PLAIN = "L", "RGB", "RGBA"  # Pillow's names of what all programs read alike
TURNED = (5, 6, 7, 8)  # EXIF orientations whose rows are the columns of the stored image


def read_samples(path: Path) -> np.ndarray:
    """EXIF orientation applied, white where transparent; of an animation the first image.

    Raises `UserError` for what cannot be read.
    """
    try:
        with _opened(path):
            return _samples(with_end(path.read_bytes()))
    except UnidentifiedImageError:
        raise UserError("not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(str(error)) from None


def shown_size(path: Path) -> tuple[int, int] | None:
    """Width and height as a viewer shows it, by its header; None where that cannot be read."""
    header = _header(path)
    if header is None:
        return None
    (width, height), orientation = header
    return (height, width) if orientation in TURNED else (width, height)


def is_turned(path: Path) -> bool:
    """Whether a viewer turns or mirrors it, by its EXIF."""
    header = _header(path)
    return header is not None and header[1] not in (0, 1)


def is_plain(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height as stored, and whether every program sees it as it is seen here.

    That is a file that is stored upright, in 8 bits of grey, RGB or RGBA. Others take a palette for
    grey, CMYK for RGBA, and leave 16 bits as dark as they are stored.
    """
    try:
        with _opened(path), Image.open(path) as image:
            upright = int(image.getexif().get(ExifTags.Base.Orientation, 0)) in (0, 1)
            simple = image.mode in PLAIN and not order_of_wide_colour(image)
            return image.size, upright and simple
    except (OSError, SyntaxError, ValueError, UserError):
        return (0, 0), False


def time_taken(path: Path) -> datetime | None:
    """By its EXIF, to the fraction of a second where a camera writes it; None: it has none."""
    try:
        with _opened(path), Image.open(path) as image:
            exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
            text = str(exif[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
            fraction = str(exif.get(ExifTags.Base.SubsecTimeOriginal, "0")).strip("\0 ") or "0"
            return datetime.strptime(f"{text}.{fraction[:6]}", "%Y:%m:%d %H:%M:%S.%f")
    except (OSError, SyntaxError, ValueError, KeyError, UserError):
        return None


def images_in(path: Path) -> int:
    """How many images it holds, of which one is read; 1 also where that is not known.

    JPEG is left out: what phones put beside a photo (a gain map, a smaller copy) is no image of it.
    """
    if path.suffix.lower() not in SEVERAL:
        return 1
    try:
        with _opened(path), Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except (OSError, SyntaxError, ValueError, EOFError, UserError):
        return 1


def is_animated(path: Path) -> bool:
    """Whether it holds several images, to be read as a video."""
    try:
        with _opened(path), Image.open(path) as image:
            return path.suffix.lower() == ".gif" and getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, UserError):
        return False


def _header(path: Path) -> tuple[tuple[int, int], int] | None:
    """Size as stored, and EXIF orientation (0: none)."""
    try:
        with _opened(path), Image.open(path) as image:
            return image.size, int(image.getexif().get(ExifTags.Base.Orientation, 0))
    except (OSError, SyntaxError, ValueError, UserError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Around opening: HEIF is registered, and sizes are judged by `check_size` alone.

    Pillow takes photos of 179 million pixels and more for an attack; phones take larger ones.
    """
    if path.suffix.lower() in HEIF:
        try:
            import pillow_heif
        except ImportError:
            raise UserError(
                f"HEIC needs pillow-heif; install it {install_extra('heif')}, or convert to jpg"
            ) from None
        pillow_heif.register_heif_opener()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _samples(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as stored:
        check_size(*stored.size)
        order = order_of_wide_colour(stored) if stored.mode == "RGB" else ""
        image = ImageOps.exif_transpose(stored)
        if order:
            return wide_colour(image, ImageOps.exif_transpose(low_bytes(data, order)))
        if image.mode == "F":
            return _of_unit_range(np.asarray(image))
        if image.has_transparency_data and image.mode[0] != "I":
            white = Image.new("RGBA", image.size, "white")
            return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
        return samples_of(image)


def _of_unit_range(values: np.ndarray) -> np.ndarray:
    """Grey of floating-point numbers from 0 to 1, as 16 bits; others are no brightness."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # of NaN too
        raise UserError(
            f"floating-point numbers from {low:g} to {high:g}: only those from 0 to 1 are taken as"
            " brightness; scale them, or save 8 or 16 bits"
        )
    return np.rint(values * 65535).astype(np.uint16)
