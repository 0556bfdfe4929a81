# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt export RUN --to FORMAT --out PLACE`: a run for nerfstudio, as GLB, as KITTI poses."""

from pathlib import Path
from typing import Literal

from vggt_ros.errors import UserError
from vggt_ros.tools.exports.folder import export_folder
from vggt_ros.tools.exports.glb import write_glb
from vggt_ros.tools.exports.images import Images, export_images
from vggt_ros.tools.exports.kitti import write_kitti
from vggt_ros.tools.exports.nerfstudio import write_nerfstudio
from vggt_ros.tools.runs.format import open_run
from vggt_ros.tools.runs.fused import FusedRun
from vggt_ros.tools.runs.writer import writing


def export(
    run: Path,
    out: Path,
    *,
    to: Literal["nerfstudio", "glb", "kitti"],
    segment: int = 0,
    max_points: int = 200_000,
    images: Images = "link",
    fuse: bool = True,
) -> Path:
    """Write one segment of a run in the format of another program; returns what was written.

    Args:
        run: directory that `vggt run` wrote.
        out: a folder, where an earlier export is replaced; for glb, a file.
        to: nerfstudio (transforms.json with images, depth and points), glb (points and cameras), or
            kitti (poses.txt, times.txt). For COLMAP see vggt colmap.
        segment: the n-th largest segment of the map, from 0; mostly there is one.
        max_points: maximum number of points.
        images: for nerfstudio: link (hard links, copies across disks) or copy the originals; grid
            writes those on the grid of the depth.
        fuse: move the depth of all frames to one surface, for points and depth.
    """
    opened = open_run(run)
    segments = opened.placed_segments()
    frames, note = opened.segment(segment), ""
    surface = FusedRun.of(opened, frames) if fuse and to != "kitti" else opened
    if to == "glb":
        if out.suffix.lower() != ".glb" or out.is_dir():
            raise UserError(f"{out} is no name of a GLB file; give --out NAME.glb")
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            count = write_glb(out, surface, frames, max_points)
        what = f"{count:,} points, {len(frames)} cameras"
    elif to == "kitti":
        with export_folder(out, to, run) as folder:
            write_kitti(folder, opened, frames)
        what = f"{len(frames)} poses"
    else:
        with export_folder(out, to, run) as folder:
            exported, note = export_images(opened, folder / "images", images)
            quota = max(1, max_points // len(frames))
            count = write_nerfstudio(folder, surface, frames, exported, quota)
        what = f"{len(frames)} images, {count:,} points"
    if note:
        print(note)
    if len(segments) > 1:
        print(
            f"warning: segment {segment} of {len(segments)} that nothing ties together; the others:"
            f" --segment 0 to {len(segments) - 1}"
        )
    print(f"{what}: {out}")
    return out
