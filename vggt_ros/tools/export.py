# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt export RUN --to FORMAT --out PLACE`: a run in the format of another program."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vggt_ros.errors import UserError
from vggt_ros.tools.exports.folder import check_folder, export_folder
from vggt_ros.tools.exports.glb import write_glb
from vggt_ros.tools.exports.images import Images, export_images
from vggt_ros.tools.exports.kitti import write_kitti
from vggt_ros.tools.exports.mesh import SUFFIXES, load_open3d, write_mesh
from vggt_ros.tools.exports.nerfstudio import write_nerfstudio
from vggt_ros.tools.exports.progress import fused, progress
from vggt_ros.tools.exports.rosbag2 import write_rosbag2
from vggt_ros.tools.option_sets import check_limits, refuse_unused
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.writer import writing

OF_FORMATS = {  # options, and the formats that they are of
    "max_points": ("nerfstudio", "glb"),
    "images": ("nerfstudio",),
    "fuse": ("nerfstudio", "glb", "mesh", "rosbag2"),
    "voxel": ("mesh",),
}
FILES = {"glb": (".glb",), "mesh": SUFFIXES}  # formats that are one file, with their suffixes


def export(
    run: Path,
    out: Path,
    *,
    to: Literal["nerfstudio", "glb", "mesh", "kitti", "rosbag2"],
    segment: int = 0,
    max_points: int = 200_000,
    images: Images = "link",
    fuse: bool = True,
    voxel: float = 0.0,
) -> Path:
    """Write one segment of a run in the format of another program; returns what was written.

    What was there stays until the new export is complete, also after Ctrl-C.

    Args:
        run: directory that `vggt run` wrote.
        out: a folder, where an earlier export is replaced; for glb and mesh, a file.
        to: nerfstudio (transforms.json with images, masks, depth and points), glb (points and
            cameras), mesh (a surface of all depth, by open3d), kitti (poses.txt, times.txt), or
            rosbag2 (the node's topics and TF, to be replayed). For COLMAP see vggt colmap.
        segment: the n-th largest segment of the map, from 0; mostly there is one.
        max_points: maximum number of points.
        images: for nerfstudio: link (hard links, copies across disks) or copy the originals; grid
            writes those on the grid of the depth.
        fuse: move the depth of all frames to one surface, for points and depth.
        voxel: side of a voxel of the mesh in world units; 0: a hundred and fiftieth of the depth.
    """
    check_limits(locals(), max_points=(1, math.inf), voxel=(0, math.inf))
    refuse_unused(export, locals(), {
        option: f"is of {' and '.join(formats)}, and {to} has none: leave it out"
        for option, formats in OF_FORMATS.items() if to not in formats
    })  # fmt: skip
    opened = open_run(run)
    segments = opened.placed_segments()
    frames = opened.segment(segment)
    check_folder(out) if to not in FILES else _check_file(out, to)  # before the long work
    if to == "mesh":
        load_open3d()
    surface = fused(opened, frames) if fuse and to != "kitti" else opened
    note = ""
    if to == "glb":
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            count = write_glb(out, surface, frames, max_points)
        what = f"{count:,} points, {len(frames)} cameras"
    elif to == "mesh":
        with writing(out), progress(len(frames), to) as advance:
            out.parent.mkdir(parents=True, exist_ok=True)
            count, voxel = write_mesh(out, surface, frames, voxel, advance)
        what = f"{count:,} triangles, of voxels of {voxel:.3g}"
    elif to == "kitti":
        frames, note = _of_body(opened, frames)
        with export_folder(out, to, run) as folder:
            write_kitti(folder, opened, frames)
        what = f"{len(frames)} poses"
    elif to == "rosbag2":
        with export_folder(out, to, run) as folder, progress(len(frames), to) as advance:
            count, note = write_rosbag2(folder, surface, frames, advance)
        what = f"{count:,} messages of {len(frames)} frames; to replay them: ros2 bag play"
    else:
        with export_folder(out, to, run) as folder, progress(len(frames), to) as advance:
            exported, note = export_images(opened, folder / "images", images)
            quota = max(1, max_points // len(frames))
            count = write_nerfstudio(folder, surface, frames, exported, quota, advance)
        what = f"{len(frames)} images, {count:,} points"
    if note:
        print(note)
    _say_left_out(len(opened.files), segment, segments)
    print(f"{what}: {out}")
    return out


def _check_file(out: Path, to: str) -> None:
    """Raise `UserError` for a name that is none of such a file."""
    suffixes = FILES[to]
    if out.suffix.lower() not in suffixes or out.is_dir():
        kind = "GLB" if to == "glb" else "mesh"
        names = " or ".join(f"NAME{suffix}" for suffix in suffixes)
        raise UserError(f"{out} is no name of a {kind} file; give --out {names}")


def _of_body(run: Run, frames: list[int]) -> tuple[list[int], str]:
    """Frames that one moving camera has, and a note where those are not all."""
    if not run.reference:
        return frames, ""
    own = set(run.body_frames())
    kept = [index for index in frames if index in own]
    if not kept:
        raise UserError(f"{run.reference}, the rig's reference, has no frame in this segment")
    return kept, f"of the rig, {run.reference} alone, its reference: {len(kept)} frames"


def _say_left_out(total: int, segment: int, segments: Sequence[Sequence[int]]) -> None:
    """Frames of the run that are not in the export."""
    if uncertain := total - sum(map(len, segments)):
        print(f"{uncertain} of {total} frames of the run are uncertain, and left out")
    if len(segments) > 1:
        print(
            f"warning: segment {segment} of {len(segments)} that nothing ties together; the others:"
            f" --segment 0 to {len(segments) - 1}"
        )
