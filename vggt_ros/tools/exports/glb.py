# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A segment as one GLB file: its coloured points, and the frusta of its cameras.

glTF is y up and looks along negative z (https://registry.khronos.org/glTF/specs/2.0/); the world of
a run is z up.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.files import atomic_write
from vggt_ros.geometry import transform, unproject
from vggt_ros.tools.runs.format import Run, RunFrame

if TYPE_CHECKING:
    import trimesh

GLTF_FROM_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
FIRST, LAST = np.array([64, 196, 255]), np.array([255, 138, 60])  # colours along the way
EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))


def write_glb(path: Path, run: Run, frames: Sequence[int], max_points: int) -> int:
    """Write the file; returns the number of points in it."""
    try:
        import trimesh
    except ModuleNotFoundError:
        raise UserError(f"trimesh is missing; install it {install_extra('tools')}") from None
    quota, parts, colours = max(1, max_points // len(frames)), [], []
    depths = []
    for index in frames:
        frame = run.frame(index)
        valid = np.flatnonzero(np.isfinite(frame.depth))
        chosen = np.sort(np.random.default_rng(index).permutation(valid)[:quota])
        points = unproject(frame.depth.astype(np.float64), frame.intrinsics).reshape(-1, 3)[chosen]
        parts.append(transform(GLTF_FROM_WORLD @ frame.world_from_camera, points))
        colours.append(frame.image.reshape(-1, 3)[chosen])
        depths.append(np.median(frame.depth.reshape(-1)[valid]) if len(valid) else np.nan)
    size = 0.08 * float(np.nanmedian([*depths, 1.0] if np.isnan(depths).all() else depths))
    cloud, colour = np.concatenate(parts), np.concatenate(colours)
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.PointCloud(cloud, colour), node_name="points")
    for number, index in enumerate(frames):
        colour_now = FIRST + number / max(len(frames) - 1, 1) * (LAST - FIRST)
        frustum = _frustum(run.frame(index), size, colour_now.astype(np.uint8))
        scene.add_geometry(frustum, node_name=f"camera {number:06d}")
    content = scene.export(file_type="glb")
    assert isinstance(content, bytes)
    with atomic_write(path) as file:
        file.write(content)
    return len(cloud)


def _frustum(frame: RunFrame, size: float, colour: np.ndarray) -> "trimesh.path.Path3D":
    """The edges of a camera's field of view, up to this depth."""
    from trimesh.path.entities import Line
    from trimesh.path.path import Path3D

    height, width = frame.image.shape[:2]
    ends = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    rim = size * (ends - [0.5, 0.5, 0]) @ np.linalg.inv(frame.intrinsics).T
    corners = transform(
        GLTF_FROM_WORLD @ frame.world_from_camera, np.concatenate([np.zeros((1, 3)), rim])
    )
    return Path3D([Line(list(edge)) for edge in EDGES], corners, colors=np.tile(colour, (8, 1)),
                  process=False)  # fmt: skip
