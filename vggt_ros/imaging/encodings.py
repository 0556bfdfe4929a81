# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera bytes of any encoding to one kind of image: RGB, 8 bit, C-contiguous.

Samples of 16 bits (mono16, 16UC1, colours, mosaics) keep their full range, 0..65535 to 0..255,
unless the caller gives the camera's own: see `sixteen_bits`.
"""

from array import array
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16

from vggt_ros.errors import UserError
from vggt_ros.imaging.bayer import RED_AT, demosaic
from vggt_ros.imaging.sixteen_bits import SixteenBits
from vggt_ros.imaging.size import check_size
from vggt_ros.imaging.transport import unpack
from vggt_ros.imaging.yuv import PLANAR, pairs_to_rgb, planes_to_rgb

Buffer = bytes | bytearray | memoryview | array
Decoder = Callable[[np.ndarray], np.ndarray]  # rows of samples of 8 bits to RGB
Samples = UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]


class UnknownEncoding(UserError):
    """An encoding that this module does not read; a caller may have another way."""


# ---- decoders: rows of samples in, RGB out ----------------------------------------------------


def _rgb(samples: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(samples)


def _rgba(samples: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples[..., 0], samples[..., 1], samples[..., 2])


def _bgr(samples: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples[..., 2], samples[..., 1], samples[..., 0])


def _grey(samples: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return _planes(samples, samples, samples)


def _planes(*planes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Three planes interleaved; assignment per plane is several times faster than `stack`."""
    rgb = np.empty((*planes[0].shape, 3), np.uint8)
    for channel, plane in enumerate(planes):
        rgb[..., channel] = plane
    return rgb


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
    "uyvy": Layout("u1", 2, partial(pairs_to_rgb, order="uyvy")),
    "yuyv": Layout("u1", 2, partial(pairs_to_rgb, order="yuyv")),
    "yvyu": Layout("u1", 2, partial(pairs_to_rgb, order="yvyu")),
}
for _order in RED_AT:
    LAYOUTS[f"bayer_{_order}8"] = Layout("u1", 1, partial(demosaic, order=_order))
for _name in [name for name in LAYOUTS if name.endswith("8")]:
    LAYOUTS[f"{_name[:-1]}16"] = LAYOUTS[_name]._replace(sample="u2")
LAYOUTS["yuv422"] = LAYOUTS["uyvy"]  # the older names of both
LAYOUTS["yuv422_yuy2"] = LAYOUTS["yuyv"]

BY_CONVENTION = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16",
                 "16UC3": "bgr16", "16UC4": "bgra16"}  # fmt: skip
"""Encodings that name no colours, and what drivers (through OpenCV) mean by them."""
LAYOUTS |= {name: LAYOUTS[meant] for name, meant in BY_CONVENTION.items()}


_SPELT = {name.lower(): name for name in [*LAYOUTS, *PLANAR]}


def spelt(encoding: str) -> str:
    """An encoding as it is spelt here, whatever its letters' case; any other text as it is."""
    return _SPELT.get(encoding.lower(), encoding)


def assumption(encoding: str) -> str:
    """What is assumed of an encoding that names no colours, for the user; else empty."""
    encoding = spelt(encoding)
    if encoding not in BY_CONVENTION:
        return ""
    meant = BY_CONVENTION[encoding]
    return f"encoding {encoding} names no colours: read as {meant}; set it in the driver if not"


# ---- entry points -----------------------------------------------------------------------------

FULL_RANGE = SixteenBits(16)


def decode(
    data: Buffer | np.ndarray,
    *,
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool | int,
    sixteen: SixteenBits = FULL_RANGE,
) -> UInt8[np.ndarray, "h w 3"]:
    """An uncompressed image, its fields as in sensor_msgs/Image.

    Rows may be padded (`step` in bytes). The result shares memory with `data` where no byte has
    to move (rgb8 without padding); `sixteen` converts samples of 16 bits. Raises UnknownEncoding
    for an encoding that is not in `LAYOUTS` in any case of letters, and UserError for an invalid
    size, a step too small and data too short.
    """
    encoding = spelt(encoding)
    if encoding not in LAYOUTS and encoding not in PLANAR:
        raise UnknownEncoding(
            f"encoding {encoding!r} is not read here: use one of {', '.join([*LAYOUTS, *PLANAR])}"
        )
    check_size(width, height)
    octets = np.frombuffer(data, np.uint8)
    if encoding in PLANAR:
        return planes_to_rgb(octets, encoding, height, width, step)
    layout = LAYOUTS[encoding]
    sample = np.dtype(layout.sample).newbyteorder(">" if is_bigendian else "<")
    row = width * layout.samples * sample.itemsize
    if step < row:
        raise UserError(
            f"step {step} is too small: a row of {width} {encoding} pixels has {row} bytes;"
            " check the driver's encoding and step"
        )
    if octets.size < height * step:
        raise UserError(
            f"image data is short: {octets.size} bytes where {width} x {height} {encoding} "
            f"with step {step} needs {height * step}; check the driver, or a bridge on the way"
        )
    rows = octets[: height * step].reshape(height, step)[:, :row]
    samples = rows.view(sample).astype(sample.newbyteorder("="), copy=False)
    shape = (height, width) if layout.samples == 1 else (height, width, layout.samples)
    return to_rgb(samples.reshape(shape), encoding, sixteen)


def decode_compressed(
    data: Buffer, format: str = "", sixteen: SixteenBits = FULL_RANGE
) -> UInt8[np.ndarray, "h w 3"]:
    """A compressed image, its fields as in sensor_msgs/CompressedImage; alpha is dropped.

    Raises `UserError` that names `format` for data that is not read, and for what is broken.
    """
    samples, encoding = unpack(bytes(data), format)
    return to_rgb(samples, encoding, sixteen)


def to_rgb(
    samples: Samples, encoding: str, sixteen: SixteenBits = FULL_RANGE
) -> UInt8[np.ndarray, "h w 3"]:
    """Samples in rows and columns, of an encoding in `LAYOUTS`."""
    if samples.dtype == np.uint16:
        colours = samples[..., :3] if samples.ndim == 3 else samples  # alpha says no brightness
        return LAYOUTS[encoding].read(sixteen.to_eight(colours))
    return LAYOUTS[encoding].read(samples)
