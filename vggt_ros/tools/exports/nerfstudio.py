# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio: cameras, images, masks, depth, and points to start a splat with.

Conventions (https://docs.nerf.studio/quickstart/data_conventions.html): a camera looks along its
negative z axis, y is up; the centre of the first pixel is (0.5, 0.5); depth files hold thousandths
of the world's unit; all images have masks, or none has.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.files import write_ply
from vggt_ros.tools.exports.images import ExportedImage
from vggt_ros.tools.exports.masks import write_empty_mask, write_mask
from vggt_ros.tools.exports.sparse_model import PIXEL_CENTRE, build_model
from vggt_ros.tools.runs.format import Run, RunFrame
from vggt_ros.tools.runs.whole_images import depth_on_image

OPTICAL_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
THOUSANDTHS = 1000.0


def write_nerfstudio(
    folder: Path,
    run: Run,
    frames: Sequence[int],
    images: Sequence[ExportedImage],
    quota: int,
    advance: Callable[[], object],
) -> int:
    """transforms.json, points.ply, masks/ and depth/ beside images/; returns the number of points.

    `advance()` is called for each frame.
    """
    points = build_model(run, frames, images, quota).points
    write_ply(folder / "points.ply", points.positions.astype(np.float32), points.colours)
    rows = []
    for index in frames:
        frame, image = run.frame(index), images[index]
        name = f"depth/{index:06d}.npy"
        (folder / "depth").mkdir(exist_ok=True)
        depth = depth_on_image(frame, image.image_from_grid, (image.width, image.height))
        np.save(folder / name, np.nan_to_num(depth * np.float32(THOUSANDTHS)))
        row = _row(frame, image) | {"depth_file_path": name}
        if write_mask(folder / _mask(image), frame, image):
            row["mask_path"] = _mask(image)
        rows.append(row)
        advance()
    if any("mask_path" in row for row in rows):
        for index, row in zip(frames, rows, strict=True):
            if "mask_path" not in row:
                row["mask_path"] = _mask(images[index])
                write_empty_mask(folder / row["mask_path"], images[index])
    document = {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": rows}
    (folder / "transforms.json").write_text(json.dumps(document, indent=1) + "\n")
    return len(points.positions)


def _mask(image: ExportedImage) -> str:
    return f"masks/{image.name}.png"


def _row(frame: RunFrame, image: ExportedImage) -> dict[str, Any]:
    k = image.image_from_grid @ frame.intrinsics
    return {
        "file_path": f"images/{image.name}",
        "fl_x": k[0, 0],
        "fl_y": k[1, 1],
        "cx": k[0, 2] + PIXEL_CENTRE,
        "cy": k[1, 2] + PIXEL_CENTRE,
        "w": image.width,
        "h": image.height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "transform_matrix": (frame.world_from_camera @ OPTICAL_FROM_OPENGL).tolist(),
    }
