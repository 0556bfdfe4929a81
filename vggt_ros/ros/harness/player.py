# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plays a rosbag2 onto live topics, without `ros2 bag`.

    python -m vggt_ros.ros.harness.player BAG --loop

Messages keep their spacing and their bytes; only header stamps are moved to the present, so that a
looping clip appears as a camera that never stops.  With `--as-camera` only one camera of the bag is
played, onto `image`, decompressed, and `camera_info`.
"""

import argparse
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.utilities import remove_ros_args, try_shutdown
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.imaging.transport import unpack
from vggt_ros.tools.sources import bag_reader

Publish = Callable[[bytes], object]  # for the serialized messages of one topic
STAMP = struct.Struct("<iI")  # sec and nanosec of a leading Header
STAMP_AT = 4  # after the preamble of CDR
MAX_WARNINGS = 20  # of one bag; in a loop they would repeat for ever


class BagMessage(NamedTuple):
    """One message of a bag; `time_ns` is when it was recorded, or when it is due."""

    topic: str
    time_ns: int
    raw: bytes  # CDR
    stamped: bool  # its type starts with a Header


def main() -> None:
    """Play until the end, or with --loop until Ctrl-C, which ends without a traceback."""
    parser = argparse.ArgumentParser(description="Play a rosbag2 onto live topics.")
    parser.add_argument("bag", type=Path, help="folder of a rosbag2, or its .mcap or .db3 file")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    parser.add_argument(
        "--there-and-back", action="store_true",
        help="with --loop: every second time backwards, so that the camera never jumps",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.0, help="2 plays twice as fast")
    parser.add_argument(
        "--as-camera", action="store_true", help="play one camera onto image and camera_info"
    )
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    try:
        rclpy.init()
        node = Node("player")
        topics = camera_topics(node, options.bag) if options.as_camera else None
        play(
            node, options.bag, topics,
            loop=options.loop, there_and_back=options.there_and_back, rate=options.rate,
        )  # fmt: skip
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        sys.exit(f"player: {error}")
    finally:
        try_shutdown()


def play(
    node: Node,
    bag: Path,
    topics: dict[str, Publish] | None = None,
    *,
    loop: bool = False,
    there_and_back: bool = False,
    rate: float = 1.0,
) -> None:
    """Publish every message of these topics of the bag at its time (None: all, as they are).

    Channels that hold no CDR (JSON, protobuf, ROS 1) are left out, and all that is amiss with the
    bag is a warning. Playing backwards, which needs `loop`, holds the whole bag in memory.

    Raises `UserError` for a bag that cannot be read or has no messages, and for an invalid rate.
    """
    if not rate > 0:
        raise UserError(f"--rate is {rate:g}; give a number above 0")
    if topics is None:
        topics = all_topics(node, bag)
    notes: list[str] = []
    laps = (
        time_reversed(read(bag, notes)) if there_and_back and lap % 2 else read(bag, notes)
        for lap in (count() if loop else range(1))
    )
    said = 0
    for message in scheduled(laps, time.time_ns(), rate):
        for note in notes[said:MAX_WARNINGS]:
            node.get_logger().warning(note)
        said = len(notes)
        time.sleep(max(0, message.time_ns - time.time_ns()) / 1e9)
        if not node.context.ok():
            return
        if message.topic in topics:
            topics[message.topic](message.raw)
    for publisher in node.publishers:  # the last images are still being delivered
        publisher.wait_for_all_acked(Duration(seconds=1))


def scheduled(
    laps: Iterable[Iterable[BagMessage]], start_ns: int, rate: float = 1.0
) -> Iterator[BagMessage]:
    """Messages of consecutive laps with the times when they are due.

    Stamps keep their offset to those times.  Raises `UserError` for a lap without messages.
    """
    for lap in laps:
        number, due, first, offset = 0, start_ns, None, None
        for message in lap:
            number += 1
            first = message.time_ns if first is None else first
            due = start_ns + int((message.time_ns - first) / rate)
            stamp = header_stamp(message.raw) if message.stamped else 0
            if stamp and offset is None:
                offset = stamp - message.time_ns
            ahead = stamp - message.time_ns - offset if stamp and offset is not None else 0
            raw = message.raw
            if message.stamped:
                raw = with_stamp(raw, due + int(ahead / rate))
            yield message._replace(time_ns=due, raw=raw)
        if not number:
            raise UserError("the bag holds no messages; record one with: ros2 bag record")
        start_ns = due + max((due - start_ns) // max(number - 1, 1), 1_000_000)


def time_reversed(lap: Iterable[BagMessage]) -> Iterator[BagMessage]:
    """The same messages from last to first, with times and stamps that increase.

    Times are mirrored, and so are stamps: messages that shared a stamp share one again.
    """
    messages = list(lap)
    stamps = [header_stamp(message.raw) if message.stamped else 0 for message in messages]
    lags = (
        stamp - message.time_ns for stamp, message in zip(stamps, messages, strict=True) if stamp
    )
    lag = next(lags, 0)
    both = messages[0].time_ns + messages[-1].time_ns if messages else 0
    for message, stamp in zip(reversed(messages), reversed(stamps), strict=True):
        raw = with_stamp(message.raw, both + 2 * lag - stamp) if stamp else message.raw
        yield message._replace(time_ns=both - message.time_ns, raw=raw)


def header_stamp(raw: bytes) -> int:
    """Stamp in nanoseconds of the Header at the start of a serialized message."""
    sec, nanosec = STAMP.unpack_from(raw, STAMP_AT)
    return sec * 1_000_000_000 + nanosec


def with_stamp(raw: bytes, stamp_ns: int) -> bytes:
    """The same serialized message with another stamp in its leading Header."""
    patched = bytearray(raw)
    STAMP.pack_into(patched, STAMP_AT, *divmod(stamp_ns, 1_000_000_000))
    return bytes(patched)


def read(bag: Path, notes: list[str] | None = None) -> Iterator[BagMessage]:
    """All messages of a bag that hold CDR, in the order of their recording.

    What is left out or damaged is added to `notes`.
    """
    notes = [] if notes is None else notes
    with bag_reader.reading(bag, notes) as reader:
        played = _played(reader)
        left_out = sorted({c.topic for c in reader.connections if c not in played})
        for topic in (*left_out, *reader.other_topics):
            notes.append(f"{topic} is not played: its messages are not CDR")
        for connection, time_ns, raw in reader.messages(played):
            stamped = starts_with_header(connection.msgtype)
            yield BagMessage(connection.topic, time_ns, bytes(raw), stamped)


def _played(reader: bag_reader.BagReader) -> list[bag_reader.Connection]:
    return [c for c in reader.connections if c.channel.encoding == "cdr"]


def all_topics(node: Node, bag: Path) -> dict[str, Publish]:
    """A publisher for every topic of the bag; a warning for types that are not installed."""
    publishers = {}
    for topic, msgtype in topics_of(bag).items():
        kind = message_class(msgtype)
        if kind is None:
            node.get_logger().warning(f"{topic} is not played: {msgtype} is not installed")
            continue
        qos = QoSProfile(depth=10)
        if topic == "/tf_static":
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        publishers[topic] = node.create_publisher(kind, topic, qos).publish
    return publishers


def camera_topics(node: Node, bag: Path) -> dict[str, Publish]:
    """Publishers of the first camera, on `image` and `camera_info`; `UserError` without one."""
    topics = topics_of(bag)
    first = {msgtype: topic for topic, msgtype in reversed(topics.items())}
    image = node.create_publisher(Image, "image", 10)
    info = node.create_publisher(CameraInfo, "camera_info", 10)
    publishers: dict[str, Publish] = {}
    if raw := first.get("sensor_msgs/msg/Image"):
        publishers[raw] = image.publish
    elif compressed := first.get("sensor_msgs/msg/CompressedImage"):
        publishers[compressed] = lambda raw: image.publish(decompressed(raw))
    else:
        raise UserError(f"{bag} has no image topic; its topics: {', '.join(topics)}")
    if calibration := first.get("sensor_msgs/msg/CameraInfo"):
        publishers[calibration] = info.publish
    return publishers


def decompressed(raw: bytes) -> Image:
    """The Image in a serialized CompressedImage, with the bits and the mosaic that it has."""
    message = deserialize_message(raw, CompressedImage)
    samples, encoding = unpack(bytes(message.data), message.format)
    height, width = samples.shape[:2]
    return Image(
        header=message.header, height=height, width=width, encoding=encoding,
        step=samples[0].nbytes, is_bigendian=0, data=array("B", samples.tobytes()),
    )  # fmt: skip


def topics_of(bag: Path) -> dict[str, str]:
    """Message type of each topic that can be played.  Raises `UserError` for an unreadable bag."""
    with bag_reader.reading(bag, []) as reader:
        return {connection.topic: connection.msgtype for connection in _played(reader)}


@cache
def message_class(msgtype: str) -> Any:
    """The Python class of e.g. "sensor_msgs/msg/Image"; None where it is not installed."""
    package, _, name = msgtype.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


@cache
def starts_with_header(msgtype: str) -> bool:
    """Whether the first field is a std_msgs/Header."""
    kind = message_class(msgtype)
    fields = list(kind.get_fields_and_field_types().items()) if kind else []
    return bool(fields) and fields[0][1] == "std_msgs/Header"


if __name__ == "__main__":
    main()
