# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run ignored of its images (`--mask-file`, `--mask-sky`, ...), and its depth, as images.

A mask file is as COLMAP and nerfstudio have it: 0 is ignored, of the size of its image.  A depth
file is as the official code of 3D Gaussian Splatting reads it (`-d depths`): inverse depth in 16
bits, 65535 for the nearest surface of the model, 0 where it is not known, which that code takes for
far away.  `depth_params.json` beside the sparse model has the unit.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.tools.exports.images import ExportedImage
from vggt_ros.tools.runs.format import Run, RunFrame
from vggt_ros.tools.runs.whole_images import depth_on_image

STEPS = 65535  # of a depth file
UNIT = 65536  # by which its readers divide


def ignored(frame: RunFrame, image: ExportedImage) -> Bool[np.ndarray, "H W"] | None:
    """Pixels of the exported image that the run ignored; None: it ignored none.

    The network's confidence is 1 or more; the pipeline sets it to 0 where a pixel is masked.
    """
    masked = frame.confidence == 0
    if not masked.any():
        return None
    (x, _, x0), (_, y, y0), _ = np.linalg.inv(image.image_from_grid)
    columns = np.rint(np.arange(image.width) * x + x0).astype(int)
    rows = np.rint(np.arange(image.height) * y + y0).astype(int)
    height, width = masked.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    found = masked[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)] & inside
    return found if found.any() else None


def write_mask(path: Path, frame: RunFrame, image: ExportedImage) -> bool:
    """Write the mask of an image where it has one; whether it has."""
    found = ignored(frame, image)
    if found is not None:
        _save(path, found)
    return found is not None


def write_empty_mask(path: Path, image: ExportedImage) -> None:
    """Write a mask by which nothing of an image is ignored."""
    _save(path, np.zeros((image.height, image.width), bool))


def _save(path: Path, found: Bool[np.ndarray, "H W"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(found, 0, 255).astype(np.uint8)).save(path)


def write_masks(
    folder: Path, run: Run, frames: Sequence[int], images: Sequence[ExportedImage]
) -> int:
    """Masks of these frames as COLMAP names them, NAME.png beside NAME; returns their number."""
    return sum(
        write_mask(folder / f"{images[i].name}.png", run.frame(i), images[i]) for i in frames
    )


def check_depth_names(images: Sequence[ExportedImage]) -> None:
    """Raises `UserError` for images whose depth files would have one name."""
    stems = Counter(_stem(image.name) for image in images)
    for stem, times in stems.items():
        if times > 1:
            alike = " and ".join(image.name for image in images if _stem(image.name) == stem)
            raise UserError(
                f"{alike} would have one depth file, since 3DGS names it without the image's"
                " suffix; rename one of them and run again, or use --images grid"
            )


def write_depths(
    folder: Path, params: Path, run: Run, frames: Sequence[int], images: Sequence[ExportedImage]
) -> None:
    """Depth files of these frames in `folder`, and `params`, the file of their unit."""
    nearest = min(
        (float(np.nanmin(depth)) for i in frames
         if np.isfinite(depth := run.frame(i).depth).any()),
        default=1.0,
    )  # fmt: skip
    rows = {}
    for i in frames:
        frame, image = run.frame(i), images[i]
        depth = depth_on_image(frame, image.image_from_grid, (image.width, image.height))
        steps = np.nan_to_num(np.rint(STEPS * nearest / depth)).clip(0, STEPS).astype(np.uint16)
        name = _stem(image.name)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(steps).save(path)
        rows[name] = {"scale": UNIT / (STEPS * nearest), "offset": 0.0}
    params.write_text(json.dumps(rows, indent=1) + "\n")


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
