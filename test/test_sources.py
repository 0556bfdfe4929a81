# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images and videos: pixels, stamps, selection, and messages for unreadable files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tagged_images import EPOCH, HEIGHT, WIDTH, tagged_image, tags
from test_transport import wide

from vggt_ros.errors import UserError
from vggt_ros.tools.sources.images import stamps_from_names
from vggt_ros.tools.sources.open import open_source
from vggt_ros.tools.sources.source import Selection


def save(folder: Path, names, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(tagged_image(i)).save(folder / f"{name}{suffix}")
    return folder


# ---- images


def test_images_are_read_in_natural_order(tmp_path):
    source = open_source(save(tmp_path, [f"frame{i}" for i in range(12)]), rate=4.0)
    frames = list(source)
    assert [f.rgb.tolist() == tagged_image(i).tolist() for i, f in enumerate(frames)] == [True] * 12
    assert [f.stamp_ns for f in frames] == [1 + i * 250_000_000 for i in range(12)]
    assert source.total == 12


def test_files_keep_the_order_in_which_they_are_given(tmp_path):
    save(tmp_path, "abc")
    assert tags(open_source([tmp_path / "c.png", tmp_path / "a.png"])) == [2, 0]


@pytest.mark.parametrize(
    ("names", "unit", "stamps"),
    [
        ([str(EPOCH), str(EPOCH + 1)], "ns", [EPOCH, EPOCH + 1]),
        (["1700000000123456", "1700000000123457"], "us", [EPOCH - 789, EPOCH + 211]),
        (["1700000000123", "1700000000124"], "ms", [EPOCH - 456_789, EPOCH + 543_211]),
        (["1700000000", "1700000001"], "s", [1_700_000_000 * 10**9, 1_700_000_001 * 10**9]),
        (["1700000000.123456", "1700000000.5"], "s", [EPOCH - 789, 1_700_000_000_500_000_000]),
    ],
)
def test_names_that_are_times_become_stamps(tmp_path, names, unit, stamps):
    source = open_source(save(tmp_path, names))
    assert [f.stamp_ns for f in source] == stamps
    assert source.stamps == f"file names ({unit})"


@pytest.mark.parametrize(
    "names", [["0001", "0002"], ["1700000000", "5"], ["a1", "a2"], ["1", "1."]]
)
def test_counters_are_not_times(names):
    assert stamps_from_names(names) is None


def test_a_given_rate_takes_precedence_over_names(tmp_path):
    source = open_source(save(tmp_path, [str(EPOCH), str(EPOCH + 7)]), rate=1.0)
    assert [f.stamp_ns for f in source] == [1, 1 + 10**9]


def test_the_default_rate_is_reported(tmp_path):
    assert "assumed" in open_source(save(tmp_path, "ab")).stamps


def test_orientation_16_bit_grey_and_transparency_are_applied(tmp_path):
    turned, grey, clear = (tmp_path / name for name in ("turned.png", "grey.png", "clear.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # display rotated by 90 degrees clockwise
    Image.fromarray(tagged_image(3)).save(turned, exif=exif)
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(grey)
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).save(clear)
    a, b, c = (next(iter(open_source(path))).rgb for path in (turned, grey, clear))
    np.testing.assert_array_equal(a, np.rot90(tagged_image(3), -1))
    np.testing.assert_array_equal(b[0, :, 0], [0, 1, 255])
    np.testing.assert_array_equal(c[0, :, 0], [255, 9])


def test_the_bits_of_16_bit_images_are_those_given(tmp_path):
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(grey)
    rgb = np.random.default_rng(5).integers(0, 4096, (6, 8, 3)).astype(np.uint16)
    colour.write_bytes(wide(rgb, "png", "rgb48be"))
    a, b = (next(iter(open_source(path, mono16_bits=12))).rgb for path in (grey, colour))
    np.testing.assert_array_equal(a[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(b, np.round(rgb.astype(float) * 255 / 4095))


def test_16_bit_grey_with_a_transparent_sample_keeps_its_range(tmp_path):
    grey = np.array([[0, 257, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=257)
    rgb = next(iter(open_source(tmp_path / "a.png"))).rgb
    np.testing.assert_array_equal(rgb[0, :, 0], [0, 1, 255])


def test_a_jpeg_file_without_its_end_marker_is_read(tmp_path):
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.fromarray(tagged_image(1)).save(whole)
    cut.write_bytes(whole.read_bytes()[:-2])
    a, b = (next(iter(open_source(path))).rgb for path in (whole, cut))
    np.testing.assert_array_equal(a, b)


def test_an_unreadable_image_is_skipped_and_named(tmp_path):
    save(tmp_path, "abc")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    source = open_source(tmp_path)
    assert tags(source) == [0, 2]
    assert [s.name for s in source.skipped] == ["b.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no images"),
        ("outer", "there are some in"),
        ("broken", "can be read"),
        ("text.txt", "no image, video or bag"),
        ("cut.mp4", "no image, video or bag"),
        ("empty.mcap", "cannot be read as a bag"),
    ],
)
def test_a_source_without_frames_is_refused_in_one_line(tmp_path, name, message):
    for folder in ("empty", "outer", "broken"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "outer" / "inner", "a")
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.mcap").touch()
    film(tmp_path / "whole.mp4", [0, 1, 2], codec="mpeg4", pix_fmt="yuv420p")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-400])
    with pytest.raises(UserError, match=message) as caught:
        list(open_source(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topic": "/image"}, "--topic"),
        ({"rate": 0.0}, "--rate"),
        ({"selection": Selection(every=0)}, "--every"),
        ({"selection": Selection(limit=0)}, "--max-frames"),
        ({"selection": Selection(start=2.0, stop=1.0)}, "--start"),
    ],
)
def test_invalid_options_are_refused_by_name(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        open_source(save(tmp_path, "ab"), **options)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("stop", [None, 1.5])
@pytest.mark.parametrize("limit", [None, 4])
def test_a_selection_is_a_slice_of_all_frames(tmp_path, every, start, stop, limit):
    folder = save(tmp_path, [f"{i:03d}" for i in range(20)])
    source = open_source(folder, rate=10.0, selection=Selection(every, start, stop, limit))
    last = 20 if stop is None else int(stop * 10)
    expected = list(range(20))[int(start * 10) : last : every][:limit]
    assert tags(source) == expected
    assert source.total in (None, len(expected))


def test_a_start_after_the_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="ends before"):
        list(open_source(save(tmp_path, "ab"), selection=Selection(start=60.0)))


# ---- videos


def film(path: Path, pts_ms, *, codec: str = "ffv1", pix_fmt: str = "bgr0") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for i, pts in enumerate(pts_ms):
            image = av.VideoFrame.from_ndarray(tagged_image(i), format="rgb24")
            image.pts, image.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def test_a_video_keeps_pixels_and_irregular_stamps(tmp_path):
    times = [40, 73, 107, 140, 300]
    frames = list(open_source(film(tmp_path / "a.mkv", times)))
    assert [f.stamp_ns for f in frames] == [t * 1_000_000 for t in times]
    assert tags(frames) == [0, 1, 2, 3, 4]


def test_a_video_that_starts_at_zero_is_shifted_by_a_nanosecond(tmp_path):
    frames = list(open_source(film(tmp_path / "a.mkv", [0, 40])))
    assert [f.stamp_ns for f in frames] == [1, 40_000_001]


def test_a_truncated_video_is_read_up_to_the_cut(tmp_path):
    whole = film(tmp_path / "a.mkv", range(0, 400, 10)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    numbers = tags(open_source(tmp_path / "cut.mkv"))
    assert numbers == list(range(len(numbers))) and 10 < len(numbers) < 30


def test_a_video_of_16_bit_grey_has_the_bits_given(tmp_path):
    samples = np.random.default_rng(6).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
        frame = av.VideoFrame.from_ndarray(samples, format="gray16le")
        container.mux([*stream.encode(frame), *stream.encode()])
    rgb = next(iter(open_source(tmp_path / "a.mkv", mono16_bits=12))).rgb
    np.testing.assert_array_equal(rgb[..., 1], np.round(samples.astype(float) * 255 / 4095))


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_the_rotation_of_a_video_is_applied(tmp_path, degrees, turns):
    path = film(tmp_path / "a.mp4", [0], codec="mpeg4", pix_fmt="yuv420p")
    flat = next(iter(open_source(path))).rgb
    data = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000], ">i4") << 16
    at = data.index(b"tkhd") + 44  # the track's 3x3 display matrix
    data[at : at + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(next(iter(open_source(path))).rgb, np.rot90(flat, turns))


def test_a_rate_is_refused_for_a_video(tmp_path):
    with pytest.raises(UserError, match="--every"):
        open_source(film(tmp_path / "a.mkv", [0]), rate=5.0)
