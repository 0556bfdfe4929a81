# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt colmap RUN --out DIR`: a run as COLMAP files, for splatting, meshing, dense stereo.

    DIR/images/...                               the original images, by their names
    DIR/sparse/0/{cameras,images,points3D}.txt   the model, and the same as .bin
    DIR/sparse/1/...                             a model of each further segment of the map
    DIR/vggt.json                                says that the folder is such an export

As in COLMAP, images that could not be registered are in no model, and what is not tied together is
in models of its own; here the largest comes first.
"""

from pathlib import Path

from vggt_ros.errors import UserError
from vggt_ros.tools.exports.colmap_files import write_model
from vggt_ros.tools.exports.folder import export_folder
from vggt_ros.tools.exports.images import Images, export_images
from vggt_ros.tools.exports.sparse_model import build_model
from vggt_ros.tools.runs.format import open_run


def colmap(run: Path, out: Path, *, max_points: int = 200_000, images: Images = "link") -> Path:
    """Write the run as a COLMAP workspace; returns the folder of the largest sparse model.

    Cameras are pinhole ones of the exported images. Each point carries all images that see it.

    Args:
        run: directory that `vggt run` wrote.
        out: output folder, for images/ and sparse/; an earlier export in it is replaced.
        max_points: maximum number of points in all models together.
        images: link (hard links, copies across disks) or copy the original images; grid writes
            those on the grid of the depth.
    """
    opened = open_run(run)
    segments = opened.segments()
    if not segments:
        raise UserError(f"{run} holds no frames; make some with: vggt run SOURCE --out {run}")
    with export_folder(out, "colmap", run) as folder:
        exported, note = export_images(opened, folder / "images", images)
        quota = max_points // sum(map(len, segments))
        lengths = []
        for number, frames in enumerate(segments):
            model = build_model(opened, frames, exported, quota)
            write_model(folder / "sparse" / str(number), model)
            lengths += model.points.lengths.tolist()
    if note:
        print(note)
    registered = sum(map(len, segments))
    print(
        f"{registered} of {len(exported)} images in {len(segments)}"
        f" model{'s that nothing ties together' if len(segments) > 1 else ''};"
        f" {len(lengths):,} points, each seen by {sum(lengths) / max(len(lengths), 1):.1f} images:"
        f" {out}"
    )
    return out / "sparse" / "0"
