# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Encodings of drivers besides the common ones: 16-bit colour, planar YUV, no colours named."""

import numpy as np
import pytest
from test_encodings import IMAGE, MOSAICS, mosaic, pack, yuv_of

from vggt_ros.errors import UserError
from vggt_ros.imaging.encodings import BY_CONVENTION, decode
from vggt_ros.imaging.yuv import PLANAR

COLOURS = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 180, 40)]


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize(
    "encoding, order", [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("rgba16", [0, 1, 2, 2]),
                        ("bgra16", [2, 1, 0, 0])],
)  # fmt: skip
def test_colours_of_16_bits_are_scaled_like_grey(encoding, order, is_bigendian):
    sample = ">u2" if is_bigendian else "<u2"
    samples = (IMAGE[..., order].astype(np.uint16) * 257).astype(sample)
    rgb = decode(**pack(samples, padding=2), encoding=encoding, is_bigendian=is_bigendian)
    np.testing.assert_array_equal(rgb, IMAGE)


@pytest.mark.parametrize("order", MOSAICS)
def test_a_mosaic_of_16_bits_is_demosaiced(order):
    raw = mosaic(IMAGE, *MOSAICS[order])
    wide = decode(
        **pack((raw.astype(np.uint16) * 257).astype("<u2")),
        encoding=f"bayer_{order}16",
        is_bigendian=0,
    )
    np.testing.assert_array_equal(
        wide, decode(**pack(raw), encoding=f"bayer_{order}8", is_bigendian=0)
    )


@pytest.mark.parametrize("encoding, meant", BY_CONVENTION.items())
def test_encodings_without_colours_are_what_drivers_mean(encoding, meant):
    samples = {"mono": IMAGE[..., 0], "bgr": IMAGE, "bgra": IMAGE[..., [0, 1, 2, 2]]}
    values = samples[meant.rstrip("168")]
    if meant.endswith("16"):
        values = (values.astype(np.uint16) * 257).astype("<u2")
    found = decode(**pack(values), encoding=encoding, is_bigendian=0)
    np.testing.assert_array_equal(found, decode(**pack(values), encoding=meant, is_bigendian=0))


def planar(rgb, encoding, padding=0):
    """An image of blocks of 2 x 2 equal pixels as planes, its rows padded."""
    yuv = np.apply_along_axis(lambda colour: yuv_of(*colour), 2, rgb)
    share, order = PLANAR[encoding]
    y, u, v = (yuv[..., i] for i in range(3))
    u, v = u[::share, ::share], v[::share, ::share]
    step = y.shape[1] + 2 * padding

    def padded(plane, stride):
        return np.pad(plane, [(0, 0), (0, stride - plane.shape[1])])

    parts = [padded(y, step)]
    if order:
        pairs = np.stack([u, v] if order == "uv" else [v, u], -1).reshape(len(u), -1)
        parts.append(padded(pairs, 2 * step // share))
    else:
        parts += [padded(u, step // 2), padded(v, step // 2)]
    data = b"".join(part.astype(np.uint8).tobytes() for part in parts)
    return {"data": data, "height": y.shape[0], "width": y.shape[1], "step": step}


@pytest.mark.parametrize("encoding", PLANAR)
@pytest.mark.parametrize("padding", [0, 4])
def test_planes_of_yuv_give_back_their_colours(encoding, padding):
    colours = np.array([COLOURS, COLOURS[::-1]], np.uint8)
    rgb = colours.repeat(2, 0).repeat(2, 1)
    found = decode(**planar(rgb, encoding, padding), encoding=encoding, is_bigendian=0)
    np.testing.assert_allclose(found.astype(int), rgb, atol=2)


@pytest.mark.parametrize("encoding", PLANAR)
def test_planes_that_are_short_are_refused(encoding):
    message = planar(np.zeros((4, 6, 3), np.uint8), encoding)
    message["data"] = message["data"][:-1]
    with pytest.raises(UserError, match="image data is short"):
        decode(**message, encoding=encoding, is_bigendian=0)


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "i420", "yuv420"])
def test_halved_chroma_needs_an_even_size(encoding):
    with pytest.raises(UserError, match="a size of 5 x 4 is invalid"):
        decode(bytes(60), encoding=encoding, height=4, width=5, step=6, is_bigendian=0)
