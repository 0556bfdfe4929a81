# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An mcap file by its index, or without one by a scan of its complete records.

Channels of any encoding are listed; nothing of those that are not asked for is interpreted.  The
format: https://mcap.dev/spec.
"""

import heapq
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import Struct, error, iter_unpack
from typing import NamedTuple

from vggt_ros.tools.sources.bag_channels import Channel, zstd_decompressed

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS = 2, 3, 4, 5, 6, 8, 11
HEAD = Struct("<BQ")  # of a record: kind, length
MESSAGE_HEAD = Struct("<HIQQ")  # channel, sequence, log time, publish time
FOOTER_SIZE = HEAD.size + 20


class _Chunk(NamedTuple):
    start_ns: int
    at: int  # of its content in the file
    channels: frozenset[int]  # that have messages in it


class McapFile:
    """As `Storage`.  Raises `ValueError` for what is no mcap file."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self.channels: list[Channel] = []
        self.cut, self.notes = "", []
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._found: dict[int, Channel] = {}
        self._chunks: list[_Chunk] | None = None
        self._counts: Counter[int] = Counter()
        self._size = path.stat().st_size
        if self._file.read(8) != MAGIC:
            raise ValueError("it does not begin as an mcap file")
        try:
            self._read_summary()
        except (ValueError, error, IndexError) as fault:
            self.cut = str(fault)
            self._scan()
        self.channels = [c._replace(msgcount=self._counts[c.key]) for c in self._found.values()]

    def close(self) -> None:
        self._file.close()

    # ---- what is in it

    def _read_summary(self) -> None:
        self._file.seek(max(self._size - FOOTER_SIZE - 8, 8))
        end = self._file.read()
        if end[-8:] != MAGIC or end[0] != FOOTER:
            raise ValueError("it has no end")
        at = int.from_bytes(end[HEAD.size : HEAD.size + 8], "little")
        if not at:
            self._scan()  # whole, but written without an index
            return
        chunks = []
        for kind, record in self._records(at, self._size - FOOTER_SIZE - 8):
            if kind == CHUNK_INDEX:
                content = Struct("<QQQQI")
                start, _, offset, _, length = content.unpack_from(record)
                offsets = record[content.size : content.size + length]
                keys = frozenset(key for key, _ in iter_unpack("<HQ", offsets))
                chunks.append(_Chunk(start, offset + HEAD.size, keys))
            elif kind == STATISTICS:
                self._counts = Counter(dict(iter_unpack("<HQ", record[46:])))
            else:
                self._learn(kind, record)
        if not (chunks and self._found):
            self._scan()
            return
        self._chunks = sorted(chunks, key=lambda chunk: chunk.start_ns)

    def _scan(self) -> None:
        self._found.clear()
        self._counts.clear()
        for key, _, _ in self._scanned():
            self._counts[key] += 1

    def _learn(self, kind: int, record: bytes) -> None:
        if kind == SCHEMA:
            key = int.from_bytes(record[:2], "little")
            name, at = _text(record, 2)
            encoding, at = _text(record, at)
            self._schemas[key] = name, encoding, record[at + 4 :]
        elif kind == CHANNEL:
            key, schema = Struct("<HH").unpack_from(record)
            topic, at = _text(record, 4)
            encoding, _ = _text(record, at)
            self._found[key] = Channel(
                key, topic, *_reordered(encoding, *self._schemas.get(schema, ("", "", b"")))
            )

    # ---- messages

    def messages(self, keys: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """By time: chunks may overlap a little, so that each waits for the start of the next."""
        wanted = set(keys)
        if self._chunks is None:
            for key, stamp, data in self._scanned():
                if key in wanted:
                    yield key, stamp, data
            return
        pending: list[tuple[int, int, int, bytes]] = []
        count = 0
        for chunk in self._chunks:
            while pending and pending[0][0] < chunk.start_ns:
                stamp, _, key, data = heapq.heappop(pending)
                yield key, stamp, data
            if chunk.channels and not wanted & chunk.channels:
                continue
            try:
                for key, stamp, data in _messages_in(self._chunk_at(chunk.at)):
                    if key in wanted:
                        count += 1
                        heapq.heappush(pending, (stamp, count, key, data))
            except Exception as fault:  # the decompressors raise many types
                self.notes.append(f"a part of the bag is damaged ({fault}); it goes on after it")
        while pending:
            stamp, _, key, data = heapq.heappop(pending)
            yield key, stamp, data

    def _scanned(self) -> Iterator[tuple[int, int, bytes]]:
        """All messages in the order of the file; channels are learnt on the way."""
        for kind, record in self._records(8, self._size):
            try:
                inner = _records_of(_unpacked(record)) if kind == CHUNK else [(kind, record)]
                for kind_inside, part in inner:
                    self._learn(kind_inside, part)
                    if kind_inside == MESSAGE:
                        yield _message(part)
            except Exception as fault:  # as above
                note = f"a part of the bag is damaged ({fault}); it goes on after it"
                if note not in self.notes:
                    self.notes.append(note)

    def _records(self, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Complete records from here on, up to the end of the data."""
        while at + HEAD.size <= end:
            self._file.seek(at)
            kind, length = HEAD.unpack(self._file.read(HEAD.size))
            at += HEAD.size + length
            if kind in (FOOTER, 15) or at > end:  # 15: the end of the data
                return
            yield kind, self._file.read(length)

    def _chunk_at(self, at: int) -> bytes:
        self._file.seek(at - HEAD.size)
        _, length = HEAD.unpack(self._file.read(HEAD.size))
        return _unpacked(self._file.read(length))


def _reordered(encoding: str, name: str, schema: str, definition: bytes) -> tuple:
    parts = name.split("/")
    ros = f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name  # as ROS 1 names it
    return ros, encoding, schema, definition


def _text(record: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + int.from_bytes(record[at : at + 4], "little")
    return record[at + 4 : end].decode(errors="replace"), end


def _unpacked(chunk: bytes) -> bytes:
    """The records in a chunk."""
    _, _, size, crc = Struct("<QQQI").unpack_from(chunk)
    compression, at = _text(chunk, 28)
    data = chunk[at + 8 :]
    if compression == "zstd":
        data = zstd_decompressed(data)
    elif compression == "lz4":
        from lz4.frame import decompress  # comes with rosbags

        data = decompress(data)
    elif compression:
        raise ValueError(f"compression {compression!r} is not read")
    if len(data) != size or (crc and crc32(data) != crc):
        raise ValueError("a chunk does not agree with its checksum")
    return data


def _records_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + HEAD.size <= len(data):
        kind, length = HEAD.unpack_from(data, at)
        at += HEAD.size + length
        yield kind, data[at - length : at]


def _messages_in(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    return (_message(record) for kind, record in _records_of(data) if kind == MESSAGE)


def _message(record: bytes) -> tuple[int, int, bytes]:
    key, _, stamp, _ = MESSAGE_HEAD.unpack_from(record)
    return key, stamp, record[MESSAGE_HEAD.size :]
