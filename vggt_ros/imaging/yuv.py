# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""YUV to RGB: BT.601 in video range, chroma repeated over the pixels that share it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from vggt_ros.errors import UserError

# BT.601 in 1/65536: luma spans 219 steps of 255, colour 224.
_LUMA = round(65536 * 255 / 219)
_RED_OF_V, _GREEN_OF_V, _GREEN_OF_U, _BLUE_OF_U = (
    round(65536 * 255 / 224 * share) for share in (1.402, -0.714136, -0.344136, 1.772)
)


def pairs_to_rgb(samples: UInt8[np.ndarray, "h w 2"], order: str) -> UInt8[np.ndarray, "h w 3"]:
    """Two pixels in four bytes (4:2:2), which `order` names: "uyvy", "yuyv" or "yvyu".

    Raises `UserError` for an odd width.
    """
    height, width, _ = samples.shape
    if width % 2:
        raise UserError(f"yuv422 stores pixels in pairs, so a width of {width} is invalid")
    quads = samples.reshape(height, width // 2, 4).astype(np.int32)
    chroma = _chroma(quads[..., order.index("u")], quads[..., order.index("v")])
    rgb = np.empty((height, width, 3), np.uint8)
    for place in (0, 1):
        luma = _luma(quads[..., order.index("y") + 2 * place])
        for channel, shift in enumerate(chroma):
            rgb[:, place::2, channel] = np.clip((luma + shift) >> 16, 0, 255)
    return rgb


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


def planes_to_rgb(
    octets: UInt8[np.ndarray, "n"], encoding: str, height: int, width: int, step: int
) -> UInt8[np.ndarray, "h w 3"]:
    """An encoding of `PLANAR`; `step` is that of the luma rows, in bytes, as drivers state it.

    Raises `UserError` for a size that does not share its chroma evenly, and for short data.
    """
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


def _luma(y: Int32[np.ndarray, "*p"]) -> Int32[np.ndarray, "*p"]:
    """Its part of red, green and blue, in 1/65536, with the half that rounds."""
    return _LUMA * (y - 16) + (1 << 15)


def _chroma(
    u: Int32[np.ndarray, "*p"], v: Int32[np.ndarray, "*p"]
) -> tuple[Int32[np.ndarray, "*p"], ...]:
    """Its parts of red, green and blue, in 1/65536."""
    blue, red = u - 128, v - 128
    return _RED_OF_V * red, _GREEN_OF_U * blue + _GREEN_OF_V * red, _BLUE_OF_U * blue
