# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A segment as a coloured mesh: its depth in a truncated signed distance field, by open3d.

The method is that of Curless and Levoy (1996), "A volumetric method for building complex models
from range images".
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.geometry import inverse_rigid
from vggt_ros.tools.runs.format import Run

SUFFIXES = (".ply", ".obj", ".glb", ".stl")
VOXELS = 150  # of a side, from the camera to the median depth
TRUNCATION = 4  # voxels
BLOCK, BLOCKS = 16, 10_000  # voxels of a block's side, and how many blocks to begin with
FAR = 3.0  # median depths; what is farther is too coarse


def load_open3d() -> Any:
    """The library.  Raises `UserError` where it is missing or does not load."""
    try:
        import open3d as o3d  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(f"open3d is missing; install it {install_extra('mesh')}") from None
    except ImportError as error:  # its wheel needs libraries of the system
        raise UserError(f"open3d does not load ({error}); install that library") from None
    return o3d


def write_mesh(
    path: Path, run: Run, frames: Sequence[int], voxel: float, advance: Callable[[], object]
) -> tuple[int, float]:
    """Write the mesh; returns the number of its triangles and the voxel's side in world units.

    A `voxel` of 0 is chosen by the depth.  Raises `UserError` without open3d, and without depth.
    """
    o3d = load_open3d()
    medians = [
        float(np.median(valid)) for i in frames
        if (valid := (depth := run.frame(i).depth)[np.isfinite(depth)]).size
    ]  # fmt: skip
    if not medians:
        raise UserError(f"no frame of {run.path} has depth, of which a mesh could be made")
    typical = float(np.median(medians))
    voxel = voxel or typical / VOXELS
    grid = o3d.t.geometry.VoxelBlockGrid(  # the older volumes of open3d 0.20 give no mesh
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(o3d.core.float32,) * 3,
        attr_channels=((1,), (1,), (3,)),
        voxel_size=voxel,
        block_resolution=BLOCK,
        block_count=BLOCKS,
        device=o3d.core.Device("CPU:0"),
    )
    for index in frames:
        frame = run.frame(index)
        depth = o3d.t.geometry.Image(o3d.core.Tensor(np.nan_to_num(frame.depth)))
        colours = o3d.t.geometry.Image(o3d.core.Tensor(frame.image.astype(np.float32) / 255))
        k = o3d.core.Tensor(frame.intrinsics.astype(np.float64))
        camera_from_world = o3d.core.Tensor(inverse_rigid(frame.world_from_camera))
        reach = 1.0, FAR * typical, float(TRUNCATION)  # scale of depth, farthest, voxels
        seen = grid.compute_unique_block_coordinates(depth, k, camera_from_world, *reach)
        grid.integrate(seen, depth, colours, k, k, camera_from_world, *reach)
        advance()
    mesh = grid.extract_triangle_mesh(weight_threshold=0.5).to_legacy()
    if not len(mesh.triangles):
        raise UserError(f"the depth of {run.path} makes no surface; choose a larger --voxel")
    mesh.compute_vertex_normals()
    beside = path.with_name(f".part.{path.name}")  # open3d goes by the suffix
    try:
        if not o3d.io.write_triangle_mesh(str(beside), mesh):
            raise UserError(f"cannot write {path}; free some space or choose another --out")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return len(mesh.triangles), voxel
