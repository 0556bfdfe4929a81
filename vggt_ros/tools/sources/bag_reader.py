# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags of rosbag2 (mcap, sqlite3) and of ROS 1, whole or not, as one stream of messages.

What a file is, and whether it or its messages are compressed, is read off its first bytes, so that
metadata.yaml may be missing.  Only definitions of channels that are read are parsed.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.sources import mcap_files, ros1_files, sqlite_files
from vggt_ros.tools.sources.bag_channels import ZSTD, Channel, Storage, zstd_decompressed
from vggt_ros.tools.sources.images import natural

KEY = "rosbag2_bagfile_information"  # of metadata.yaml
METADATA = "metadata.yaml"
STORAGE = (".bag", ".db3", ".mcap", ".bag.active", ".db3.zstd", ".mcap.zstd", ".bag.zstd")
FORMATS = {
    mcap_files.MAGIC: mcap_files.McapFile,
    sqlite_files.MAGIC: sqlite_files.SqliteFile,
    ros1_files.MAGIC: ros1_files.Ros1File,
}
READ = ("cdr", "ros1")  # encodings of messages


def is_bag(path: Path) -> bool:
    """Whether it is a storage file, or a folder with one or with the metadata of rosbag2."""
    if path.is_dir():
        return bool(_storage_files(path)) or _has_metadata(path)
    return path.name.endswith(STORAGE)


class Connection(NamedTuple):
    """A topic of a bag, in one of its files."""

    channel: Channel
    file: Storage

    @property
    def topic(self) -> str:
        return self.channel.topic

    @property
    def msgtype(self) -> str:
        return self.channel.msgtype

    @property
    def msgcount(self) -> int:
        """Number of messages; 0 where it is not known."""
        return self.channel.msgcount


class BagReader:
    """An open bag; `connections` are those whose messages can be read."""

    def __init__(self, files: Collection[Storage], notes: list[str]):
        self.notes = notes
        every = [Connection(channel, file) for file in files for channel in file.channels]
        self.connections = [c for c in every if c.channel.encoding in READ]
        self.other_topics = sorted({c.topic for c in every} - {c.topic for c in self.connections})
        self._stores: dict[tuple[str, bool], Any] = {}

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of recording (ns) and data, in the order of time."""
        files = {id(c.file): c.file for c in connections}
        streams = [
            _stream(file, [c for c in connections if c.file is file]) for file in files.values()
        ]
        return iter(merge(*streams, key=lambda message: message[1]))

    def deserialize(self, data: bytes, connection: Connection) -> Any:
        """The message.  Raises whatever rosbags raises for one that is damaged."""
        ros1 = connection.channel.encoding == "ros1"
        key = connection.msgtype, ros1
        if key not in self._stores:
            self._stores[key] = _typestore(self._definitions(connection.msgtype), *key)
        store = self._stores[key]
        read = store.deserialize_ros1 if ros1 else store.deserialize_cdr
        return read(data, connection.msgtype)

    def _definitions(self, msgtype: str) -> list[Channel]:
        return [c.channel for c in self.connections if c.msgtype == msgtype]


def _stream(
    file: Storage, connections: list[Connection]
) -> Iterator[tuple[Connection, int, bytes]]:
    by_key = {connection.channel.key: connection for connection in connections}
    for key, stamp, data in file.messages(by_key):
        plain = zstd_decompressed(data) if data[:4] == ZSTD else data
        yield by_key[key], stamp, plain


def _typestore(channels: list[Channel], msgtype: str, ros1: bool) -> Any:
    """Of the definition that was recorded, else (none, or not to be parsed) of ROS itself."""
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    for channel in channels:
        text = channel.definition.decode(errors="replace")
        try:
            if not text:
                continue
            store = get_typestore(Stores.EMPTY)
            if channel.schema.endswith("idl"):
                parts = [part for part in text.split("=" * 80 + "\n") if part.strip()]
                for part in parts:
                    head, _, rest = part.partition("\n")
                    store.register(get_types_from_idl(rest if head.startswith("IDL: ") else part))
            else:
                store.register(get_types_from_msg(text, msgtype))
            store.generate_msgdef(msgtype)
            return store
        except Exception:  # the parser raises many types
            continue
    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)


# ---- opening


@contextmanager
def reading(path: Path, notes: list[str]) -> Iterator[BagReader]:
    """An open reader; what could not be read of the bag is a line in `notes`."""
    try:
        import rosbags  # noqa: F401
    except ImportError:
        raise UserError(
            f"reading bags needs rosbags; install it {install_extra('tools')}"
        ) from None
    with ExitStack() as stack:
        files = []
        for part in _files_of(path, notes):
            try:
                file = _opened(part, stack)
            except UserError as error:
                raise UserError(f"{path} cannot be read as a bag: {error}") from None
            except Exception as error:  # three formats raise many types
                raise UserError(
                    f"{path} cannot be read as a bag: {error or type(error).__name__}"
                    f"{_advice(part)}"
                ) from None
            if file.cut:
                notes.append(f"the bag is truncated ({file.cut}); it is read up to the cut")
            file.notes = notes
            files.append(file)
        yield BagReader(files, notes)


def _advice(file: Path) -> str:
    if ".bag" in file.name:
        return "; check it with: rosbag info, and repair it with: rosbag reindex"
    return "; check it with: ros2 bag info"


def _opened(path: Path, stack: ExitStack) -> Storage:
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == ZSTD:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vggt_bag_")))
        return _opened(_decompressed(path, folder), stack)
    for magic, storage in FORMATS.items():
        if head.startswith(magic):
            opened = storage(path)
            stack.callback(opened.close)
            return opened
    raise UserError("it is empty" if not head else f"{path.name} is neither mcap, db3 nor ROS 1")


def _decompressed(path: Path, folder: Path) -> Path:
    """The content of a compressed file, as far as it goes."""
    from backports import zstd  # comes with rosbags

    plain = folder / path.name.removesuffix(".zstd")
    with path.open("rb") as stored, plain.open("wb") as out:
        frame = zstd.ZstdDecompressor()
        try:
            while data := stored.read(1 << 20):
                while data:
                    out.write(frame.decompress(data))
                    data = frame.unused_data if frame.eof else b""
                    frame = zstd.ZstdDecompressor() if frame.eof else frame
        except zstd.ZstdError:
            pass  # damaged from here on: its reader says that it is cut
    return plain


def _files_of(path: Path, notes: list[str]) -> list[Path]:
    """Storage files of a bag, in the order of recording."""
    if not path.is_dir():
        return [path]
    found, listed = _storage_files(path), _listed_files(path)
    if listed:
        there = [file for file in listed if file.exists()]
        if len(there) < len(listed) and there:
            missing = ", ".join(file.name for file in listed if not file.exists())
            notes.append(f"the bag is read without {missing}, which is missing")
        found = there or found
    if not found:
        raise UserError(f"{path} cannot be read as a bag: it has no storage file (.mcap, .db3)")
    return found


def _storage_files(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.name.endswith(STORAGE) and p.is_file())
    return sorted((p for p in files if p.name[0] != "."), key=lambda p: natural(p.name))


def _has_metadata(folder: Path) -> bool:
    try:
        return KEY in (folder / METADATA).read_text(errors="replace")
    except OSError:
        return False


def _listed_files(folder: Path) -> list[Path]:
    """By metadata.yaml; none where it is missing or no such file."""
    from ruamel.yaml import YAML, YAMLError

    if not _has_metadata(folder):
        return []
    try:
        document = YAML(typ="safe").load((folder / METADATA).read_text())
        return [folder / Path(name).name for name in document[KEY]["relative_file_paths"]]
    except (YAMLError, KeyError, TypeError, UnicodeDecodeError, OSError):
        return []
