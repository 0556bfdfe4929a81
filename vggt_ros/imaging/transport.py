# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compressed images as ROS sends them: JPEG, PNG, TIFF or WebP, and a text that says of what.

The text is the field `format` of sensor_msgs/CompressedImage; that of compressed_image_transport
is "<encoding before>; <codec> compressed <encoding that the codec was given>", parts of which may
be missing.  Others write "jpeg", "h264", or nothing.
"""

import re
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, UnidentifiedImageError

from vggt_ros.errors import UserError
from vggt_ros.imaging.bayer import RED_AT
from vggt_ros.imaging.size import check_size

READ = "JPEG", "PNG", "TIFF", "WEBP"
SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"  # markers of JPEG: start, end, start of scan
FILLER = bytes(range(16, 240, 3))  # no marker, and pixels where any are still to come
OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B"}  # big, little, native (which is little)

Grey = UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
Colour = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]


class Format(NamedTuple):
    """The parts of a message's `format`, in lower case; empty: not stated."""

    source: str  # encoding of the image before it was compressed
    codec: str  # "jpeg compressed bgr8", "h264": all that follows, or a text without parts
    given: str  # encoding of what the codec was given

    @classmethod
    def of(cls, text: str) -> "Format":
        """Of any text."""
        source, separator, codec = text.lower().partition(";")
        given = re.search(r"compressed\s+(\w+)", codec)
        return cls(source.strip(), codec.strip() if separator else source.strip(),
                   given[1] if given else "")  # fmt: skip

    @property
    def mosaic(self) -> str:
        """Order of the Bayer mosaic that a single channel is; empty where it is none."""
        found = re.match(r"bayer_([rgb]{4})", self.source)
        return found[1] if found and found[1] in RED_AT and self.given[:4] != "mono" else ""

    @property
    def exchanged(self) -> bool:
        """Whether red and blue changed places on the way.

        compressed_image_transport hands rgb8 to OpenCV's TIFF as it is, which takes it for bgr8.
        """
        return self.codec.startswith("tiff") and self.source[:3] == "rgb" and not self.given


def unpack(data: bytes, format: str = "") -> tuple[Grey | Colour, str]:
    """Samples of a compressed image, and their encoding (mono, rgb, bgr or bayer, of 8 or 16 bits).

    Raises `UserError` for data that is not read or broken, with the message's own `format`.
    """
    about = Format.of(format)
    if "compresseddepth" in about.codec:
        raise UserError(
            f"compressed image of format {format!r} is a depth image, not a camera's: use the"
            " colour camera's topic"
        )
    try:
        samples = _samples(with_end(data))
    except UnidentifiedImageError:
        raise UserError(_unread(format)) from None
    except (OSError, SyntaxError, ValueError, EOFError) as fault:
        raise UserError(f"compressed image of {len(data)} bytes is broken: {fault}") from fault
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise UserError(f"compressed image is too large: {fault}") from fault
    bits = 8 * samples.itemsize
    if samples.ndim == 2:
        return samples, f"bayer_{about.mosaic}{bits}" if about.mosaic else f"mono{bits}"
    return samples, f"{'bgr' if about.exchanged else 'rgb'}{bits}"


def _unread(format: str) -> str:
    return (
        f"compressed image of format {format!r} is neither JPEG nor PNG, TIFF or WebP, which are"
        " read here: let a node of its transport decode it (ros2 run image_transport republish, or"
        " the decoder of its sender) and set image_transport to raw, or let the sender send jpeg"
    )


def with_end(data: bytes) -> bytes:
    """A JPEG that lacks only its end marker, with one; any other data as it is.

    Some USB cameras leave the marker out.  Raises `UserError` where more is missing, which shows
    by what follows the data: a decoder takes it for pixels as long as any are to come.
    """
    scan = data.rfind(SOS)
    # Within a scan ff is followed by 0, so neither marker occurs there.
    if not data.startswith(SOI) or scan < 0 or data.rfind(EOI) > scan:
        return data
    data = data.rstrip(b"\xff")  # half a marker
    if _coarse(data + EOI) != _coarse(data + FILLER + EOI):
        raise UserError(
            f"compressed image of {len(data)} bytes is broken: the JPEG ends before its last rows"
        )
    return data + EOI


def _coarse(data: bytes) -> bytes:
    """The pixels of a JPEG at an eighth of its size, in a third of the time.

    A progressive one is decoded whole: its last scan has no share in the mean of a block.
    """
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        check_size(*image.size)
        if "progressive" not in image.info:
            image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
        return image.tobytes()


def _samples(data: bytes) -> Grey | Colour:
    with Image.open(BytesIO(data), formats=READ) as image:
        check_size(*image.size)
        if order := order_of_wide_colour(image):
            return wide_colour(image, low_bytes(data, order))
        return samples_of(image)


def samples_of(image: Image.Image) -> Grey | Colour:
    """Samples of an image; colours have 8 bits each.

    Raises `UserError` for numbers that are no brightness.
    """
    if image.mode == "F":
        raise UserError("an image of floating-point numbers (32FC1) is no camera's")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise UserError("an image of numbers beyond 16 bits (32SC1) is no camera's")
        return samples.astype(np.uint16)
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB"))


# Of colours with 16 bits a sample Pillow keeps the high byte. So they are read a second time with
# the other byte order, in which the low byte is the high one.


def order_of_wide_colour(image: Image.Image) -> str:
    """The byte order of an image not yet loaded, if it has colours of 16 bits; else empty."""
    tiles = getattr(image, "tile", [])
    order = _raw_mode(tiles[0]).rpartition(";")[2] if tiles else ""
    return order if image.mode in ("RGB", "RGBA") and order in OTHER_ORDER else ""


def low_bytes(data: bytes, order: str) -> Image.Image:
    """The low bytes of colours with 16 bits, whose byte order is given."""
    image: Any = Image.open(BytesIO(data))
    for i, tile in enumerate(image.tile):
        raw_mode = _raw_mode(tile).replace(order, OTHER_ORDER[order])
        args = raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])
        image.tile[i] = tile._replace(args=args)
    return image


def wide_colour(high: Image.Image, low: Image.Image) -> UInt16[np.ndarray, "h w 3"]:
    """The samples from their two bytes; alpha is dropped."""
    upper, lower = (np.asarray(each)[..., :3].astype(np.uint16) for each in (high, low))
    return (upper << 8) + lower


def _raw_mode(tile: Any) -> str:
    """Pillow's name of how samples lie in memory, such as "RGB;16B"."""
    return tile.args if isinstance(tile.args, str) else str(tile.args[0])
