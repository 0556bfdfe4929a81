# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A segment as a coloured mesh: its depth in a truncated signed distance field, by open3d.

The method is that of Curless and Levoy (1996), "A volumetric method for building complex models
from range images".
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.runs.format import Run

SUFFIXES = (".ply", ".obj", ".glb", ".stl")
VOXELS = 150  # of a side, from the camera to the median depth
TRUNCATION = 4  # voxels
FAR = 3.0  # median depths; what is farther is too coarse


def write_mesh(
    path: Path, run: Run, frames: Sequence[int], voxel: float, advance: Callable[[], object]
) -> tuple[int, float]:
    """Write the mesh; returns the number of its triangles and the voxel's side in world units.

    A `voxel` of 0 is chosen by the depth.  Raises `UserError` without open3d, and without depth.
    """
    try:
        import open3d as o3d  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(f"open3d is missing; install it {install_extra('mesh')}") from None
    medians = [
        float(np.median(valid)) for i in frames
        if (valid := (depth := run.frame(i).depth)[np.isfinite(depth)]).size
    ]  # fmt: skip
    if not medians:
        raise UserError(f"no frame of {run.path} has depth, of which a mesh could be made")
    typical = float(np.median(medians))
    voxel = voxel or typical / VOXELS
    volume = o3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=TRUNCATION * voxel,
        color_type=o3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    for index in frames:
        frame = run.frame(index)
        k, (height, width) = frame.intrinsics, frame.depth.shape
        camera = o3d.camera.PinholeCameraIntrinsic(
            width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2]
        )
        image = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.geometry.Image(np.ascontiguousarray(frame.image)),
            o3d.geometry.Image(np.nan_to_num(frame.depth)),
            depth_scale=1.0, depth_trunc=FAR * typical, convert_rgb_to_intensity=False,
        )  # fmt: skip
        volume.integrate(image, camera, np.linalg.inv(frame.world_from_camera))
        advance()
    mesh = volume.extract_triangle_mesh()
    mesh.compute_vertex_normals()
    beside = path.with_name(f".part.{path.name}")  # open3d goes by the suffix
    try:
        if not o3d.io.write_triangle_mesh(str(beside), mesh):
            raise UserError(f"cannot write {path}; free some space or choose another --out")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return len(mesh.triangles), voxel
