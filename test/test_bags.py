# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags: pixels, stamps, frame ids and calibration; also of truncated bags."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tagged_images import EPOCH, HEIGHT, WIDTH, tagged_image, tags
from test_encodings import mosaic

from vggt_ros.errors import UserError
from vggt_ros.imaging.sixteen_bits import WATCHED
from vggt_ros.tools.sources.open import open_source

ROS = get_typestore(Stores.ROS2_JAZZY)
T: Any = ROS.types
KINDS = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]
K = np.array([30.0, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1])


def header(stamp_ns: int, frame_id: str = "cam_optical"):
    stamp = T["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return T["std_msgs/msg/Header"](stamp, frame_id)


def image(i: int, stamp_ns: int):
    data = tagged_image(i)[..., ::-1].reshape(-1)
    step = 3 * WIDTH
    return T["sensor_msgs/msg/Image"](header(stamp_ns), HEIGHT, WIDTH, "bgr8", 0, step, data)


def compressed(i: int, stamp_ns: int):
    file = BytesIO()
    Image.fromarray(tagged_image(i)).save(file, "png")
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
    assert source.total == 5 and tags(frames) == [0, 1, 2, 3, 4]
    assert [f.stamp_ns for f in frames] == STAMPS
    for frame in frames:
        assert frame.camera == "cam_optical"
        np.testing.assert_array_equal(frame.intrinsics, K.reshape(3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_of_compressed_messages_is_read(tmp_path, kind):
    path = bag(tmp_path / "bag", {"/image": IMAGES}, kind, zipped=True)
    assert tags(open_source(path)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metadata", [False, True])
def test_a_truncated_bag_is_read_up_to_the_cut_with_a_note(tmp_path, kind, metadata):
    many = [image(i % 5, EPOCH + i) for i in range(100)]
    for message in many:  # tall, so that the file has several chunks
        message.height, message.data = 16 * HEIGHT, np.tile(message.data, 16)
    path = bag(
        tmp_path / "bag", {"/cam/image_raw": many, "/cam/camera_info": [camera_info()]}, kind
    )
    file = next(p for p in path.iterdir() if p.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    if not metadata:
        (path / "metadata.yaml").unlink()
    source = open_source(path)
    stamps = [f.stamp_ns for f in source]
    assert stamps == [EPOCH + i for i in range(len(stamps))]
    assert 25 < len(stamps) < 61  # an mcap is written in chunks
    assert any("truncated" in note for note in source.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_without_metadata_is_read(tmp_path, kind):
    path = bag(tmp_path / "bag", {"/image": IMAGES}, kind)
    (path / "metadata.yaml").unlink()
    assert tags(open_source(path)) == [0, 1, 2, 3, 4]


def test_a_single_storage_file_is_read(tmp_path):
    path = bag(tmp_path / "bag", {"/image": IMAGES})
    assert tags(open_source(path / "bag.mcap")) == [0, 1, 2, 3, 4]


def test_several_image_topics_need_a_choice(tmp_path):
    path = bag(tmp_path / "bag", {"/left/image": IMAGES, "/right/image": IMAGES[2:]})
    with pytest.raises(UserError, match=r"--topic .*/left/image .*/right/image"):
        open_source(path)
    with pytest.raises(UserError, match=r"no image topic /up.*/left/image"):
        open_source(path, topic="/up")
    assert tags(open_source(path, topic="right/image")) == [2, 3, 4]


def test_a_camera_recorded_raw_and_compressed_counts_once(tmp_path):
    both = {"/image/compressed": [compressed(1, EPOCH)], "/image": IMAGES}
    assert tags(open_source(bag(tmp_path / "bag", both))) == [0, 1, 2, 3, 4]


def test_a_bag_without_images_is_refused_with_its_topics(tmp_path):
    path = bag(tmp_path / "bag", {"/cam/camera_info": [camera_info()]})
    with pytest.raises(UserError, match="no image topic; its topics: /cam/camera_info"):
        open_source(path)


def test_images_without_stamps_use_the_time_of_recording_with_a_note(tmp_path):
    source = open_source(bag(tmp_path / "bag", {"/image": [image(i, 0) for i in range(3)]}))
    assert [f.stamp_ns for f in source] == [EPOCH + 10**9 + i * 10**8 for i in range(3)]
    assert sum("times of recording" in note for note in source.notes) == 1


@pytest.mark.parametrize(
    ("image_topic", "info_topic", "info", "expected"),
    [
        ("/cam/image_raw", "/elsewhere/info", camera_info(), K),  # found by its frame_id
        ("/cam/image_raw", "/cam/camera_info", camera_info(scale=2), K),  # of a resized image
        ("/cam/image_rect", "/cam/camera_info", camera_info(), np.diag([7.0, 7, 1]).reshape(-1)),
        ("/cam/image_raw", "/elsewhere/info", camera_info(frame_id="other"), None),
    ],
)
def test_the_calibration_fits_the_image(tmp_path, image_topic, info_topic, info, expected):
    frame = next(
        iter(open_source(bag(tmp_path / "bag", {image_topic: IMAGES, info_topic: [info]})))
    )
    if expected is None or frame.intrinsics is None:
        assert frame.intrinsics is expected is None
    else:
        np.testing.assert_allclose(frame.intrinsics, expected.reshape(3, 3), atol=1e-9)


def test_a_bag_s_lens_is_undone_and_its_region_of_interest_is_no_resize(tmp_path):
    info = camera_info(scale=2)
    info.d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
    info.roi = T["sensor_msgs/msg/RegionOfInterest"](4, 6, HEIGHT, WIDTH, True)
    topics = {"/cam/image_raw": IMAGES, "/cam/camera_info": [info]}
    source = open_source(bag(tmp_path / "bag", topics))
    frame = next(iter(source))
    assert frame.rectification is not None
    expected = info.k.reshape(3, 3) - [[0, 0, 4], [0, 0, 6], [0, 0, 0]]
    np.testing.assert_allclose(frame.rectification.raw, expected)
    assert any("rectified here (plumb_bob, 5 coefficients)" in note for note in source.notes)
    as_it_comes = next(iter(open_source(tmp_path / "bag", rectify="off")))
    assert as_it_comes.rectification is None


def test_a_calibration_file_takes_the_place_of_the_bag_s(tmp_path):
    topics = {"/cam/image_raw": IMAGES, "/cam/camera_info": [camera_info()]}
    path, file = bag(tmp_path / "bag", topics), tmp_path / "camera.yaml"
    lines = [f"image_width: {WIDTH}", f"image_height: {HEIGHT}", "distortion_model: equidistant"]
    for name, data in {
        "camera_matrix": [9.0, 0, 8, 0, 9, 6, 0, 0, 1],
        "distortion_coefficients": [0.01, 0.0, 0.0, 0.0],
    }.items():
        lines.append(f"{name}: {{data: {data}}}")
    file.write_text("\n".join(lines))
    frame = next(iter(open_source(path, camera_info=file)))
    assert frame.intrinsics is not None and frame.intrinsics[0, 0] == 9.0
    assert frame.rectification is not None and frame.rectification.lens.is_fisheye
    file.write_text("a: [")
    with pytest.raises(UserError, match="camera.yaml is not used"):
        open_source(path, camera_info=file)
    with pytest.raises(UserError, match="cannot read"):
        open_source(path, camera_info=tmp_path / "none.yaml")


def test_an_image_of_unknown_encoding_is_skipped(tmp_path):
    broken = image(1, STAMPS[1])
    broken.encoding = "nonsense8"
    source = open_source(bag(tmp_path / "bag", {"/image": [IMAGES[0], broken, IMAGES[2]]}))
    assert tags(source) == [0, 2]
    assert "nonsense8" in source.skipped[0].reason


def test_an_encoding_without_colours_is_read_with_one_note(tmp_path):
    images = [image(i, stamp) for i, stamp in enumerate(STAMPS[:3])]
    for message in images:
        message.encoding = "8UC3"
    source = open_source(bag(tmp_path / "bag", {"/image": images}))
    swapped = [frame.rgb[..., ::-1] for frame in source]
    for rgb, message in zip(swapped, images, strict=True):
        np.testing.assert_array_equal(rgb.ravel(), message.data)
    assert [note for note in source.notes if "8UC3" in note] == [
        "encoding 8UC3 names no colours: read as bgr8; set it in the driver if not"
    ]


def packed(i: int, pixels: np.ndarray, kind: str, format: str):
    """A message of one picture, compressed."""
    message, file = compressed(0, EPOCH + i), BytesIO()
    Image.fromarray(pixels).save(file, kind)
    message.format, message.data = format, np.frombuffer(file.getvalue(), np.uint8)
    return message


@pytest.mark.parametrize("wide", [False, True])
def test_a_compressed_mosaic_is_read_in_its_colours(tmp_path, wide):
    flat = np.broadcast_to(np.array([200, 90, 13], np.uint8), (HEIGHT, WIDTH, 3))
    raw = mosaic(flat, 1, 1)
    raw = raw.astype(np.uint16) * 257 if wide else raw
    message = packed(0, raw, "PNG", f"bayer_bggr{16 if wide else 8}; png compressed ")
    (frame,) = open_source(bag(tmp_path / "bag", {"/image/compressed": [message]}))
    np.testing.assert_array_equal(frame.rgb, flat)


def test_a_jpeg_without_its_end_is_read_and_a_video_is_refused_by_its_format(tmp_path):
    messages = [packed(i, tagged_image(i), "JPEG", "jpeg") for i in range(3)]
    expected = [f.rgb for f in open_source(bag(tmp_path / "whole", {"/image": messages}))]
    for message in messages:
        message.data = message.data[:-2]
    messages[1].data, messages[1].format = np.arange(99, dtype=np.uint8), "h264"
    source = open_source(bag(tmp_path / "cut", {"/image": messages}))
    frames = [f.rgb for f in source]
    np.testing.assert_array_equal(frames, [expected[0], expected[2]])
    assert "format 'h264'" in source.skipped[0].reason
    assert "image_transport republish" in source.skipped[0].reason


def test_the_bits_of_a_camera_are_noted_and_can_be_given(tmp_path):
    ten = np.linspace(0, 1023, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    messages = [image(0, EPOCH + i) for i in range(WATCHED + 2)]
    for message in messages:
        message.encoding, message.step, message.data = "mono16", 2 * WIDTH, ten.view(np.uint8)
        message.data = message.data.reshape(-1)
    path = bag(tmp_path / "bag", {"/image": messages})
    unknown, known = open_source(path), open_source(path, mono16_bits=10)
    assert max(f.rgb.max() for f in unknown) == 4 and max(f.rgb.max() for f in known) == 255
    (note,) = unknown.notes
    assert note.startswith("images of 16 bits stay dark") and not known.notes


def test_a_damaged_message_is_skipped(tmp_path):
    path = tmp_path / "bag"
    with Writer(path, version=9) as writer:
        kind = IMAGES[0].__msgtype__
        connection = writer.add_connection("/image", kind, typestore=ROS)
        for i, message in enumerate(IMAGES):
            raw = bytes(ROS.serialize_cdr(message, kind))
            writer.write(connection, EPOCH + i, raw[:60] if i == 1 else raw)
    source = open_source(path)
    assert tags(source) == [0, 2, 3, 4]
    assert [s.name for s in source.skipped] == ["image 1"]
