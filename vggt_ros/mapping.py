# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map as a cloud: one averaged point per voxel, bounded memory; and PLY, the file others read."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8


def write_ply(
    path: Path | str,
    points: Float[np.ndarray, "p 3"],
    colours: UInt8[np.ndarray, "p 3"],
    confidence: Float[np.ndarray, " p"] | None = None,
) -> None:
    """Points (world units), colours and perhaps confidence as binary little-endian PLY.

    The file appears whole or not at all: it is written beside its place and then moved there.
    """
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
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
    properties = "".join(f"property {names[kind]} {name}\n" for name, kind in fields)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(header.encode("ascii") + rows.tobytes())
    unfinished.replace(path)
