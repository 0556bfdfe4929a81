# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whatever holds frames gives back the very pixels and nanoseconds that were put in."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.errors import UserError
from vggt_ros.tools.frames import open_source
from vggt_ros.tools.pictures import stamps_from_names
from vggt_ros.tools.source import Selection

EPOCH = 1_700_000_000_123_456_789
HEIGHT, WIDTH = 24, 32


def shade(i: int) -> np.ndarray:
    """Picture number i: one that no other is equal to, with a corner that tells its turn."""
    rgb = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    rgb[0, 0] = i
    return rgb


def save(folder: Path, names, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(shade(i)).save(folder / f"{name}{suffix}")
    return folder


def numbers(source) -> list[int]:
    """Which pictures came, by their pixels."""
    return [next(i for i in range(99) if np.array_equal(f.rgb, shade(i))) for f in source]


# ---- pictures


def test_pictures_come_in_natural_order_with_the_pixels_they_were_saved_with(tmp_path):
    source = open_source(save(tmp_path, [f"frame{i}" for i in range(12)]), rate=4.0)
    frames = list(source)
    assert [f.rgb.tolist() == shade(i).tolist() for i, f in enumerate(frames)] == [True] * 12
    assert [f.stamp_ns for f in frames] == [1 + i * 250_000_000 for i in range(12)]
    assert source.total == 12


def test_files_given_one_by_one_keep_the_order_given(tmp_path):
    save(tmp_path, "abc")
    assert numbers(open_source([tmp_path / "c.png", tmp_path / "a.png"])) == [2, 0]


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
def test_names_that_plainly_are_times_are_the_stamps(tmp_path, names, unit, stamps):
    source = open_source(save(tmp_path, names))
    assert [f.stamp_ns for f in source] == stamps
    assert source.stamps == f"file names ({unit})"


@pytest.mark.parametrize(
    "names", [["0001", "0002"], ["1700000000", "5"], ["a1", "a2"], ["1", "1."]]
)
def test_counters_are_no_times(names):
    assert stamps_from_names(names) is None


def test_a_rate_that_is_asked_for_wins_over_names(tmp_path):
    source = open_source(save(tmp_path, [str(EPOCH), str(EPOCH + 7)]), rate=1.0)
    assert [f.stamp_ns for f in source] == [1, 1 + 10**9]


def test_a_rate_that_was_assumed_is_said(tmp_path):
    assert "assumed" in open_source(save(tmp_path, "ab")).stamps


def test_a_picture_is_seen_as_its_owner_sees_it(tmp_path):
    turned, grey, clear = (tmp_path / name for name in ("turned.png", "grey.png", "clear.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    Image.fromarray(shade(3)).save(turned, exif=exif)
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(grey)
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).save(clear)
    a, b, c = (next(iter(open_source(path))).rgb for path in (turned, grey, clear))
    np.testing.assert_array_equal(a, np.rot90(shade(3), -1))
    np.testing.assert_array_equal(b[0, :, 0], [0, 1, 255])
    np.testing.assert_array_equal(c[0, :, 0], [255, 9])


def test_a_broken_picture_is_named_and_passed_by(tmp_path):
    save(tmp_path, "abc")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    source = open_source(tmp_path)
    assert numbers(source) == [0, 2]
    assert [s.name for s in source.skipped] == ["b.png"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no pictures"),
        ("outer", "there are some in"),
        ("broken", "can be read"),
        ("text.txt", "no picture, video or bag"),
        ("cut.mp4", "no picture, video or bag"),
        ("empty.mcap", "cannot be read as a bag"),
    ],
)
def test_what_holds_no_frames_is_refused_in_one_line(tmp_path, name, said):
    for folder in ("empty", "outer", "broken"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "outer" / "inner", "a")
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.mcap").touch()
    film(tmp_path / "whole.mp4", [0, 1, 2], codec="mpeg4", pix_fmt="yuv420p")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-400])
    with pytest.raises(UserError, match=said) as caught:
        list(open_source(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"topic": "/image"}, "--topic"),
        ({"rate": 0.0}, "--rate"),
        ({"selection": Selection(every=0)}, "--every"),
        ({"selection": Selection(limit=0)}, "--max-frames"),
        ({"selection": Selection(start=2.0, stop=1.0)}, "--start"),
    ],
)
def test_an_option_without_a_meaning_is_refused_by_its_name(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        open_source(save(tmp_path, "ab"), **options)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("stop", [None, 1.5])
@pytest.mark.parametrize("limit", [None, 4])
def test_a_selection_is_a_slice_of_the_whole(tmp_path, every, start, stop, limit):
    folder = save(tmp_path, [f"{i:03d}" for i in range(20)])
    source = open_source(folder, rate=10.0, selection=Selection(every, start, stop, limit))
    last = 20 if stop is None else int(stop * 10)
    expected = list(range(20))[int(start * 10) : last : every][:limit]
    assert numbers(source) == expected
    assert source.total in (None, len(expected))


def test_a_start_behind_the_end_is_said(tmp_path):
    with pytest.raises(UserError, match="ends before"):
        list(open_source(save(tmp_path, "ab"), selection=Selection(start=60.0)))


# ---- videos


def film(path: Path, pts_ms, *, codec: str = "ffv1", pix_fmt: str = "bgr0") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for i, pts in enumerate(pts_ms):
            picture = av.VideoFrame.from_ndarray(shade(i), format="rgb24")
            picture.pts, picture.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def test_a_video_keeps_pixels_and_uneven_times(tmp_path):
    times = [40, 73, 107, 140, 300]
    frames = list(open_source(film(tmp_path / "a.mkv", times)))
    assert [f.stamp_ns for f in frames] == [t * 1_000_000 for t in times]
    assert numbers(frames) == [0, 1, 2, 3, 4]


def test_a_video_that_starts_at_zero_starts_a_nanosecond_later(tmp_path):
    frames = list(open_source(film(tmp_path / "a.mkv", [0, 40])))
    assert [f.stamp_ns for f in frames] == [1, 40_000_001]


def test_a_video_cut_short_gives_its_beginning(tmp_path):
    whole = film(tmp_path / "a.mkv", range(0, 400, 10)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    got = numbers(open_source(tmp_path / "cut.mkv"))
    assert got == list(range(len(got))) and 10 < len(got) < 30


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_a_video_from_a_phone_is_turned_upright(tmp_path, degrees, turns):
    path = film(tmp_path / "a.mp4", [0], codec="mpeg4", pix_fmt="yuv420p")
    flat = next(iter(open_source(path))).rgb
    data = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000], ">i4") << 16
    at = data.index(b"tkhd") + 44  # the track's 3x3 display matrix
    data[at : at + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(next(iter(open_source(path))).rgb, np.rot90(flat, turns))


def test_times_of_a_video_are_its_own(tmp_path):
    with pytest.raises(UserError, match="--every"):
        open_source(film(tmp_path / "a.mkv", [0]), rate=5.0)


# ---- bags

ROS = get_typestore(Stores.ROS2_JAZZY)
T: Any = ROS.types
KINDS = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]
K = np.array([30.0, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1])


def header(stamp_ns: int, frame_id: str = "cam_optical"):
    stamp = T["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return T["std_msgs/msg/Header"](stamp, frame_id)


def image(i: int, stamp_ns: int):
    data = shade(i)[..., ::-1].reshape(-1)
    step = 3 * WIDTH
    return T["sensor_msgs/msg/Image"](header(stamp_ns), HEIGHT, WIDTH, "bgr8", 0, step, data)


def compressed(i: int, stamp_ns: int):
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(shade(i)).save(file, "png")
    data = np.frombuffer(file.getvalue(), np.uint8)
    return T["sensor_msgs/msg/CompressedImage"](header(stamp_ns), "rgb8; png compressed", data)


def camera_info(scale: int = 1, frame_id: str = "cam_optical"):
    k = K * [scale, 1, scale, 1, scale, scale, 1, 1, 1]
    k[2], k[5] = (K[2] + 0.5) * scale - 0.5, (K[5] + 0.5) * scale - 0.5
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    p = np.eye(3, 4) * [[7.0], [7.0], [1.0]]
    return T["sensor_msgs/msg/CameraInfo"](
        header(EPOCH, frame_id), HEIGHT * scale, WIDTH * scale, "plumb_bob", np.zeros(5), k,
        np.eye(3).reshape(-1), p.reshape(-1), 0, 0, roi,
    )  # fmt: skip


def bag(path: Path, topics: dict, kind=StoragePlugin.MCAP, *, zipped: bool = False) -> Path:
    """Topics by name, each a list of messages, recorded a second after they were stamped."""
    writer = Writer(path, version=9, storage_plugin=kind)
    if zipped:
        mode = CompressionMode.STORAGE if kind is StoragePlugin.MCAP else CompressionMode.MESSAGE
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in topics.items():
            kind_of = messages[0].__msgtype__
            connection = writer.add_connection(topic, kind_of, typestore=ROS)
            for i, message in enumerate(messages):
                raw = ROS.serialize_cdr(message, kind_of)
                writer.write(connection, EPOCH + i * 10**8 + 10**9, raw)
    return path


STAMPS = [EPOCH + i * 10**8 for i in range(5)]
IMAGES = [image(i, stamp) for i, stamp in enumerate(STAMPS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("message", [image, compressed])
def test_a_bag_keeps_pixels_stamps_frame_and_calibration(tmp_path, kind, message):
    topic = "/cam/image_raw" + ("" if message is image else "/compressed")
    messages = [message(i, stamp) for i, stamp in enumerate(STAMPS)]
    path = bag(tmp_path / "bag", {topic: messages, "/cam/camera_info": [camera_info()]}, kind)
    source = open_source(path)
    frames = list(source)
    assert source.total == 5 and numbers(frames) == [0, 1, 2, 3, 4]
    assert [f.stamp_ns for f in frames] == STAMPS
    for frame in frames:
        assert frame.camera == "cam_optical"
        np.testing.assert_array_equal(frame.intrinsics, K.reshape(3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_of_compressed_messages_is_read(tmp_path, kind):
    path = bag(tmp_path / "bag", {"/image": IMAGES}, kind, zipped=True)
    assert numbers(open_source(path)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_bag_that_lost_its_end_gives_its_beginning_and_says_so(tmp_path, kind, whole):
    many = [image(i % 5, EPOCH + i) for i in range(100)]
    for message in many:  # as tall as it takes for a file of several chunks
        message.height, message.data = 16 * HEIGHT, np.tile(message.data, 16)
    path = bag(
        tmp_path / "bag", {"/cam/image_raw": many, "/cam/camera_info": [camera_info()]}, kind
    )
    file = next(p for p in path.iterdir() if p.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    if not whole:
        (path / "metadata.yaml").unlink()
    source = open_source(path)
    stamps = [f.stamp_ns for f in source]
    assert stamps == [EPOCH + i for i in range(len(stamps))]
    assert 25 < len(stamps) < 61  # an mcap is written in chunks
    assert any("not whole" in note for note in source.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_without_metadata_is_still_a_bag(tmp_path, kind):
    path = bag(tmp_path / "bag", {"/image": IMAGES}, kind)
    (path / "metadata.yaml").unlink()
    assert numbers(open_source(path)) == [0, 1, 2, 3, 4]


def test_a_storage_file_alone_is_a_bag(tmp_path):
    path = bag(tmp_path / "bag", {"/image": IMAGES})
    assert numbers(open_source(path / "bag.mcap")) == [0, 1, 2, 3, 4]


def test_of_several_topics_one_must_be_chosen(tmp_path):
    path = bag(tmp_path / "bag", {"/left/image": IMAGES, "/right/image": IMAGES[::-1]})
    with pytest.raises(UserError, match=r"--topic .*/left/image .*/right/image"):
        open_source(path)
    with pytest.raises(UserError, match=r"no image topic /up.*/left/image"):
        open_source(path, topic="/up")
    assert numbers(open_source(path, topic="right/image")) == [4, 3, 2, 1, 0]


def test_one_camera_recorded_raw_and_compressed_is_one_topic(tmp_path):
    both = {"/image/compressed": [compressed(1, EPOCH)], "/image": IMAGES}
    assert numbers(open_source(bag(tmp_path / "bag", both))) == [0, 1, 2, 3, 4]


def test_a_bag_without_images_names_what_it_has(tmp_path):
    path = bag(tmp_path / "bag", {"/cam/camera_info": [camera_info()]})
    with pytest.raises(UserError, match="no image topic; its topics: /cam/camera_info"):
        open_source(path)


def test_images_without_stamps_take_the_time_of_recording_and_say_so(tmp_path):
    source = open_source(bag(tmp_path / "bag", {"/image": [image(i, 0) for i in range(3)]}))
    assert [f.stamp_ns for f in source] == [EPOCH + 10**9 + i * 10**8 for i in range(3)]
    assert sum("time of recording" in n or "times of recording" in n for n in source.notes) == 1


@pytest.mark.parametrize(
    ("image_topic", "info_topic", "info", "expected"),
    [
        ("/cam/image_raw", "/elsewhere/info", camera_info(), K),  # found by its frame_id
        ("/cam/image_raw", "/cam/camera_info", camera_info(scale=2), K),  # of a resized picture
        ("/cam/image_rect", "/cam/camera_info", camera_info(), np.diag([7.0, 7, 1]).reshape(-1)),
        ("/cam/image_raw", "/elsewhere/info", camera_info(frame_id="other"), None),
    ],
)
def test_the_calibration_is_that_of_the_picture(tmp_path, image_topic, info_topic, info, expected):
    frame = next(
        iter(open_source(bag(tmp_path / "bag", {image_topic: IMAGES, info_topic: [info]})))
    )
    if expected is None or frame.intrinsics is None:
        assert frame.intrinsics is expected is None
    else:
        np.testing.assert_allclose(frame.intrinsics, expected.reshape(3, 3), atol=1e-9)


def test_a_broken_image_in_a_bag_is_passed_by(tmp_path):
    broken = image(1, STAMPS[1])
    broken.encoding = "nonsense8"
    source = open_source(bag(tmp_path / "bag", {"/image": [IMAGES[0], broken, IMAGES[2]]}))
    assert numbers(source) == [0, 2]
    assert "nonsense8" in source.skipped[0].reason


def test_a_message_that_is_none_is_passed_by(tmp_path):
    path = tmp_path / "bag"
    with Writer(path, version=9) as writer:
        kind = IMAGES[0].__msgtype__
        connection = writer.add_connection("/image", kind, typestore=ROS)
        for i, message in enumerate(IMAGES):
            raw = bytes(ROS.serialize_cdr(message, kind))
            writer.write(connection, EPOCH + i, raw[:60] if i == 1 else raw)
    source = open_source(path)
    assert numbers(source) == [0, 2, 3, 4]
    assert [s.name for s in source.skipped] == ["image 1"]
