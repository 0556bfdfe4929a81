# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera bytes of any encoding to one kind of image: RGB, 8 bit, C-contiguous.

Grey of 16 bits (mono16, 16UC1) keeps its full range: 0..65535 becomes 0..255, rounded. It is never
stretched to the frame, since a brightness that follows the content resembles motion.
So do colours and mosaics of 16 bits. Bayer is interpolated bilinearly; YUV is BT.601 in video
range, its chroma repeated over the pixels that share it.
"""

from array import array
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, UnidentifiedImageError

from vggt_ros.errors import UserError

MAX_SIDE = 16384  # pixels; beyond it the header is broken
Buffer = bytes | bytearray | memoryview | array
Decoder = Callable[[np.ndarray], np.ndarray]  # rows of samples to RGB


class UnknownEncoding(UserError):
    """An encoding that this module does not read; a caller may have another way."""


def check_size(width: int, height: int) -> None:
    """Raise `UserError` for a size that no image has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UserError(
            f"image size {width} x {height} is invalid: each side must be 1 to {MAX_SIDE} "
            "pixels; check the camera driver"
        )


# ---- decoders: rows of samples in, RGB out ----------------------------------------------------


def _rgb(samples: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(samples)


def _rgba(samples: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples[..., 0], samples[..., 1], samples[..., 2])


def _bgr(samples: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples[..., 2], samples[..., 1], samples[..., 0])


def _grey(samples: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples, samples, samples)


def _of_16_bit(read: Decoder) -> Decoder:
    """The decoder of the same samples with 16 bits each: the full range becomes 0..255."""
    return lambda samples: read(_EIGHT_BIT.take(samples))


_EIGHT_BIT = np.round(np.arange(1 << 16) / 257).astype(np.uint8)


def _planes(*planes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Three planes interleaved; assignment per plane is several times faster than `stack`."""
    rgb = np.empty((*planes[0].shape, 3), np.uint8)
    for channel, plane in enumerate(planes):
        rgb[..., channel] = plane
    return rgb


def _bayer(red_row: int, red_column: int) -> Decoder:
    """The decoder of a mosaic whose first red pixel is at this row and column."""

    def decode_mosaic(raw: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
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

    return decode_mosaic


def _yuv422(y: int, u: int, v: int) -> Decoder:
    """The decoder of two pixels in four bytes, with `y`, `u`, `v` the first places of each."""

    def decode_pairs(samples: UInt8[np.ndarray, "h w 2"]) -> UInt8[np.ndarray, "h w 3"]:
        height, width, _ = samples.shape
        if width % 2:
            raise UserError(f"yuv422 stores pixels in pairs, so a width of {width} is invalid")
        quads = samples.reshape(height, width // 2, 4).astype(np.int32)
        chroma = _chroma(quads[..., u], quads[..., v])
        rgb = np.empty((height, width, 3), np.uint8)
        for place in (0, 1):
            luma = _luma(quads[..., y + 2 * place])
            for channel, shift in enumerate(chroma):
                rgb[:, place::2, channel] = np.clip((luma + shift) >> 16, 0, 255)
        return rgb

    return decode_pairs


# BT.601 in 1/65536: luma spans 219 steps of 255, colour 224.
_LUMA = round(65536 * 255 / 219)
_RED_OF_V, _GREEN_OF_V, _GREEN_OF_U, _BLUE_OF_U = (
    round(65536 * 255 / 224 * share) for share in (1.402, -0.714136, -0.344136, 1.772)
)


def _luma(y: Int32[np.ndarray, "*p"]) -> Int32[np.ndarray, "*p"]:
    """Its part of red, green and blue, in 1/65536, with the half that rounds."""
    return _LUMA * (y - 16) + (1 << 15)


def _chroma(
    u: Int32[np.ndarray, "*p"], v: Int32[np.ndarray, "*p"]
) -> tuple[Int32[np.ndarray, "*p"], ...]:
    """Its parts of red, green and blue, in 1/65536."""
    blue, red = u - 128, v - 128
    return _RED_OF_V * red, _GREEN_OF_U * blue + _GREEN_OF_V * red, _BLUE_OF_U * blue


class Layout(NamedTuple):
    """How one pixel lies in memory, and its decoder."""

    sample: str  # NumPy type of one sample
    samples: int  # samples per pixel
    read: Decoder


LAYOUTS = {
    "rgb8": Layout("u1", 3, _rgb),
    "bgr8": Layout("u1", 3, _bgr),
    "rgba8": Layout("u1", 4, _rgba),
    "bgra8": Layout("u1", 4, _bgr),
    "mono8": Layout("u1", 1, _grey),
    "uyvy": Layout("u1", 2, _yuv422(y=1, u=0, v=2)),
    "yuyv": Layout("u1", 2, _yuv422(y=0, u=1, v=3)),
    "yvyu": Layout("u1", 2, _yuv422(y=0, u=3, v=1)),
}
for _order, _red in {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}.items():
    LAYOUTS[f"bayer_{_order}8"] = Layout("u1", 1, _bayer(*_red))
for _name in [name for name in LAYOUTS if name.endswith("8")]:
    _eight = LAYOUTS[_name]
    LAYOUTS[f"{_name[:-1]}16"] = Layout("u2", _eight.samples, _of_16_bit(_eight.read))
LAYOUTS["yuv422"] = LAYOUTS["uyvy"]  # the older names of both
LAYOUTS["yuv422_yuy2"] = LAYOUTS["yuyv"]

BY_CONVENTION = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16",
                 "16UC3": "bgr16", "16UC4": "bgra16"}  # fmt: skip
"""Encodings that name no colours, and what drivers (through OpenCV) mean by them."""
LAYOUTS |= {name: LAYOUTS[meant] for name, meant in BY_CONVENTION.items()}


def assumption(encoding: str) -> str:
    """What is assumed of an encoding that names no colours, for the user; else empty."""
    if encoding not in BY_CONVENTION:
        return ""
    meant = BY_CONVENTION[encoding]
    return f"encoding {encoding} names no colours: read as {meant}; set it in the driver if not"


class Planes(NamedTuple):
    """A whole plane of luma, then chroma: in one plane of pairs, or in one plane each."""

    share: int  # luma rows, and columns, per chroma sample
    order: str  # of the pairs, "uv" or "vu"; empty: a plane of u, then a plane of v


PLANAR = {
    "nv12": Planes(2, "uv"),
    "nv21": Planes(2, "vu"),
    "nv24": Planes(1, "uv"),
    "i420": Planes(2, ""),
    "yuv420": Planes(2, ""),
}


# ---- entry points -----------------------------------------------------------------------------


def decode(
    data: Buffer | np.ndarray,
    *,
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool | int,
) -> UInt8[np.ndarray, "h w 3"]:
    """An uncompressed image, its fields as in sensor_msgs/Image.

    Rows may be padded (`step` in bytes). The result shares memory with `data` where no byte has
    to move (rgb8 without padding). Raises UnknownEncoding for an encoding that is not in
    `LAYOUTS`, and UserError for an invalid size, a step too small and data too short.
    """
    if encoding not in LAYOUTS and encoding not in PLANAR:
        raise UnknownEncoding(
            f"encoding {encoding!r} is not read here: use one of {', '.join([*LAYOUTS, *PLANAR])}"
        )
    check_size(width, height)
    if encoding in PLANAR:
        return _decode_planes(np.frombuffer(data, np.uint8), encoding, height, width, step)
    layout = LAYOUTS[encoding]
    sample = np.dtype(layout.sample).newbyteorder(">" if is_bigendian else "<")
    row = width * layout.samples * sample.itemsize
    if step < row:
        raise UserError(
            f"step {step} is too small: a row of {width} {encoding} pixels has {row} bytes;"
            " check the driver's encoding and step"
        )
    octets = np.frombuffer(data, np.uint8)
    if octets.size < height * step:
        raise UserError(
            f"image data is short: {octets.size} bytes where {width} x {height} {encoding} "
            f"with step {step} needs {height * step}; check the driver, or a bridge on the way"
        )
    rows = octets[: height * step].reshape(height, step)[:, :row]
    samples = rows.view(sample).astype(sample.newbyteorder("="), copy=False)
    return layout.read(samples.reshape(_shape(height, width, layout.samples)))


def _decode_planes(
    octets: UInt8[np.ndarray, "n"], encoding: str, height: int, width: int, step: int
) -> UInt8[np.ndarray, "h w 3"]:
    """YUV in planes; `step` is that of the luma rows, as drivers state it."""
    share, order = PLANAR[encoding]
    if height % share or width % share:
        raise UserError(
            f"{encoding} halves its chroma, so a size of {width} x {height} is invalid; check the"
            " camera driver"
        )
    rows, columns = height // share, width // share
    stride = 2 * step // share if order else step // share  # of a row of chroma
    planes = 1 if order else 2
    needed = height * step + planes * rows * stride
    if step < width or octets.size < needed:
        raise UserError(
            f"image data is short: {octets.size} bytes where {width} x {height} {encoding} with"
            f" step {step} needs {needed}; check the driver's step, or a bridge on the way"
        )
    luma = octets[: height * step].reshape(height, step)[:, :width]
    chroma = octets[height * step : needed].reshape(planes * rows, stride)
    if order:
        pairs = chroma[:, : 2 * columns].reshape(rows, columns, 2)
        u, v = pairs[..., order.index("u")], pairs[..., order.index("v")]
    else:
        u, v = chroma[:rows, :columns], chroma[rows:, :columns]
    rgb = np.empty((height, width, 3), np.uint8)
    y = _luma(luma.astype(np.int32))
    for channel, shift in enumerate(_chroma(u.astype(np.int32), v.astype(np.int32))):
        shift = shift.repeat(share, 0).repeat(share, 1)
        rgb[..., channel] = np.clip((y + shift) >> 16, 0, 255)
    return rgb


def _shape(height: int, width: int, samples: int) -> tuple[int, ...]:
    return (height, width) if samples == 1 else (height, width, samples)


def decode_compressed(data: Buffer) -> UInt8[np.ndarray, "h w 3"]:
    """A JPEG or PNG image; alpha is dropped, 16-bit grey is treated as mono16."""
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            check_size(*image.size)
            if image.mode.startswith("I"):
                return LAYOUTS["mono16"].read(np.asarray(image).astype(np.uint16))
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise UserError(f"compressed image of {len(data)} bytes is neither JPEG nor PNG") from None
    except (OSError, SyntaxError, ValueError, EOFError) as fault:
        raise UserError(f"compressed image of {len(data)} bytes is broken: {fault}") from fault
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise UserError(f"compressed image is too large: {fault}") from fault
