# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 onto live topics, without `ros2 bag`.

    python -m vggt_ros.ros.harness.player BAG --loop

Messages keep their spacing and their bytes; only header stamps are moved to the present, so that a
looping clip is to its readers a camera that never stops.  With `--as-camera` one camera of the bag
is played onto `image`, decompressed, and `camera_info`; the topics of the bag stay away.
"""

import argparse
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from vggt_ros.ros.messages import image_message, rgb_from_compressed

Outlet = Callable[[bytes], object]  # what becomes of the raw messages of one topic
STAMP = struct.Struct("<iI")  # sec and nanosec of a leading Header
STAMP_AT = 4  # after the preamble of CDR


class Recorded(NamedTuple):
    """One message of a bag; `time_ns` says when it was recorded, or when it is due."""

    topic: str
    time_ns: int
    raw: bytes  # CDR
    stamped: bool  # its type begins with a Header


def main() -> None:
    """Play until the end, or for ever with --loop; Ctrl-C ends quietly."""
    parser = argparse.ArgumentParser(description="Play a rosbag2 onto live topics.")
    parser.add_argument("bag", type=Path, help="folder of a rosbag2, or its .mcap or .db3 file")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, for ever")
    parser.add_argument(
        "--there-and-back", action="store_true",
        help="with --loop: every second time from the end to the beginning, so that nothing jumps",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.0, help="2 plays twice as fast")
    parser.add_argument(
        "--as-camera", action="store_true", help="play one camera onto image and camera_info"
    )
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    try:
        rclpy.init()
        node = Node("player")
        outlets = camera_outlets(node, options.bag) if options.as_camera else None
        play(
            node, options.bag, outlets,
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
    outlets: dict[str, Outlet] | None = None,
    *,
    loop: bool = False,
    there_and_back: bool = False,
    rate: float = 1.0,
) -> None:
    """Publish every message at its time, each topic through its outlet (None: all as they are).

    On the way back, which there is with `loop` only, the whole bag is held in memory.

    Raises `UserError` for a bag or a rate of no use.
    """
    if not rate > 0:
        raise UserError(f"--rate {rate:g} would never play; give a number above 0")
    if outlets is None:
        outlets = all_outlets(node, bag)
    laps = (
        backwards(read(bag)) if there_and_back and lap % 2 else read(bag)
        for lap in (count() if loop else range(1))
    )
    for message in scheduled(laps, time.time_ns(), rate):
        time.sleep(max(0, message.time_ns - time.time_ns()) / 1e9)
        if not node.context.ok():
            return
        if message.topic in outlets:
            outlets[message.topic](message.raw)
    for publisher in node.publishers:  # the last images are still on their way
        publisher.wait_for_all_acked(Duration(seconds=1))


def scheduled(
    laps: Iterable[Iterable[Recorded]], start_ns: int, rate: float = 1.0
) -> Iterator[Recorded]:
    """Messages with the times when they are due; stamps keep their distance to those times."""
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
                raw = restamped(raw, due + int(ahead / rate))
            yield message._replace(time_ns=due, raw=raw)
        if not number:
            raise UserError("the bag holds no messages; record one with: ros2 bag record")
        start_ns = due + max((due - start_ns) // max(number - 1, 1), 1_000_000)


def backwards(lap: Iterable[Recorded]) -> Iterator[Recorded]:
    """The same messages from last to first; their times and stamps run forward all the same.

    Times are mirrored, and stamps likewise: what had one stamp has one stamp again.
    """
    messages = list(lap)
    stamps = [header_stamp(message.raw) if message.stamped else 0 for message in messages]
    lags = (
        stamp - message.time_ns for stamp, message in zip(stamps, messages, strict=True) if stamp
    )
    lag = next(lags, 0)
    both = messages[0].time_ns + messages[-1].time_ns if messages else 0
    for message, stamp in zip(reversed(messages), reversed(stamps), strict=True):
        raw = restamped(message.raw, both + 2 * lag - stamp) if stamp else message.raw
        yield message._replace(time_ns=both - message.time_ns, raw=raw)


def header_stamp(raw: bytes) -> int:
    """Nanoseconds of the Header that `raw` begins with."""
    sec, nanosec = STAMP.unpack_from(raw, STAMP_AT)
    return sec * 1_000_000_000 + nanosec


def restamped(raw: bytes, stamp_ns: int) -> bytes:
    """The same message, its leading Header at another time."""
    patched = bytearray(raw)
    STAMP.pack_into(patched, STAMP_AT, *divmod(stamp_ns, 1_000_000_000))
    return bytes(patched)


def read(bag: Path) -> Iterator[Recorded]:
    """All messages of a rosbag2 in the order of their recording."""
    with reading(bag) as reader:
        for connection, time_ns, raw in reader.messages():
            stamped = begins_with_header(connection.msgtype)
            yield Recorded(connection.topic, time_ns, bytes(raw), stamped)


def all_outlets(node: Node, bag: Path) -> dict[str, Outlet]:
    """Every topic under its own name; those whose type is not installed are named in the log."""
    outlets = {}
    for topic, msgtype in topics_of(bag).items():
        message_class = class_of(msgtype)
        if message_class is None:
            node.get_logger().warning(f"{topic} is left out: {msgtype} is not installed here")
            continue
        qos = QoSProfile(depth=10)
        if topic == "/tf_static":
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        outlets[topic] = node.create_publisher(message_class, topic, qos).publish
    return outlets


def camera_outlets(node: Node, bag: Path) -> dict[str, Outlet]:
    """The bag's first camera onto `image` and `camera_info`.  Raises `UserError` without one."""
    topics = topics_of(bag)
    first = {msgtype: topic for topic, msgtype in reversed(topics.items())}
    image = node.create_publisher(Image, "image", 10)
    info = node.create_publisher(CameraInfo, "camera_info", 10)
    outlets: dict[str, Outlet] = {}
    if raw := first.get("sensor_msgs/msg/Image"):
        outlets[raw] = image.publish
    elif compressed := first.get("sensor_msgs/msg/CompressedImage"):
        outlets[compressed] = lambda raw: image.publish(decompressed(raw))
    else:
        raise UserError(f"{bag} has no image topic; its topics: {', '.join(topics)}")
    if calibration := first.get("sensor_msgs/msg/CameraInfo"):
        outlets[calibration] = info.publish
    return outlets


def decompressed(raw: bytes) -> Image:
    """A serialized CompressedImage as the rgb8 Image that it holds."""
    message = deserialize_message(raw, CompressedImage)
    return image_message(message.header, rgb_from_compressed(message))


def topics_of(bag: Path) -> dict[str, str]:
    """Message type of each topic."""
    with reading(bag) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


@contextmanager
def reading(bag: Path) -> Iterator[Any]:
    """The bag, opened; `UserError` where it cannot be."""
    from rosbags.highlevel import AnyReader, AnyReaderError  # pip install 'vggt_ros[tools]'

    try:
        with AnyReader([bag]) as reader:
            yield reader
    except (AnyReaderError, OSError) as error:
        raise UserError(f"cannot play {bag}: {error}") from None


@cache
def class_of(msgtype: str) -> Any:
    """The Python class of e.g. "sensor_msgs/msg/Image"; None where it is not installed."""
    package, _, name = msgtype.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


@cache
def begins_with_header(msgtype: str) -> bool:
    """Whether the first field is a std_msgs/Header."""
    message_class = class_of(msgtype)
    fields = list(message_class.get_fields_and_field_types().items()) if message_class else []
    return bool(fields) and fields[0][1] == "std_msgs/Header"


if __name__ == "__main__":
    main()
