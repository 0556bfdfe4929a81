# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Samples of 16 bits: the camera's own bits, and what is said where they are not known."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_encodings import IMAGE, compressed, pack

from vggt_ros.imaging.reader import ImageReader
from vggt_ros.imaging.sixteen_bits import WATCHED

RAMP = np.arange(0, 65536, dtype=np.uint16).reshape(256, 256)


def raw(reader: ImageReader, samples: np.ndarray, encoding: str = "mono16") -> np.ndarray:
    fields: dict[str, Any] = pack(samples.astype("<u2"))
    return reader.raw(**fields, encoding=encoding, is_bigendian=0)


def watched(samples: np.ndarray, encoding: str = "mono16", **options) -> list[str]:
    """What is said of a camera that sends this image again and again."""
    reader = ImageReader(**options)
    for _ in range(2 * WATCHED):
        raw(reader, samples, encoding)
    return reader.notices


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("black", [0, 29315])
def test_the_range_of_the_bits_becomes_all_levels(bits, black):
    rgb = raw(ImageReader(bits, black), RAMP)
    top = 2**bits - 1
    expected = np.round((RAMP.astype(float) - black).clip(0, top) * 255 / top)
    np.testing.assert_array_equal(rgb, expected[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    "encoding", ["mono16", "16UC1", "rgb16", "bgra16", "16UC3", "bayer_grbg16"]
)
def test_bits_count_for_grey_colours_and_mosaics_alike(encoding):
    grey = RNG_12.copy()
    if not encoding.startswith(("mono", "16UC1", "bayer")):
        grey = grey[..., None].repeat(4 if "a16" in encoding else 3, -1)
    twelve = raw(ImageReader(12), grey, encoding)
    full = raw(ImageReader(), grey * 16 + grey // 256, encoding)  # the same share of 65535
    assert np.abs(twelve.astype(int) - full).max() <= 1 and twelve.max() > 240


RNG_12 = np.random.default_rng(3).integers(0, 4096, (32, 48)).astype(np.uint16)


def test_brightness_never_follows_the_content():
    for reader in (ImageReader(), ImageReader(12)):
        first = raw(reader, np.full((8, 8), 1000))
        for _ in range(2 * WATCHED):
            raw(reader, RAMP[:9, :9])
        np.testing.assert_array_equal(raw(reader, np.full((8, 8), 1000)), first)


@pytest.mark.parametrize(("bits", "levels"), [(10, 5), (12, 17), (14, 65)])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "rgba16"])
def test_few_bits_are_said_once_with_their_cure(bits, levels, encoding):
    top = 2**bits - 1
    samples = np.linspace(0, top, 64 * 96).astype(np.uint16).reshape(64, 96)
    samples[5:, 0] = 65535  # dead pixels of a column
    samples[6:, 0] = top
    if encoding == "rgba16":
        samples = np.stack([samples, samples, samples, np.full_like(samples, 65535)], -1)
    (notice,) = watched(samples, encoding)
    assert notice.startswith("images of 16 bits stay dark")
    assert f"leaves {levels} of 256 levels" in notice.replace(f"{levels - 1} of", f"{levels} of")
    assert "set mono16_bits to them" in notice


def test_a_thermal_camera_with_an_offset_is_told_of_black():
    samples = np.linspace(29_000, 31_000, 64 * 96).astype(np.uint16).reshape(64, 96)
    (notice,) = watched(samples)
    assert "lie between 2900" in notice and "leaves 9 of 256 levels" in notice
    assert "mono16_black below 2900" in notice and "mono16_bits to 11 or more" in notice
    assert not watched(samples, bits=11, black=29_000)


@pytest.mark.parametrize("options", [{"bits": 16}, {"bits": 12}])
def test_bits_that_are_given_are_not_doubted(options):
    assert not watched(RNG_12 // 16, **options)


def test_images_that_use_their_range_are_not_noticed():
    assert not watched(RAMP)
    reader = ImageReader()  # dark at first, as behind a lens cap
    for _ in range(WATCHED - 1):
        raw(reader, RNG_12)
    for _ in range(WATCHED):
        raw(reader, RAMP)
    assert not reader.notices


@pytest.mark.parametrize(
    ("options", "words"),
    [({"bits": 10}, "outside 0 to 1023"), ({"bits": 12, "black": 2000}, "outside 2000 to 6095")],
)
def test_samples_outside_the_given_range_are_noticed_once(options, words):
    (notice,) = watched(RNG_12, **options)
    assert notice.startswith("mono16_bits and mono16_black do not fit") and words in notice
    assert "the highest is 40" in notice


def test_bits_count_for_compressed_images_too():
    data = compressed(Image.fromarray(RNG_12), "PNG")
    found = ImageReader(12).compressed(data, "mono16; png compressed ")
    np.testing.assert_array_equal(found, raw(ImageReader(12), RNG_12))


def test_the_bits_that_jpeg_drops_are_said_once():
    reader = ImageReader()
    grey = compressed(Image.fromarray(IMAGE[..., 0]), "JPEG")
    for text in ("mono8; jpeg compressed mono8", "jpeg", *3 * ["mono16; jpeg compressed mono8"]):
        reader.compressed(grey, text)
    (notice,) = reader.notices
    assert notice.startswith("images of 16 bits arrive with 8") and "png" in notice


def test_what_is_assumed_is_added_to_the_caller_s_list():
    notices = ["first"]
    reader = ImageReader(notices=notices)
    for _ in range(2):
        reader.raw(**pack(IMAGE), encoding="8UC3", is_bigendian=0)
    assert len(notices) == 2 and "8UC3" in notices[1]
