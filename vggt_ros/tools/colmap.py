# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt colmap RUN --out DIR`: a run as COLMAP files, for splatting, meshing, dense stereo.

    DIR/images/...                               the original images, by their names
    DIR/sparse/0/{cameras,images,points3D}.txt   the model, and the same as .bin
    DIR/sparse/1/...                             a model of each further segment of the map
    DIR/masks/NAME.png                           0 where the run ignored a pixel of images/NAME
    DIR/depths/..., sparse/0/depth_params.json   with --depth: inverse depth for 3DGS
    DIR/sparse/0/trajectory.tum                  with --adjust: the adjusted cameras
    DIR/vggt.json                                says that the folder is such an export

As in COLMAP, images that could not be registered are in no model, and what is not tied together is
in models of its own; here the largest comes first.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.exports.adjusting import CameraModel, adjusted, load_pycolmap
from vggt_ros.tools.exports.colmap_files import write_model
from vggt_ros.tools.exports.folder import export_folder
from vggt_ros.tools.exports.images import ExportedImage, Images, export_images
from vggt_ros.tools.exports.masks import check_depth_names, write_depths, write_masks
from vggt_ros.tools.exports.measured_tracks import ENOUGH, measure_tracks
from vggt_ros.tools.exports.progress import fused, progress
from vggt_ros.tools.exports.sparse_model import Camera, build_model
from vggt_ros.tools.option_sets import check_limits, refuse_unused
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.recording import RecordedEngine
from vggt_ros.tools.runs.writer import tum_line

OFF_MIDDLE = 0.02  # share of a side; less is what grids round
AS_SEQUENCE = (
    "warning: the weights' layout is view_time, and points are followed in windows of one sequence,"
    " as in joint: weights that were trained by views are less accurate there"
)
KEPT = "kept, since all frames of a camera have the same"


def colmap(
    run: Path,
    out: Path,
    *,
    max_points: int = 200_000,
    images: Images = "link",
    fuse: bool = True,
    adjust: bool = False,
    camera: CameraModel = "PINHOLE",
    shared_camera: bool = True,
    depth: bool = False,
    cache_dir: Path | None = Path("~/.cache/vggt_ros"),
) -> Path:
    """Write the run as a COLMAP workspace; returns the folder of the largest sparse model.

    Cameras are pinhole ones of the exported images. Each point carries all images that see it.

    Args:
        run: directory that `vggt run` wrote.
        out: output folder, for images/ and sparse/; an earlier export in it is replaced.
        max_points: maximum number of points in all models together.
        images: link (hard links, copies across disks) or copy the original images; grid writes
            those on the grid of the depth.
        fuse: take points from one surface, to which the depth of all frames is moved.
        adjust: follow points through the frames with the network of the run, and let pycolmap's
            bundle adjustment move cameras and points to where they fit. Models then have these
            points instead of those of the depth.
        camera: COLMAP's camera model, with adjust.
        shared_camera: with adjust: images of one size (of a rig, of one of its cameras) have one
            camera, else each has its own.
        depth: also write the depth of every image, as the official code of 3D Gaussian Splatting
            reads it (-d depths): inverse, 16 bits, 0 where it is not known.
        cache_dir: directory of compiled programs.
    """
    given = locals()
    check_limits(given, max_points=(1, math.inf))
    if adjust and depth:
        raise UserError("--depth is of the run, and --adjust moves its cameras: leave one out")
    if not adjust:
        text = "is of bundle adjustment: add --adjust, or leave it out"
        names = ("camera", "shared_camera", "cache_dir")
        refuse_unused(colmap, given, dict.fromkeys(names, text))
    opened = open_run(run)
    segments = opened.placed_segments()
    if adjust and min(map(len, segments)) >= ENOUGH:  # smaller ones are not adjusted
        text = (
            "is of points of the depth, and with --adjust the network follows others: leave it out"
        )
        refuse_unused(colmap, given, dict.fromkeys(("max_points", "fuse"), text))
    lines = []
    with export_folder(out, "colmap", run) as folder:
        exported, note = export_images(opened, folder / "images", images)
        if depth:
            check_depth_names(exported)
        own = out.resolve()
        record = own.with_name(f".{own.name}.record")  # until the export is complete
        network = (camera, shared_camera, cache_dir, record)
        adjuster = _Adjuster(opened, *network) if adjust else None
        quota = max(1, max_points // sum(map(len, segments)))
        lengths, masks, off = [], 0, 0.0
        for number, frames in enumerate(segments):
            place = folder / "sparse" / str(number)
            masks += write_masks(folder / "masks", opened, frames, exported)
            if adjuster is not None and len(frames) >= ENOUGH:
                lines.append(adjuster.write(place, frames, exported))
                continue
            surface = fused(opened, frames) if fuse else opened
            with progress(len(frames), "points") as advance:
                model = build_model(surface, frames, exported, quota, advance)
            write_model(place, model)
            if depth:
                params = place / "depth_params.json"
                write_depths(folder / "depths", params, surface, frames, exported)
                off = max(off, *map(_off_middle, model.cameras))
            lengths += model.points.lengths.tolist()
    if adjuster is not None:
        adjuster.forget()
    if note:
        print(note)
    points = "" if lines and not lengths else f"; {_points_line(lengths)}"
    apart = "s that nothing ties together" if len(segments) > 1 else ""
    registered, models = sum(map(len, segments)), f"{len(segments)} model{apart}"
    print(f"{registered} of {len(exported)} images in {models}{points}: {out}")
    if masks:
        print(f"masks of {masks} images: {out / 'masks'}")
    for line in lines:
        print(line)
    if off > OFF_MIDDLE:
        print(
            "warning: principal points are up to"
            f" {100 * off:.1f} % of a side off the middle of their images, where the official code"
            " of 3D Gaussian Splatting takes them to be: gsplat and nerfstudio read them"
        )
    return out / "sparse" / "0"


def _off_middle(camera: Camera) -> float:
    """How far the principal point is from the image's middle, as a share of its sides."""
    _, _, cx, cy = camera.parameters
    return max(abs(cx / camera.width - 0.5), abs(cy / camera.height - 0.5))


def _points_line(lengths: Sequence[int]) -> str:
    """How many points there are, by the number of images that see each."""
    if not lengths:
        return "no points, since its frames contradict each other (--no-fuse keeps all)"
    seen = sum(lengths) / len(lengths)
    return f"{len(lengths):,} points, each seen by {seen:.1f} images"


class _Adjuster:
    """The network of a run, and how its models are adjusted."""

    def __init__(
        self,
        run: Run,
        camera: CameraModel,
        shared: bool,
        cache_dir: Path | None,
        record: Path,
    ):
        from vggt_ros.engine.engine import open_engine

        load_pycolmap()  # before the long work
        self._run, self._camera, self._shared = run, camera, shared
        engine = open_engine(
            run.summary["model"],
            dtype=run.summary.get("dtype", "auto"),
            cache_dir=cache_dir and cache_dir.expanduser(),
            progress=lambda line: print(line, file=sys.stderr),
        )
        if engine.layout == "view_time":
            print(AS_SEQUENCE, file=sys.stderr)
        self._engine = RecordedEngine(engine, record)
        if self._engine.found:
            print(f"going on: {self._engine.found} inferences are reused", file=sys.stderr)

    def forget(self) -> None:
        """The export is complete."""
        self._engine.forget()

    def write(self, place: Path, frames: Sequence[int], images: Sequence[ExportedImage]) -> str:
        """Write the adjusted model of these frames; returns a line on it."""
        from tqdm import tqdm

        with tqdm(total=len(frames), unit=" frames", desc="tracks", dynamic_ncols=True) as bar:
            try:
                tracks = measure_tracks(self._engine, self._run, frames, bar.update)
            except UserError:
                self.forget()  # it would happen again
                raise
        found = adjusted(
            self._run, frames, images, tracks, camera=self._camera, shared=self._shared
        )
        place.mkdir(parents=True)
        found.model.write_binary(str(place))
        found.model.write_text(str(place))
        stamps, poses = self._run.trajectory()
        lines = [
            tum_line(int(stamps[index]), pose)
            for index, pose in zip(frames, found.world_from_camera, strict=True)
        ]
        (place / "trajectory.tum").write_text("".join(lines))
        old = poses[np.array(frames)][:, :3, 3]
        way = np.linalg.norm(np.diff(old, axis=0), axis=1).sum()
        moved = np.sqrt(((found.world_from_camera[:, :3, 3] - old) ** 2).sum(1).mean())
        return (
            f"sparse/{place.name}: {found.model.num_points3D():,} points followed by the network;"
            f" mean error {found.error_before:.2f} -> {found.error:.2f} pixels; cameras moved by"
            f" {100 * moved / max(way, 1e-12):.1f} % of the way (rms); intrinsics"
            f" {'adjusted too' if found.refined else KEPT}"
        )
