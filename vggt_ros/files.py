# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and point clouds as PLY."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8


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


def write_ply(
    path: Path | str,
    points: Float[np.ndarray, "p 3"],
    colours: UInt8[np.ndarray, "p 3"],
    confidence: Float[np.ndarray, "p"] | None = None,
) -> None:
    """Points (world units), colours and perhaps confidence as binary little-endian PLY."""
    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    if confidence is not None:
        fields.append(("confidence", "<f4"))
    rows = np.empty(len(points), dtype=fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colours[:, channel]
    if confidence is not None:
        rows["confidence"] = confidence
    names = {"<f4": "float", "u1": "uchar"}
    properties = [f"property {names[kind]} {name}" for name, kind in fields]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header = "\n".join([*lines, *properties, "end_header", ""])
    with atomic_write(Path(path)) as file:
        file.write(header.encode("ascii") + rows.tobytes())
