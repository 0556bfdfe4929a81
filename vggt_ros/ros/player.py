# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 onto live topics, without `ros2 bag`: `python -m vggt_ros.ros.player BAG --loop`.

Messages keep their spacing and their bytes; only header stamps are moved to the present, so that a
looping clip is to its readers a camera that never stops.  Topics are remapped as for any node:
`--ros-args -r /camera/image_raw:=image`.
"""

import argparse
import struct
import sys
import time
from collections.abc import Iterable, Iterator
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
from rclpy.utilities import remove_ros_args, try_shutdown

from vggt_ros.errors import UserError

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
    parser.add_argument("--rate", type=float, default=1.0, help="2 plays twice as fast")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    try:
        rclpy.init()
        play(Node("player"), options.bag, loop=options.loop, rate=options.rate)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        sys.exit(f"player: {error}")
    finally:
        try_shutdown()


def play(node: Node, bag: Path, *, loop: bool = False, rate: float = 1.0) -> None:
    """Publish every message at its time.  Raises `UserError` for a bag or a rate of no use."""
    if not rate > 0:
        raise UserError(f"--rate {rate:g} would never play; give a number above 0")
    publishers = advertise(node, bag)
    laps = (read(bag) for _ in (count() if loop else range(1)))
    for message in scheduled(laps, time.time_ns(), rate):
        time.sleep(max(0, message.time_ns - time.time_ns()) / 1e9)
        if not node.context.ok():
            return
        if message.topic in publishers:
            publishers[message.topic].publish(message.raw)
    for publisher in publishers.values():  # the last images are still on their way
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


def advertise(node: Node, bag: Path) -> dict[str, Any]:
    """A publisher for each topic whose type is installed here; the others are named in the log."""
    with reading(bag) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
    publishers = {}
    for topic, msgtype in types.items():
        message_class = class_of(msgtype)
        if message_class is None:
            node.get_logger().warning(f"{topic} is left out: {msgtype} is not installed here")
            continue
        qos = QoSProfile(depth=10)
        if topic == "/tf_static":
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        publishers[topic] = node.create_publisher(message_class, topic, qos)
    return publishers


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
