# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags as people have them: without metadata, compressed, cut, of ROS 1, with foreign channels."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore
from tagged_images import EPOCH, HEIGHT, WIDTH, tagged_image, tags
from test_bags import IMAGES, KINDS, ROS, bag, camera_info, compressed, image
from test_sources import save

from vggt_ros.errors import UserError
from vggt_ros.tools.sources.bag_reader import is_bag
from vggt_ros.tools.sources.open import open_source

# ---- what is a bag


def test_a_folder_of_pictures_with_some_other_metadata_is_no_bag(tmp_path):
    folder = save(tmp_path / "in", "ab")
    (folder / "metadata.yaml").write_text("title: a holiday\n")
    assert not is_bag(folder)
    source = open_source(folder)
    assert tags(source) == [0, 1] and "metadata.yaml" in source.notes[0]


def test_a_bag_whose_storage_is_missing_is_named(tmp_path):
    path = bag(tmp_path / "bag", {"/image": IMAGES})
    (path / "bag.mcap").unlink()
    assert is_bag(path)
    with pytest.raises(UserError, match="it has no storage file"):
        open_source(path)


def test_a_bag_in_parts_is_read_without_the_missing_one(tmp_path):
    for number in (9, 10, 11):
        part = bag(tmp_path / str(number), {"/image": [image(number - 9, EPOCH + number)]})
        (part / f"{number}.mcap").rename(tmp_path / "9" / f"part_{number}.mcap")
    listed = "".join(f"    - part_{n}.mcap\n" for n in (9, 10, 11))
    text = f"rosbag2_bagfile_information:\n  relative_file_paths:\n{listed}"
    (tmp_path / "9" / "metadata.yaml").write_text(text)
    assert tags(open_source(tmp_path / "9")) == [0, 1, 2]
    (tmp_path / "9" / "part_10.mcap").unlink()
    source = open_source(tmp_path / "9")
    assert tags(source) == [0, 2] and "without part_10.mcap, which is missing" in source.notes[0]


# ---- stamps


def test_simulated_time_from_zero_is_kept(tmp_path):
    messages = [image(i, i * 10**8) for i in range(5)]
    source = open_source(bag(tmp_path / "bag", {"/image": messages}))
    assert [f.stamp_ns for f in source] == [1 + i * 10**8 for i in range(5)]
    assert not source.notes and not source.skipped


@pytest.mark.parametrize("which", [0, 2, 4])
def test_a_lone_image_without_a_stamp_costs_itself(tmp_path, which):
    messages = [image(i, 0 if i == which else EPOCH + i * 10**8) for i in range(5)]
    source = open_source(bag(tmp_path / "bag", {"/image": messages}))
    frames = list(source)
    assert tags(frames) == [i for i in range(5) if i != which]
    assert [f.stamp_ns for f in frames] == [EPOCH + i * 10**8 for i in tags(frames)]
    (skipped,) = source.skipped
    assert (skipped.name, "not stamped" in skipped.reason) == (f"image {which}", True)


# ---- compression without its metadata


@pytest.mark.parametrize("kind", KINDS)
def test_messages_compressed_each_are_known_without_metadata(tmp_path, kind):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=kind)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/image", IMAGES[0].__msgtype__, typestore=ROS)
        for i, message in enumerate(IMAGES):
            writer.write(connection, EPOCH + i, ROS.serialize_cdr(message, message.__msgtype__))
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert tags(open_source(tmp_path / "bag")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_compressed_files_are_known_by_their_first_bytes(tmp_path, kind, metadata, renamed):
    path = bag(tmp_path / "bag", {"/image": IMAGES}, kind)
    (file,) = (p for p in path.iterdir() if p.suffix != ".yaml")
    packed = zstd.compress(file.read_bytes())
    file.unlink()
    (file if renamed else file.with_name(file.name + ".zstd")).write_bytes(packed)
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace(file.name, f"{file.name}.zstd"))
    if not metadata:
        (path / "metadata.yaml").unlink()
    assert tags(open_source(path)) == [0, 1, 2, 3, 4]


def test_a_compressed_file_that_is_cut_is_read_up_to_the_cut(tmp_path):
    rng = np.random.default_rng(0)
    many = [image(i % 5, EPOCH + i) for i in range(60)]
    for message in many:  # tall and noisy, so that the file has several chunks and zstd blocks
        message.height = 16 * HEIGHT
        message.data = rng.integers(0, 256, 16 * HEIGHT * WIDTH * 3).astype(np.uint8)
    path = bag(tmp_path / "bag", {"/image": many})
    packed = zstd.compress((path / "bag.mcap").read_bytes())
    (tmp_path / "cut.mcap.zstd").write_bytes(packed[: len(packed) // 2])
    source = open_source(tmp_path / "cut.mcap.zstd")
    stamps = [frame.stamp_ns for frame in source]
    assert stamps == [EPOCH + i for i in range(len(stamps))] and 10 < len(stamps) < 31
    assert any("truncated" in note for note in source.notes)


# ---- ROS 1

ROS1 = get_typestore(Stores.ROS1_NOETIC)


def ros1_bag(path: Path, count: int = 40, compression: str = "") -> Path:
    """A bag of ROS 1 with small chunks."""
    kinds = ROS1.types
    writer = Writer1(path)
    if compression:
        writer.set_compression(getattr(Writer1.CompressionFormat, compression))
    writer.chunk_threshold = 20_000
    with writer:
        name = "sensor_msgs/msg/Image"
        connection = writer.add_connection("/cam/image_raw", name, typestore=ROS1)
        for i in range(count):
            stamp = kinds["builtin_interfaces/msg/Time"](*divmod(EPOCH + i, 10**9))
            header = kinds["std_msgs/msg/Header"](i, stamp, "cam")
            data = tagged_image(i % 5)[..., ::-1].reshape(-1)
            message = kinds[name](header, HEIGHT, WIDTH, "bgr8", 0, 3 * WIDTH, data)
            writer.write(connection, EPOCH + i, ROS1.serialize_ros1(message, name))
    return path


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_a_bag_of_ros_1_is_read_whole_and_cut(tmp_path, compression):
    path = ros1_bag(tmp_path / "a.bag", compression=compression)
    source = open_source(path)
    frames = list(source)
    assert source.total == 40 and not source.notes
    assert [frame.stamp_ns for frame in frames] == [EPOCH + i for i in range(40)]
    assert tags(frames) == [i % 5 for i in range(40)] and frames[0].camera == "cam"
    data = path.read_bytes()
    cut = tmp_path / "cut.bag"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    source = open_source(cut)
    stamps = [frame.stamp_ns for frame in source]
    assert stamps == [EPOCH + i for i in range(len(stamps))] and 8 < len(stamps) < 40
    assert "truncated" in source.notes[0]


def test_a_bag_of_ros_1_that_was_never_closed_is_read(tmp_path):
    data = bytearray(ros1_bag(tmp_path / "a.bag").read_bytes())
    at = data.index(b"index_pos=") + 10
    (index,) = struct.unpack_from("<Q", data, at)
    data[at : at + 8] = bytes(8)
    (tmp_path / "b.bag.active").write_bytes(data[:index])
    source = open_source(tmp_path / "b.bag.active")
    assert len(list(source)) == 40 and "it was not closed" in source.notes[0]


def test_a_bag_of_ros_1_without_a_message_is_refused_with_the_advice_of_ros_1(tmp_path):
    path = ros1_bag(tmp_path / "a.bag")
    path.write_bytes(b"#ROSBAG V1.2\n" + path.read_bytes()[13:])
    with pytest.raises(UserError, match="neither mcap, db3 nor ROS 1"):
        open_source(path)
    path.write_bytes(b"#ROSBAG V2.0\n" + struct.pack("<I", 30) + b"\x05\0\0\0op=\5" + b"x" * 60)
    with pytest.raises(UserError, match="no image topic|rosbag reindex"):
        open_source(path)


# ---- foreign channels


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(body)) + body


def mcap(path: Path, *, indexed: bool) -> Path:
    """Images beside channels of JSON and protobuf, and one whose definition is broken."""
    definition, _ = ROS.generate_msgdef("sensor_msgs/msg/Image", ros_version=2)
    schemas = [
        ("foxglove.Log", "protobuf", b"\x0a\xff\xfe\x80"),
        ("thing", "jsonschema", json.dumps({"type": "object"}).encode()),
        ("a_robot/msg/Odd", "ros2msg", b"this is ] no definition\n"),
        ("sensor_msgs/msg/Image", "ros2msg", definition.encode()),
        ("b_robot/msg/Idl", "flatbuffer", b"\xc3\x28"),
    ]
    encodings, topics = (
        ("protobuf", "json", "cdr", "cdr", "flatbuffer"),
        "/log /thing /odd /image /fb",
    )
    heads = b""
    for i, (name, encoding, data) in enumerate(schemas, 1):
        heads += record(3, struct.pack("<H", i) + text(name) + text(encoding) + text(data))
    for i, (topic, encoding) in enumerate(zip(topics.split(), encodings, strict=True), 1):
        heads += record(4, struct.pack("<HH", i, i) + text(topic) + text(encoding) + text(b""))
    messages = b""
    for i, message in enumerate(IMAGES):
        for key in (1, 2, 4, 5):
            cdr = bytes(ROS.serialize_cdr(message, message.__msgtype__)) if key == 4 else b"\x80{}"
            messages += record(5, struct.pack("<HIQQ", key, i, EPOCH + i, EPOCH + i) + cdr)
    body = b"\x89MCAP0\r\n" + record(1, text("") + text("a test"))
    records = heads + messages
    start, chunk_at = EPOCH, len(body)
    chunk = struct.pack("<QQQI", start, start + 4, len(records), 0) + text("")
    chunk += struct.pack("<Q", len(records)) + records
    body += record(6, chunk) if indexed else records
    chunk_size = len(body) - chunk_at
    body += record(15, bytes(4))
    summary_at = len(body) if indexed else 0
    if indexed:
        offsets = b"".join(struct.pack("<HQ", key, 0) for key in (1, 2, 4, 5))
        index = struct.pack("<QQQQ", start, start + 4, chunk_at, chunk_size) + text(offsets)
        index += struct.pack("<Q", 0) + text("") + struct.pack("<QQ", len(records), len(records))
        counts = b"".join(struct.pack("<HQ", key, 5) for key in (1, 2, 4, 5))
        statistics = struct.pack("<QHIIIIQQ", 20, 5, 5, 0, 0, 1, start, start + 4) + text(counts)
        body += heads + record(8, index) + record(11, statistics)
    body += record(2, struct.pack("<QQI", summary_at, 0, 0)) + b"\x89MCAP0\r\n"
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("indexed", [True, False])
def test_only_the_camera_s_channel_of_an_mcap_is_interpreted(tmp_path, indexed):
    source = open_source(mcap(tmp_path / "a.mcap", indexed=indexed))
    assert source.total == 5 and tags(source) == [0, 1, 2, 3, 4] and not source.notes


def test_channels_that_are_not_read_are_listed_where_there_is_no_image(tmp_path):
    path = mcap(tmp_path / "a.mcap", indexed=True)
    path.write_bytes(path.read_bytes().replace(b"sensor_msgs/msg/Image", b"sensor_msgs/msg/Imago"))
    with pytest.raises(UserError, match=r"no image topic; .*/image, .*/log \(not of ROS\)"):
        open_source(path)


def test_a_damaged_part_of_a_bag_costs_itself(tmp_path):
    many = [image(i % 5, EPOCH + i) for i in range(300)]
    for message in many:
        message.height, message.data = 8 * HEIGHT, np.tile(message.data, 8)
    path = bag(tmp_path / "bag", {"/image": many}, zipped=True) / "bag.mcap"
    data = bytearray(path.read_bytes())
    at = data.index(b"\x28\xb5\x2f\xfd", len(data) // 3)
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    source = open_source(tmp_path / "bag")
    stamps = [frame.stamp_ns - EPOCH for frame in source]
    assert 100 < len(stamps) < 300 and stamps[0] == 0 and stamps[-1] == 299
    assert any("a part of the bag is damaged" in note for note in source.notes)


def test_a_definition_that_is_missing_or_broken_is_that_of_ros(tmp_path):
    path = bag(tmp_path / "bag", {"/cam/image/compressed": [compressed(3, EPOCH)],
                                  "/cam/camera_info": [camera_info()]})  # fmt: skip
    data = (path / "bag.mcap").read_bytes()
    (path / "bag.mcap").write_bytes(
        data.replace(b"std_msgs/Header header", b"std_msgs/[eader header")
    )
    frames = list(open_source(path))
    assert tags(frames) == [3] and frames[0].intrinsics is not None
