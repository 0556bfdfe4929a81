# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 (mcap, sqlite3) or ROS 1 bag as stamped frames, with the camera's calibration.

Truncated bags (recorder killed, disk full) are read up to the cut.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.sources.source import LazyFrame, Source

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
SUFFIXES = frozenset((".bag", ".db3", ".mcap"))


def is_bag(path: Path) -> bool:
    """Whether it is a storage file, or a folder of them, with or without metadata.yaml."""
    if path.is_dir():
        return any(p.name == "metadata.yaml" or p.suffix in SUFFIXES for p in path.iterdir())
    return path.suffix in SUFFIXES


def open_bag(path: Path, reader: ImageReader, topic: str | None = None) -> Source:
    """Open the image topic.  Raises `UserError` with the list of topics if it is ambiguous."""
    source = Source(path, "bag", "", (), notes=reader.notices)
    with reading(path, source.notes) as bag:
        chosen = choose_topic(path, bag.connections, topic)
        source.count = sum(c.msgcount for c in chosen) or None
    source.stamps = f"message headers of {chosen[0].topic}"
    source.topic = chosen[0].topic
    source.lazy_frames = _lazy_frames(source, chosen[0].topic, chosen[0].msgtype, reader)
    return source


def choose_topic(
    path: Path, connections: "list[Connection]", topic: str | None
) -> "list[Connection]":
    """All connections of the chosen image topic, or of the only one."""
    images = {
        c.topic: c
        for c in connections
        if c.msgtype in (IMAGE, COMPRESSED) and not c.topic.endswith("/compressedDepth")
    }
    if not images:
        others = ", ".join(sorted({c.topic for c in connections})[:8]) or "none at all"
        raise UserError(f"{path} has no image topic; its topics: {others}")
    listed = ", ".join(f"{c.topic} ({c.msgtype.split('/')[-1]})" for c in images.values())
    if topic is not None:
        chosen_topic = "/" + topic.strip("/")
        if chosen_topic not in images:
            raise UserError(
                f"{path} has no image topic {chosen_topic}; choose --topic from: {listed}"
            )
    else:
        # A camera that was recorded both raw and compressed counts once: the raw topic is used.
        chosen_topic, *others = sorted(set(images) - {f"{raw}/compressed" for raw in images})
        if others:
            raise UserError(f"{path} has several image topics; choose --topic from: {listed}")
    same = [c for c in connections if c.topic == chosen_topic]
    return [c for c in same if c.msgtype == same[0].msgtype]


def _lazy_frames(
    source: Source, topic: str, msgtype: str, reader: ImageReader
) -> Iterator[LazyFrame]:
    notes = reader.notices
    with reading(source.path, notes) as bag:
        source.calibration_of = _calibrations(topic, _first_infos(bag), source.calibration_of)
        chosen = [c for c in bag.connections if (c.topic, c.msgtype) == (topic, msgtype)]
        messages = _until_truncated(bag.messages(connections=chosen), notes)
        for number, (recorded_ns, raw) in enumerate(messages):
            name = f"image {number}"
            try:
                message: Any = bag.deserialize(raw, msgtype)
            except Exception as error:  # a damaged message may raise anything
                yield LazyFrame(name, recorded_ns, partial(_refuse, error))
                continue
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            if stamp_ns == 0:
                _note(notes, "headers are not stamped: the times of recording are used")
                stamp_ns = recorded_ns
            yield LazyFrame(name, stamp_ns, partial(_load, message, stamp_ns, reader))


def _until_truncated(
    messages: "Iterator[tuple[Connection, int, bytes]]", notes: list[str]
) -> Iterator[tuple[int, bytes]]:
    count = 0
    try:
        for _, recorded_ns, raw in messages:
            count += 1
            yield recorded_ns, raw
    except Exception as error:  # three storage formats raise many types when truncated
        _note(notes, f"the bag ends early, after {count} images ({error}); it is read so far")


def _load(message: Any, stamp_ns: int, reader: ImageReader) -> Frame:
    camera = message.header.frame_id.lstrip("/") or "camera"
    return Frame(_pixels(message, reader), stamp_ns, camera)


def _refuse(error: Exception) -> Frame:
    raise UserError(f"not a message of its type ({error})")


def _note(notes: list[str], line: str) -> None:
    if line not in notes:
        notes.append(line)


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


# ---- calibration


def _first_infos(reader: "AnyReader") -> dict[str, Any]:
    """The first CameraInfo of each topic; the calibration is assumed constant in a bag."""
    infos: dict[str, Any] = {}
    for connection in reader.connections:
        if connection.msgtype == CAMERA_INFO and connection.topic not in infos:
            try:
                _, _, raw = next(reader.messages(connections=[connection]))
                infos[connection.topic] = reader.deserialize(raw, CAMERA_INFO)
            except Exception:  # none recorded, or beyond the cut
                continue
    return infos


def _calibrations(
    topic: str, infos: dict[str, Any], given: Callable[[str], Calibration | None]
) -> Callable[[str], Calibration | None]:
    """The calibration that was given for a camera, else the bag's own, by frame_id."""

    @cache
    def calibration_of(camera: str) -> Calibration | None:
        info = choose_info(topic, camera, infos)
        return given(camera) or (None if info is None else Calibration.of(info))

    return calibration_of


def choose_info(topic: str, camera: str, infos: dict[str, Any]) -> Any | None:
    """The CameraInfo next to the image topic, else the only one with the same frame_id."""
    beside = topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
    if beside in infos:
        return infos[beside]
    same = [info for info in infos.values() if info.header.frame_id.lstrip("/") == camera]
    return same[0] if len(same) == 1 else None


# ---- opening


@contextmanager
def reading(path: Path, notes: list[str]) -> "Iterator[AnyReader]":
    """An open reader; a truncated bag is opened up to the cut, with a line in `notes`."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise UserError(
            f"reading bags needs rosbags; install it {install_extra('tools')}"
        ) from None
    from vggt_ros.tools.sources.truncated_bags import open_truncated

    known = get_typestore(Stores.ROS2_JAZZY)  # for old bags without message definitions
    try:
        reader = AnyReader([path], default_typestore=known)
        reader.open()
    except Exception as error:  # three storage formats raise many types when truncated
        try:
            reader = open_truncated(path, known)
            reader.open()
        except Exception:
            raise UserError(
                f"{path} cannot be read as a bag: {error}; check it with: ros2 bag info"
            ) from None
        _note(notes, f"the bag is truncated ({error}); it is read up to the cut")
    try:
        yield reader
    finally:
        reader.close()
