# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 (mcap, sqlite3) or ROS 1 bag as stamped frames, with the camera's calibration.

Bags without their ends (recorder killed, disk full) are read up to the cut; images that are late
are sorted (`in_order.py`).  Whether headers are
stamped is decided for the topic by its first messages: one that is not costs itself.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.timeline import MAX_FIRST_GAP_NS
from vggt_ros.tools.sources.bag_infos import (
    CAMERA_INFO,
    FollowedCalibration,
    beside,
    calibrations,
    first_infos,
    is_info,
)
from vggt_ros.tools.sources.bag_reader import BagReader, Connection, reading
from vggt_ros.tools.sources.in_order import in_order
from vggt_ros.tools.sources.source import LazyFrame, Source

Lazy = Iterator[LazyFrame]
Messages = Iterator[tuple[Connection, int, bytes]]
PEEKED = 20  # messages by which it is decided whether the topic is stamped
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def open_bag(path: Path, reader: ImageReader, topic: str | None = None) -> Source:
    """Open the image topic.  Raises `UserError` with the list of topics if it is ambiguous."""
    source = Source(path, "bag", "", (), notes=reader.notices)
    with reading(path, source.notes) as bag:
        chosen = choose_topic(path, bag, topic)
        source.count = sum(c.msgcount for c in chosen) or None
        copy = f"{chosen[0].topic}/compressed"
        copies = sum(c.msgcount for c in bag.connections if c.topic == copy)
        if topic is None and source.count and copies > source.count:
            source.note(
                f"{chosen[0].topic} has {source.count} images, and {copy} {copies}: --topic {copy}"
            )
    source.stamps = f"message headers of {chosen[0].topic}"
    source.topic = chosen[0].topic
    frames = _lazy_frames(source, chosen[0].topic, chosen[0].msgtype, reader)
    source.lazy_frames = in_order(frames, source.note)
    return source


def image_topics(path: Path, bag: BagReader) -> dict[str, Connection]:
    """One connection of each image topic.  Raises `UserError` where there is none."""
    connections = bag.connections
    images = {
        c.topic: c
        for c in connections
        if c.msgtype in (IMAGE, COMPRESSED) and not c.topic.endswith("/compressedDepth")
    }
    if not images:
        listed = sorted({c.topic for c in connections})[:8]
        listed += [f"{topic} (not of ROS)" for topic in bag.other_topics[:8]]
        others = ", ".join(listed) or "none at all"
        raise UserError(f"{path} has no image topic; its topics: {others}")
    return images


def choose_topic(path: Path, bag: BagReader, topic: str | None) -> list[Connection]:
    """All connections of the chosen image topic, or of the only one."""
    images = image_topics(path, bag)
    listed = ", ".join(f"{c.topic} ({c.msgtype.split('/')[-1]})" for c in images.values())
    if topic is not None:
        chosen_topic = "/" + topic.strip("/")
        if chosen_topic not in images:
            raise UserError(
                f"{path} has no image topic {chosen_topic}; choose --topic from: {listed}"
            )
    else:
        chosen_topic, *others = without_copies(images)
        if others:
            raise UserError(
                f"{path} has several image topics; choose --topic from: {listed}; or see through"
                f" several at once: --cameras a={chosen_topic},b={others[0]}"
            )
    same = [c for c in bag.connections if c.topic == chosen_topic]
    return [c for c in same if c.msgtype == same[0].msgtype]


def without_copies(topics: Collection[str]) -> list[str]:
    """Without the compressed ones of cameras that were recorded raw as well."""
    return sorted(set(topics) - {f"{raw}/compressed" for raw in topics})


def _lazy_frames(source: Source, topic: str, msgtype: str, reader: ImageReader) -> Lazy:
    notes = reader.notices
    with reading(source.path, []) as bag:
        infos = first_infos(bag)
        source.calibration_of = calibrations(topic, infos, source.calibration_of)
        followed = FollowedCalibration(
            topic, infos.get(beside(topic)), lambda: source.camera_reader.rectified, notes
        )
        chosen = [c for c in bag.connections if (c.topic, c.msgtype) == (topic, msgtype)]
        watched = [] if source.camera_info else [c for c in bag.connections if is_info(c, topic)]
        stream = _until_truncated(bag.messages(chosen + watched), notes)
        messages = _messages(bag, stream, followed)
        first = list(islice(messages, PEEKED))
        use_recorded = all(not found.stamp_ns for found in first if found.message is not None)
        if use_recorded and first:
            _note(notes, "headers are not stamped: the times of recording are used")
        last_ns = 0
        for number, found in enumerate(chain(first, messages)):
            name = f"image {number}"
            stamp_ns = found.recorded_ns if use_recorded else found.stamp_ns
            if found.message is None:
                refusal = f"not a message of its type ({found.fault})"
                yield LazyFrame(name, last_ns or found.recorded_ns, partial(_refuse, refusal))
            elif stamp_ns == 0 and not _starts_at_zero(first, number):
                refusal = "its header is not stamped, and those of the others are"
                yield LazyFrame(name, last_ns or _next_ns(first), partial(_refuse, refusal))
            else:
                last_ns = stamp_ns
                load = partial(_load, found.message, stamp_ns, reader)
                yield LazyFrame(name, stamp_ns, load, found.recorded_ns, found.calibration)
        _note_all(notes, bag.notes)


class _Found(NamedTuple):
    """A message, or why there is none."""

    message: Any
    stamp_ns: int  # of its header
    recorded_ns: int
    fault: str = ""
    calibration: Calibration | None = None  # of its time; None: that of the source


def _messages(
    bag: BagReader, messages: Messages, followed: FollowedCalibration
) -> Iterator[_Found]:
    """The images, each once the next one comes: its CameraInfo may be recorded after it."""
    held: _Found | None = None
    for connection, recorded_ns, raw in messages:
        if connection.msgtype == CAMERA_INFO:
            with suppress(Exception):  # a damaged one says nothing
                followed.hear(bag.deserialize(raw, connection))
            continue
        if held is not None:
            yield held._replace(calibration=followed.at(held.stamp_ns, held.calibration))
        followed.images += 1
        try:
            message = bag.deserialize(raw, connection)
            stamp = message.header.stamp
            ns = stamp.sec * 10**9 + stamp.nanosec
            held = _Found(message, ns, recorded_ns, calibration=followed.now)
        except Exception as error:  # a damaged message may raise anything
            held = _Found(None, 0, recorded_ns, str(error))
    if held is not None:
        yield held._replace(calibration=followed.at(held.stamp_ns, held.calibration))


def _starts_at_zero(first: Sequence[_Found], number: int) -> bool:
    """Whether a stamp of zero is the begin of simulated time."""
    return number == 0 and 0 < _next_ns(first) < MAX_FIRST_GAP_NS


def _next_ns(first: Sequence[_Found]) -> int:
    return next((found.stamp_ns for found in first if found.stamp_ns), 0)


def _until_truncated(messages: Messages, notes: list[str]) -> Messages:
    count = 0
    try:
        for message in messages:
            count += message[0].msgtype != CAMERA_INFO
            yield message
    except Exception as error:  # three storage formats raise many types when truncated
        _note(notes, f"the bag ends early, after {count} images ({error}); it is read so far")


def _load(message: Any, stamp_ns: int, reader: ImageReader) -> Frame:
    camera = message.header.frame_id.lstrip("/") or "camera"
    return Frame(_pixels(message, reader), stamp_ns, camera)


def _refuse(reason: str) -> Frame:
    raise UserError(reason)


def _note(notes: list[str], line: str) -> None:
    if line not in notes:
        notes.append(line)


def _note_all(notes: list[str], lines: Sequence[str]) -> None:
    for line in lines:
        _note(notes, line)


def _pixels(message: Any, reader: ImageReader) -> np.ndarray:
    if message.__msgtype__ == COMPRESSED:
        return reader.compressed(message.data.tobytes(), message.format)
    return reader.raw(
        message.data,
        encoding=message.encoding,
        height=message.height,
        width=message.width,
        step=message.step,
        is_bigendian=bool(message.is_bigendian),
    )
