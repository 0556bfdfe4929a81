# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera bytes of any encoding become RGB, or are refused by name."""

from array import array
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.imaging.encodings import LAYOUTS, UnknownEncoding, decode, decode_compressed

RNG = np.random.default_rng(7)
IMAGE = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def pack(samples, *, padding=0):
    """Message fields of samples [h w ...], rows padded with noise."""
    rows = np.ascontiguousarray(samples).view(np.uint8).reshape(samples.shape[0], -1)
    noise = RNG.integers(0, 256, (rows.shape[0], padding), dtype=np.uint8)
    octets = np.concatenate([rows, noise], axis=1)
    return {
        "data": array("B", octets.tobytes()),
        "height": samples.shape[0],
        "width": samples.shape[1],
        "step": octets.shape[1],
    }


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_colour_layouts_are_reorderings(padding, is_bigendian):
    alpha = RNG.integers(0, 256, (6, 8, 1), dtype=np.uint8)
    layouts = {
        "rgb8": IMAGE,
        "bgr8": IMAGE[..., ::-1],
        "rgba8": np.concatenate([IMAGE, alpha], -1),
        "bgra8": np.concatenate([IMAGE[..., ::-1], alpha], -1),
    }
    for encoding, samples in layouts.items():
        message = pack(samples, padding=padding)
        rgb = decode(**message, encoding=encoding, is_bigendian=is_bigendian)
        np.testing.assert_array_equal(rgb, IMAGE)
        assert rgb.flags.c_contiguous


@pytest.mark.parametrize("padding", [0, 3])
def test_grey_is_repeated(padding):
    message = pack(IMAGE[..., 0], padding=padding)
    rgb = decode(**message, encoding="mono8", is_bigendian=0)
    np.testing.assert_array_equal(rgb, IMAGE[..., :1].repeat(3, -1))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize(("is_bigendian", "sample"), [(0, "<u2"), (1, ">u2")])
@pytest.mark.parametrize("padding", [0, 3])
def test_sixteen_bits_keep_their_full_range_in_both_byte_orders(
    encoding, is_bigendian, sample, padding
):
    values = np.arange(65536, dtype=sample).reshape(256, 256)
    rgb = decode(**pack(values, padding=padding), encoding=encoding, is_bigendian=is_bigendian)
    expected = np.round(values.astype(float) * 255 / 65535)
    np.testing.assert_array_equal(rgb, expected[..., None].repeat(3, -1))


MOSAICS = {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}


def mosaic(rgb, red_row, red_column):
    rows, columns = np.indices(rgb.shape[:2])
    on_red_row, on_red_column = rows % 2 == red_row, columns % 2 == red_column
    channel = np.where(on_red_row & on_red_column, 0, np.where(on_red_row == on_red_column, 2, 1))
    return np.take_along_axis(rgb, channel[..., None], -1)[..., 0]


@pytest.mark.parametrize("order", MOSAICS)
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 6), (7, 7)])
def test_a_mosaic_of_one_colour_is_that_colour_up_to_the_borders(order, size):
    flat = np.broadcast_to(np.array([200, 90, 13], np.uint8), (*size, 3))
    message = pack(mosaic(flat, *MOSAICS[order]), padding=2)
    rgb = decode(**message, encoding=f"bayer_{order}8", is_bigendian=0)
    np.testing.assert_array_equal(rgb, flat)


@pytest.mark.parametrize("order", MOSAICS)
def test_a_mosaic_keeps_its_samples_and_interpolates_a_ramp_exactly(order):
    rows, columns = np.indices((10, 12))
    ramp = np.stack([4 * rows + 2 * columns, 200 - 6 * columns, 8 * rows + 16], -1).astype(np.uint8)
    raw = mosaic(ramp, *MOSAICS[order])
    rgb = decode(**pack(raw), encoding=f"bayer_{order}8", is_bigendian=0)
    np.testing.assert_array_equal(mosaic(rgb, *MOSAICS[order]), raw)
    np.testing.assert_array_equal(rgb[1:-1, 1:-1], ramp[1:-1, 1:-1])


def yuv_of(red, green, blue):
    """BT.601 video range of one colour, as the standard states it."""
    y = 16 + 219 / 255 * (0.299 * red + 0.587 * green + 0.114 * blue)
    u = 128 + 224 / 255 / 1.772 * (blue - (0.299 * red + 0.587 * green + 0.114 * blue))
    v = 128 + 224 / 255 / 1.402 * (red - (0.299 * red + 0.587 * green + 0.114 * blue))
    return np.round([y, u, v]).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("uyvy", "uyvy"),
        ("yuv422", "uyvy"),
        ("yuyv", "yuyv"),
        ("yuv422_yuy2", "yuyv"),
        ("yvyu", "yvyu"),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_yuv_pairs_give_back_their_colours(encoding, order, padding):
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 180, 40)]
    samples = np.empty((2, 12, 2), np.uint8)
    for pair, colour in enumerate(colours):
        y, u, v = yuv_of(*colour)
        four = {"uyvy": (u, y, v, y), "yuyv": (y, u, y, v), "yvyu": (y, v, y, u)}[order]
        samples[:, 2 * pair : 2 * pair + 2] = np.reshape(four, (2, 2))
    rgb = decode(**pack(samples, padding=padding), encoding=encoding, is_bigendian=0)
    expected = np.broadcast_to(np.repeat(colours, 2, 0), (2, 12, 3))
    np.testing.assert_allclose(rgb.astype(int), expected, atol=2)  # 8-bit chroma: 1/2 * 255/224*1.8


def test_each_pixel_of_a_yuv_pair_has_its_own_brightness():
    samples = np.array([[[128, 16], [128, 235]]], np.uint8)
    rgb = decode(**pack(samples), encoding="uyvy", is_bigendian=0)
    np.testing.assert_array_equal(rgb, [[[0, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.frombuffer])
def test_any_buffer_will_do_and_plain_rgb_is_not_copied(kind):
    octets = IMAGE.tobytes()
    data = np.frombuffer(octets, np.uint8) if kind is np.frombuffer else kind(octets)
    rgb = decode(data, encoding="rgb8", height=6, width=8, step=24, is_bigendian=0)
    np.testing.assert_array_equal(rgb, IMAGE)
    assert np.shares_memory(rgb, np.frombuffer(data, np.uint8))


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", LAYOUTS)
def test_short_data_and_small_steps_are_refused(encoding):
    layout = LAYOUTS[encoding]
    row = 8 * layout.samples * int(layout.sample[1])
    good: dict[str, Any] = {
        "encoding": encoding,
        "height": 6,
        "width": 8,
        "step": row,
        "is_bigendian": 0,
    }
    assert decode(bytes(6 * row), **good).shape == (6, 8, 3)
    with pytest.raises(UserError, match="short"):
        decode(bytes(6 * row - 1), **good)
    with pytest.raises(UserError, match="short"):
        decode(b"", **good)
    with pytest.raises(UserError, match=f"step {row - 1} is too small"):
        decode(bytes(6 * row), **{**good, "step": row - 1})


@pytest.mark.parametrize(("height", "width"), [(0, 8), (6, 0), (2**32 - 1, 2**32 - 1), (6, 70000)])
def test_invalid_sizes_are_refused_before_memory_is_taken(height, width):
    with pytest.raises(UserError, match="invalid"):
        decode(b"", encoding="rgb8", height=height, width=width, step=24, is_bigendian=0)


@pytest.mark.parametrize("encoding", ["rgb8", "mono16", "bayer_rggb8", "yuyv", "nv12", "16UC3"])
def test_the_case_of_an_encoding_s_letters_does_not_matter(encoding):
    data = np.random.default_rng(0).integers(0, 256, 24 * 4 * 6, np.uint8).tobytes()
    size = {"height": 4, "width": 4, "step": 24, "is_bigendian": 0}
    expected = decode(data, encoding=encoding, **size)
    for other in (encoding.upper(), encoding.lower(), encoding.title()):
        np.testing.assert_array_equal(decode(data, encoding=other, **size), expected)


def test_an_unknown_encoding_is_named_beside_the_known():
    with pytest.raises(UnknownEncoding, match="'32FC1' is not read here: use one of rgb8, "):
        decode(bytes(99), encoding="32FC1", height=2, width=2, step=8, is_bigendian=0)


def test_half_a_pair_and_half_a_mosaic_are_refused():
    with pytest.raises(UserError, match="width of 7"):
        decode(bytes(99), encoding="uyvy", height=2, width=7, step=14, is_bigendian=0)
    with pytest.raises(UserError, match="Bayer"):
        decode(bytes(99), encoding="bayer_rggb8", height=1, width=7, step=7, is_bigendian=0)


# ---- compressed -------------------------------------------------------------------------------


def compressed(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_png_is_exact_and_jpeg_is_near():
    rows, columns = np.indices((40, 60))
    smooth = np.stack([rows * 4, columns * 4, rows + columns], -1).astype(np.uint8)
    np.testing.assert_array_equal(
        decode_compressed(compressed(Image.fromarray(smooth), "PNG")), smooth
    )
    near = decode_compressed(compressed(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(near.astype(int) - smooth).mean() < 3


def test_grey_images_of_8_and_16_bits_become_rgb():
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    rgb = decode_compressed(compressed(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(rgb[..., 1], np.round(grey / 257))
    eight = (grey >> 8).astype(np.uint8)
    rgb = decode_compressed(compressed(Image.fromarray(eight), "PNG"))
    np.testing.assert_array_equal(rgb, eight[..., None].repeat(3, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_images_are_refused(kind):
    whole = compressed(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    for length in (20, len(whole) // 2, len(whole) - 40):
        with pytest.raises(UserError, match="broken|neither"):
            decode_compressed(whole[:length])


def test_data_that_is_not_an_image_is_refused():
    for data in (b"", b"hello", bytes(1000)):
        with pytest.raises(UserError, match="neither JPEG nor PNG"):
            decode_compressed(data)
    with pytest.raises(UserError, match="invalid"):
        decode_compressed(compressed(Image.new("1", (70000, 3)), "PNG"))
