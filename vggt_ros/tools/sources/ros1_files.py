# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bag of ROS 1, by walking its records: so it needs no index, which is written at the end.

The format: http://wiki.ros.org/Bags/Format/2.0.
"""

import bz2
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import Struct

from vggt_ros.tools.sources.bag_channels import Channel

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 5, 6, 7
Header = dict[str, bytes]


class Ros1File:
    """As `Storage`.  Raises `ValueError` for what is no bag of ROS 1 with a message in it."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self.cut, self.notes = "", []
        self._found: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._chunks: list[tuple[int, int, str]] = []  # place, size, compression
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is no bag of ROS 1 (version 2.0)")
        self._read_chunks()
        self.channels = [c._replace(msgcount=self._counts[c.key]) for c in self._found.values()]

    def close(self) -> None:
        self._file.close()

    def _read_chunks(self) -> None:
        at, indexed = len(MAGIC), False
        while at + 8 <= self._size:
            header, data_at, length = self._record_at(at)
            at = data_at + length
            if at > self._size or not header:
                break
            kind = header.get("op", b"\0")[0]
            if kind == BAG_HEADER:
                indexed = any(header.get("index_pos", b""))
                if header.get("encryptor"):
                    raise ValueError("it is encrypted")
            elif kind == CHUNK:
                self._chunks.append((data_at, length, header["compression"].decode()))
            elif kind == CHUNK_INFO:
                counts = self._read(data_at, length)
                for place in range(0, len(counts) - 7, 8):
                    key = int.from_bytes(counts[place : place + 4], "little")
                    self._counts[key] += int.from_bytes(counts[place + 4 : place + 8], "little")
            elif kind == CONNECTION:
                self._learn(header, self._read(data_at, length))
        if not indexed or not self._found:
            self.cut = "it was not closed" if not indexed else "its index is missing"
        elif at != self._size:
            self.cut = "it ends within a record"
        if self.cut:
            self._counts.clear()
            for key, _, _ in self._walked():
                self._counts[key] += 1

    def _record_at(self, at: int) -> tuple[Header, int, int]:
        """Header of a record, and where its data are; an empty header at the end of the file."""
        self._file.seek(at)
        length = int.from_bytes(self._file.read(4), "little")
        if at + 8 + length > self._size:
            return {}, at, 0
        header = _fields(self._file.read(length))
        return header, at + 8 + length, int.from_bytes(self._file.read(4), "little")

    def _read(self, at: int, length: int) -> bytes:
        self._file.seek(at)
        return self._file.read(length)

    def _learn(self, header: Header, data: bytes) -> None:
        key, fields = int.from_bytes(header["conn"], "little"), _fields(data)
        package, _, name = fields["type"].decode().rpartition("/")
        topic = "/" + "/".join(filter(None, header["topic"].decode().split("/")))
        kind = f"{package}/msg/{name}"
        text = fields.get("message_definition", b"")
        self._found[key] = Channel(key, topic, kind, "ros1", "ros1msg", text)

    def messages(self, keys: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """In the order of recording."""
        wanted = set(keys)
        return (message for message in self._walked() if message[0] in wanted)

    def _walked(self) -> Iterator[tuple[int, int, bytes]]:
        for at, length, compression in self._chunks:
            try:
                yield from self._messages_in(_decompressed(self._read(at, length), compression))
            except Exception as fault:  # the decompressors raise many types
                note = f"a part of the bag is damaged ({fault}); it goes on after it"
                if note not in self.notes:
                    self.notes.append(note)

    def _messages_in(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        at = 0
        while at + 8 <= len(data):
            header_end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            header = _fields(data[at + 4 : header_end])
            end = header_end + 4 + int.from_bytes(data[header_end : header_end + 4], "little")
            kind, content = header["op"][0], data[header_end + 4 : end]
            if kind == CONNECTION:
                self._learn(header, content)
            elif kind == MESSAGE:
                seconds, nanoseconds = Struct("<II").unpack(header["time"])
                key = int.from_bytes(header["conn"], "little")
                yield key, seconds * 10**9 + nanoseconds, content
            at = end


def _decompressed(data: bytes, compression: str) -> bytes:
    if compression == "bz2":
        return bz2.decompress(data)
    if compression == "lz4":
        from lz4.frame import decompress  # comes with rosbags

        return decompress(data)
    if compression != "none":
        raise ValueError(f"compression {compression!r} is not read")
    return data


def _fields(data: bytes) -> Header:
    """name=value, each after its length."""
    found, at = {}, 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        name, _, value = data[at + 4 : end].partition(b"=")
        found[name.decode(errors="replace")] = value
        at = end
    return found
