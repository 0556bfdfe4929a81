# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all, and point clouds as PLY."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int, UInt8

from vggt_ros.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write beside `path`, then rename: no reader ever meets half a file.

    Whatever is raised inside, `OSError` of the disk included, leaves the file as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder, filled beside `path`, that then takes its place, with all that was in it.

    Whatever is raised inside leaves `path` as it was. So does the end of the process, but for the
    moment between two renames: then `restore_folder` puts the old one back. Of a link to a folder
    it is that folder.  Raises UserError where `replaceable` does.
    """
    path = replaceable(path)
    new, old = _beside(path)
    restore_folder(path)
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        new.mkdir(parents=True)
        yield new
        os.sync()  # a power failure must not leave the new name with files that are empty
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        restore_folder(path)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def replaceable(path: Path) -> Path:
    """The folder's own path, without links, `.` and `..`.

    Raises UserError for one that must not be replaced: whoever works in it would stand in a folder
    that is gone.
    """
    folder, here = path.resolve(), Path.cwd()
    if folder == here or folder in here.parents:
        raise UserError(
            f"{path} would be replaced as a whole, and the working directory is in it; name a"
            " folder in it"
        )
    return folder


def restore_folder(path: Path) -> None:
    """Put back what a process left beside that was killed while it replaced the folder."""
    path = path.resolve()
    _, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where a folder is prepared, and where the one before it waits."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")


def json_bytes(document: Any, indent: int = 2) -> bytes:
    """A JSON file in UTF-8, which `json.loads` gives back as it was.

    Also with names of files that are not UTF-8: their bytes, which Python has as lone surrogates,
    are escaped.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # which is JSON's own escape


PLY_TYPES = {"<f4": "float", "u1": "uchar", "<i4": "int"}  # NumPy's name: PLY's


def write_ply(
    path: Path | str,
    points: Float[np.ndarray, "p 3"],
    colours: UInt8[np.ndarray, "p 3"],
    confidence: Float[np.ndarray, "p"] | None = None,
    keyframes: Int[np.ndarray, "p"] | None = None,
) -> None:
    """Points (world units) and colours as binary little-endian PLY.

    Perhaps with confidence, and with the keyframe that each point moves with.
    """
    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    if confidence is not None:
        fields.append(("confidence", "<f4"))
    if keyframes is not None:
        fields.append(("keyframe", "<i4"))
    rows = np.empty(len(points), dtype=fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colours[:, channel]
    if confidence is not None:
        rows["confidence"] = confidence
    if keyframes is not None:
        rows["keyframe"] = keyframes
    properties = [f"property {PLY_TYPES[kind]} {name}" for name, kind in fields]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header = "\n".join([*lines, *properties, "end_header", ""])
    with atomic_write(Path(path)) as file:
        file.write(header.encode("ascii") + rows.tobytes())


def read_ply(content: bytes) -> dict[str, np.ndarray]:
    """The columns of a file that `write_ply` wrote, by name.  Raises ValueError for any other."""
    header, found, body = content.partition(b"end_header\n")
    first, kind, element, *properties = header.decode("ascii").splitlines() or [""] * 3
    if not found or (first, kind) != ("ply", "format binary_little_endian 1.0"):
        raise ValueError("no PLY file of this program")
    numpy_types = {name: kind for kind, name in PLY_TYPES.items()}
    fields = [
        (name, numpy_types[kind]) for _, kind, name in (line.split(" ") for line in properties)
    ]
    count = int(element.removeprefix("element vertex "))
    rows = np.frombuffer(body, np.dtype(fields), count)
    return {name: rows[name].copy() for name, _ in fields}
