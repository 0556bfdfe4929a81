# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the readers of the three storage formats have in common: channels, and zstd by its magic."""

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

ZSTD = b"\x28\xb5\x2f\xfd"  # the first bytes of its frames; no CDR message begins with them


class Channel(NamedTuple):
    """A topic of one storage file."""

    key: int  # in its file
    topic: str
    msgtype: str  # as ROS 2 names it: sensor_msgs/msg/Image
    encoding: str  # of its messages: cdr and ros1 are read, others (json, protobuf) are not
    schema: str  # language of the definition: ros2msg, ros1msg, ros2idl, omgidl, or any other
    definition: bytes  # of the message type; empty: none was recorded
    msgcount: int = 0


@runtime_checkable
class Storage(Protocol):
    """An open storage file.  `cut` says why it is read without its end; empty: it is whole."""

    channels: list[Channel]
    cut: str
    notes: list[str]  # parts that could not be read, as they are met

    def messages(self, keys: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Key of the channel, time of recording (ns), and data, in the order of time."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def zstd_decompressed(data: bytes) -> bytes:
    """The content of one or several zstd frames."""
    from backports import zstd  # comes with rosbags; Python 3.14 has it as compression.zstd

    return zstd.decompress(data)
