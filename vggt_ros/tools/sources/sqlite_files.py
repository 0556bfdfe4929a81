# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A db3 file of rosbag2, whole or up to the first page that is missing."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from vggt_ros.tools.sources.bag_channels import Channel

MAGIC = b"SQLite format 3\0"


class SqliteFile:
    """As `Storage`.  Raises `sqlite3.DatabaseError` for what is no bag."""

    def __init__(self, path: Path):
        self.notes: list[str] = []
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
        page = int.from_bytes(head[16:18], "big")
        stated = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
        self.cut = f"it has {size} of {stated} bytes" if size < stated else ""
        where = f"file:{quote(str(path.absolute()))}?immutable=1"
        # One thread at a time, but not always the one that opened it.
        self._rows = sqlite3.connect(where, uri=True, check_same_thread=False)
        self._rows.execute("PRAGMA writable_schema=ON")  # without it SQLite refuses a short file
        definitions: dict[str, tuple[str, bytes]] = {}
        with suppress(sqlite3.DatabaseError):  # they are recorded since Iron
            query = "SELECT topic_type, encoding, encoded_message_definition"
            for kind, schema, text in self._rows.execute(f"{query} FROM message_definitions"):
                definitions[kind] = schema, str(text).encode()
        counts: dict[int, int] = {}
        if not self.cut:
            query = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
            counts = dict(self._rows.execute(query))
        query = "SELECT id, name, type, serialization_format FROM topics"
        self.channels = [
            Channel(key, name, kind, form, *definitions.get(kind, ("", b"")), counts.get(key, 0))
            for key, name, kind, form in self._rows.execute(query)
        ]

    def close(self) -> None:
        self._rows.close()

    def messages(self, keys: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """In the order of time; of a short file as stored, since the index may be what is lost."""
        order = "" if self.cut else " ORDER BY timestamp, id"
        marks = ",".join("?" * len(keys))
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}){order}"
        yield from self._rows.execute(query, tuple(keys))
