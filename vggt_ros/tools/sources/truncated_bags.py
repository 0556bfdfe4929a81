# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Readers of truncated bags (recorder killed, disk full, copy cut short), up to the cut.

The usual readers need the end of the file: the index of an mcap, the last pages of a database.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.metadata import ReaderMetadata
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys.store import Typestore


def open_truncated(path: Path, typestore: Typestore) -> AnyReader:
    """A reader of the storage files alone, without metadata.yaml and without their ends."""
    files = sorted(p for p in path.iterdir() if p.suffix in STORAGE) if path.is_dir() else [path]
    reader = AnyReader(files, default_typestore=typestore)
    for part in reader.readers:
        assert isinstance(part, Reader)
        part.storage = STORAGE[part.path.suffix](Path(str(part.path)))
    return reader


class TruncatedMcap(McapReader):
    """All complete records of an mcap file, by a scan instead of by the index at its end."""

    def _open(self) -> None:
        assert self.bio
        if self.bio.read(8) != b"\x89MCAP0\r\n":
            raise ReaderError("File magic is invalid.")
        self.data_start = at = self.bio.tell()
        size = self.bio.seek(0, 2)
        while at + 9 <= size:  # one byte of kind, eight of length
            self.bio.seek(at + 1)
            at += 9 + int.from_bytes(self.bio.read(8), "little")
            self.data_end = at if at <= size else self.data_end
        self.meta_scan()


class TruncatedSqlite3:
    """The rows of a database up to the first missing page, in the order they were written."""

    def __init__(self, path: Path):
        self.path = path
        self.connections: list[Connection] = []
        self.metadata = ReaderMetadata(0, 2**63 - 1, 0, 0, None, None, None, None)

    def open(self) -> None:
        uri = f"file:{quote(str(self.path))}?immutable=1"
        self.rows = sqlite3.connect(uri, uri=True)
        self.rows.execute("PRAGMA writable_schema=ON")  # without it SQLite refuses a short file
        texts: dict[str, str] = {}
        with suppress(sqlite3.DatabaseError):  # definitions are recorded since Iron
            query = "SELECT topic_type, encoded_message_definition FROM message_definitions"
            texts = dict(self.rows.execute(query))
        form = MessageDefinitionFormat
        self.connections = [
            Connection(
                key,
                topic,
                kind,
                MessageDefinition(form.MSG if texts.get(kind) else form.NONE, texts.get(kind, "")),
                "",
                0,
                ConnectionExtRosbag2("cdr", []),
                self,
            )
            for key, topic, kind in self.rows.execute("SELECT id, name, type FROM topics")
        ]

    def close(self) -> None:
        self.rows.close()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Rows in storage order; the index by time may be in the part that is lost."""
        selected = {connection.id: connection for connection in connections}
        low, high = start or 0, stop or 2**63
        for key, stamp, data in self.rows.execute("SELECT topic_id, timestamp, data FROM messages"):
            if key in selected and low <= stamp < high:
                yield selected[key], stamp, data


STORAGE = {".mcap": TruncatedMcap, ".db3": TruncatedSqlite3}
