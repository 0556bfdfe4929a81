# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compressed images: codecs, the text that says of what they are, and data that ends early."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image
from test_encodings import IMAGE, MOSAICS, compressed, mosaic

from vggt_ros.errors import UserError
from vggt_ros.imaging.encodings import decode_compressed
from vggt_ros.imaging.transport import Format, unpack, with_end

RNG = np.random.default_rng(11)
ROWS, COLUMNS = np.indices((48, 64))
SMOOTH = np.stack([ROWS * 4, COLUMNS * 3, ROWS + COLUMNS], -1).astype(np.uint8)
FLAT = np.broadcast_to(np.array([200, 90, 13], np.uint8), (16, 24, 3))


def wide(rgb: np.ndarray, codec: str, pix_fmt: str) -> bytes:
    """Colours of 16 bits in a file of this codec; Pillow writes none."""
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = rgb.shape[:2]
    encoder.pix_fmt, encoder.time_base = pix_fmt, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb, "<u2"), format="rgb48le")
    packets = [*encoder.encode(frame.reformat(format=pix_fmt)), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


# ---- the text `format` --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "", "")),
        ("jpeg", ("jpeg", "jpeg", "")),
        ("rgb8; jpeg compressed bgr8", ("rgb8", "jpeg compressed bgr8", "bgr8")),
        ("mono16; png compressed ", ("mono16", "png compressed", "")),
        ("BAYER_RGGB8; JPEG compressed Mono8", ("bayer_rggb8", "jpeg compressed mono8", "mono8")),
    ],
)
def test_the_text_is_read_in_parts(text, expected):
    assert Format.of(text) == expected


@pytest.mark.parametrize("order", MOSAICS)
@pytest.mark.parametrize(
    "text",
    ["bayer_{}8; png compressed ", "bayer_{0}8; png compressed bayer_{0}8", "bayer_{}8",
     "bayer_{}16; png compressed"],
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_a_single_channel_of_a_bayer_camera_is_a_mosaic(order, text, bits):
    raw = mosaic(FLAT, *MOSAICS[order])
    if bits == 16:
        raw = raw.astype(np.uint16) * 257
    rgb = decode_compressed(compressed(Image.fromarray(raw), "PNG"), text.format(order))
    np.testing.assert_array_equal(rgb, FLAT)


def test_a_mosaic_through_jpeg_is_one_too():
    data = compressed(Image.fromarray(mosaic(FLAT, 0, 0)), "JPEG", quality=100)
    rgb = decode_compressed(data, "bayer_rggb8; jpeg compressed bayer_rggb8")
    np.testing.assert_allclose(rgb.astype(int), FLAT, atol=3)


@pytest.mark.parametrize(
    "text", ["", "jpeg", "mono8; png compressed ", "bayer_rggb8; jpeg compressed mono8",
             "bayer_xxxx8; png compressed"],
)  # fmt: skip
def test_any_other_single_channel_is_grey(text):
    grey = SMOOTH[..., 0]
    rgb = decode_compressed(compressed(Image.fromarray(grey), "PNG"), text)
    np.testing.assert_array_equal(rgb, grey[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    "text", ["bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; png compressed",
             "rgb8; jpeg compressed rgb8", "rgb8; png compressed ", "bgr8; jpeg compressed bgr8"],
)  # fmt: skip
def test_colours_are_those_of_the_file(text):
    data = compressed(Image.fromarray(SMOOTH), "PNG")
    np.testing.assert_array_equal(decode_compressed(data, text), SMOOTH)


def test_the_encoding_of_the_samples_is_that_of_what_the_camera_sent():
    grey = np.arange(512, dtype=np.uint16).reshape(16, 32)
    samples, encoding = unpack(compressed(Image.fromarray(grey), "PNG"), "bayer_gbrg16; png")
    np.testing.assert_array_equal(samples, grey)
    assert encoding == "bayer_gbrg16"


# ---- codecs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(
    ("text", "exchanged"),
    [("tiff", False), ("bgr8; tiff compressed ", False), ("rgb8; tiff compressed ", True),
     ("rgba8; tiff compressed", True), ("rgb8; tiff compressed bgr8", False)],
)  # fmt: skip
def test_tiff_is_read_and_the_transport_s_exchange_of_red_and_blue_undone(
    compression, text, exchanged
):
    data = compressed(Image.fromarray(SMOOTH), "TIFF", compression=compression)
    expected = SMOOTH[..., ::-1] if exchanged else SMOOTH
    np.testing.assert_array_equal(decode_compressed(data, text), expected)


def test_tiff_and_webp_keep_grey_and_colours():
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    rgb = decode_compressed(compressed(Image.fromarray(grey), "TIFF"), "mono16; tiff compressed ")
    np.testing.assert_array_equal(rgb[..., 1], np.round(grey / 257))
    data = compressed(Image.fromarray(SMOOTH), "WEBP", lossless=True)
    np.testing.assert_array_equal(decode_compressed(data, "webp"), SMOOTH)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("png", "rgb48be"), ("png", "rgba64be"), ("tiff", "rgb48le")]
)
def test_colours_keep_all_of_16_bits(codec, pix_fmt):
    rgb = RNG.integers(0, 65536, (12, 16, 3)).astype(np.uint16)
    samples, encoding = unpack(wide(rgb, codec, pix_fmt), f"rgb16; {codec} compressed bgr16")
    assert encoding == "rgb16"
    np.testing.assert_array_equal(samples, rgb)


@pytest.mark.parametrize(("number", "words"), [(np.float32, "32FC1"), (np.int32, "32SC1")])
def test_numbers_that_are_no_brightness_are_refused(number, words):
    data = compressed(Image.fromarray(np.full((8, 8), 1e6, number)), "TIFF")
    with pytest.raises(UserError, match=words):
        decode_compressed(data, "32FC1; tiff compressed ")


@pytest.mark.parametrize("text", ["h264", "h265", "hevc", "avif", "", "rgb8; svt compressed"])
def test_what_is_not_read_is_refused_by_its_own_format_with_the_cure(text):
    video = b"\x00\x00\x00\x01\x67\x42" + bytes(range(200))
    with pytest.raises(UserError) as refused:
        decode_compressed(video, text)
    assert f"format '{text}'" in str(refused.value)
    assert "ros2 run image_transport republish" in str(refused.value)


def test_compressed_depth_is_refused_as_depth():
    data = bytes(12) + compressed(Image.fromarray(np.ones((8, 8), np.uint16)), "PNG")
    with pytest.raises(UserError, match="'16UC1; compressedDepth png' is a depth image"):
        decode_compressed(data, "16UC1; compressedDepth png")


# ---- JPEG without its end -----------------------------------------------------------------------

WHOLE = {
    "smooth": compressed(Image.fromarray(SMOOTH), "JPEG"),
    "noise": compressed(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG"),
    "white": compressed(Image.new("RGB", (64, 48), "white"), "JPEG"),
    "grey": compressed(Image.fromarray(SMOOTH[..., 0]), "JPEG"),
    "odd size": compressed(Image.fromarray(SMOOTH[:33, :41]), "JPEG", subsampling=0),
    "tiny": compressed(Image.fromarray(SMOOTH[:3, :41]), "JPEG"),
    "progressive": compressed(Image.fromarray(SMOOTH), "JPEG", progressive=True),
    "restarts": compressed(Image.fromarray(SMOOTH), "JPEG", restart_marker_rows=1),
    "a whole JPEG within": compressed(
        Image.fromarray(SMOOTH), "JPEG", comment=compressed(Image.fromarray(IMAGE), "JPEG")
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("end", [b"", b"\xff", bytes(7)])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(kind, end):
    whole = WHOLE[kind]
    assert whole.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(
        decode_compressed(whole[:-2] + end, "jpeg"), decode_compressed(whole, "jpeg")
    )


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("end", [b"", b"\0" * 9])
def test_a_whole_jpeg_is_decoded_as_it_is(kind, end):
    data = WHOLE[kind] + end
    assert with_end(data) is data


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_a_jpeg_whose_rows_are_missing_is_refused(kind, kept):
    whole = WHOLE[kind]
    scan = whole.rfind(b"\xff\xda") + 14
    cut = whole[: scan + int(kept * (len(whole) - scan))]
    with pytest.raises(UserError, match="is broken: the JPEG ends before its last rows"):
        decode_compressed(cut, "jpeg")


def test_an_end_marker_is_not_added_to_other_files():
    for kind in ("PNG", "TIFF", "WEBP"):
        data = compressed(Image.fromarray(SMOOTH), kind)
        assert with_end(data) is data
    assert with_end(b"") == b"" and with_end(b"\xff\xd8") == b"\xff\xd8"
    empty = BytesIO()
    assert with_end(empty.getvalue()) == b""
