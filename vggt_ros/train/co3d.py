# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows from folders in the Co3D layout, for fine-tuning on real images.

root/CATEGORY/frame_annotations.jgz lists frames of sequences: image, depth, mask, camera.
A window with a broken or missing file is reported, counted and replaced, up to a limit.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.train.config import Recipe
from vggt_ros.train.data import Batch, bucket_of, normalised

_FLIP = np.array([-1.0, -1.0, 1.0])  # Co3D cameras look along z with x left, y up
NEAR = 0.02  # of its depth: difference to the measured depth up to which a point is visible


class View(NamedTuple):
    """One frame, cropped and resized to a bucket.  Lengths are in the sequence's own unit."""

    image: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]
    camera_from_world: Float[np.ndarray, "3 4"]
    intrinsics: Float[np.ndarray, "3 3"]


def batches(recipe: Recipe, first: int) -> Iterator[Batch]:
    """Batches from step `first` on: each a function of seed and step, prefetched by threads."""
    import grain  # of the extra [train]

    sequences = Sequences(Path(recipe.data.root), recipe.data.bad_limit)

    def load(step: int) -> Batch:
        frames, height, width = recipe.buckets[bucket_of(recipe.seed, step, len(recipe.buckets))]
        random = np.random.default_rng((recipe.seed, step, 1))
        windows = [
            sequences.window(random, frames, height, width, recipe.queries)
            for _ in range(recipe.batch)
        ]
        return jax.tree.map(lambda *x: np.stack(x), *windows)

    reading = grain.ReadOptions(num_threads=recipe.data.threads, prefetch_buffer_size=4)
    steps = grain.MapDataset.range(first, recipe.steps)
    return iter(steps.map(load).to_iter_dataset(reading))


class Sequences:
    """Frames by sequence; counts the windows that could not be read.

    Raises UserError for a folder of another layout, and where too many windows are broken.
    """

    def __init__(self, root: Path, bad_limit: float):
        self.root, self.bad_limit = root, bad_limit
        self.requested, self.bad = 0, 0
        self._lock = threading.Lock()
        frames: dict[str, list[dict[str, Any]]] = {}
        lists = sorted(root.glob("*/frame_annotations.jgz"))
        for path in lists:
            try:
                rows = json.loads(gzip.decompress(path.read_bytes()))
            except (OSError, EOFError, ValueError) as fault:
                raise UserError(f"{path} cannot be read: {fault}") from fault
            try:
                for row in rows:
                    frames.setdefault(f"{path.parent.name}/{row['sequence_name']}", []).append(row)
            except (KeyError, TypeError) as fault:
                raise UserError(f"{path}: a row has no sequence_name, or is no object") from fault
        if not lists:
            raise UserError(
                f"{root} holds no CATEGORY/frame_annotations.jgz; data.root is the folder of the "
                "categories"
            )
        # A window is of frames that follow each other, however the list has them.
        self.frames = [
            sorted(frames[name], key=lambda row: row.get("frame_number", 0))
            for name in sorted(frames)
        ]

    def window(
        self, random: np.random.Generator, frames: int, height: int, width: int, queries: int
    ) -> Batch:
        """A random window of a random sequence, without a batch axis."""
        while True:
            rows = self.frames[random.integers(len(self.frames))]
            span = min(len(rows), int(frames * random.uniform(1, 4)))
            start = random.integers(len(rows) - span + 1)
            chosen = start + random.choice(span, frames, replace=span < frames)
            try:
                views = [read_view(self.root, rows[i], height, width) for i in chosen]
                self._count(None)
                return window_of(views, random, queries)
            except KeyError as fault:
                self._count(ValueError(f"an annotation has no {fault}"))
            except (OSError, ValueError, SyntaxError) as fault:
                self._count(fault)

    def _count(self, fault: Exception | None) -> None:
        with self._lock:
            self.requested += 1
            self.bad += fault is not None
            if fault is None:
                return
            print(f"skipped a window ({self.bad} of {self.requested}): {fault}")
            if self.bad > max(10, self.bad_limit * max(self.requested, 200)):
                raise UserError(
                    f"{self.root}: {self.bad} of {self.requested} windows could not be read, the "
                    f"last because {fault}; repair the data or raise data.bad_limit"
                ) from fault


def read_view(root: Path, row: dict[str, Any], height: int, width: int) -> View:
    """One annotated frame, cropped around its principal point to the aspect ratio, then resized."""
    image = Image.open(root / row["image"]["path"]).convert("RGB")
    depth = read_depth(root / row["depth"]["path"]) * row["depth"].get("scale_adjustment", 1.0)
    valid = np.isfinite(depth) & (depth > 0)
    if row["depth"].get("mask_path"):
        valid &= np.asarray(Image.open(root / row["depth"]["mask_path"]).convert("L")) > 0
    if depth.shape != (image.height, image.width):
        raise ValueError(f"{row['depth']['path']}: {depth.shape[::-1]} against {image.size}")
    camera_from_world, intrinsics = camera_of(row["viewpoint"], image.height, image.width)

    centre = intrinsics[:2, 2] + 0.5
    reach = np.minimum(centre, np.array(image.size) - centre)
    # Half extents of the largest window of this aspect that is centred there and inside.
    half = np.array([width, height]) * (reach / [width, height]).min()
    low = np.maximum(centre - half, 0)
    box = (*low, *(low + 2 * half))
    scale = np.array([width, height]) / (2 * half)
    intrinsics[:2, :2] *= scale[:, None]
    intrinsics[:2, 2] = (centre - low) * scale - 0.5
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box)
    nearest = Image.Resampling.NEAREST  # depth of two surfaces must not be averaged
    depth = np.asarray(Image.fromarray(depth).resize((width, height), nearest, box))
    valid = np.asarray(Image.fromarray(valid).resize((width, height), nearest, box))
    if not valid.any():
        raise ValueError(f"{row['depth']['path']}: no valid depth")
    pixels = np.asarray(resized, np.float32) / 255
    return View(pixels, depth, valid, camera_from_world, intrinsics.astype(np.float32))


def read_depth(path: Path) -> Float[np.ndarray, "h w"]:
    """16-bit PNG whose bits are float16 numbers."""
    with Image.open(path) as image:
        bits = np.asarray(image, np.uint16)
    return bits.view(np.float16).astype(np.float32)


def camera_of(viewpoint: dict[str, Any], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch3D's row-vector camera, x left and y up, to camera_from_world and K in OpenCV axes."""
    rotation = _FLIP[:, None] * np.array(viewpoint["R"], np.float64).T
    shift = _FLIP * np.array(viewpoint["T"], np.float64)
    size = np.array([width, height], np.float64)
    half = size / 2
    if viewpoint.get("intrinsics_format", "ndc_norm_image_bounds") == "ndc_isotropic":
        half = np.full(2, size.min() / 2)
    focal = np.array(viewpoint["focal_length"]) * half
    centre = size / 2 - np.array(viewpoint["principal_point"]) * half - 0.5
    intrinsics = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])
    return np.column_stack([rotation, shift]).astype(np.float32), intrinsics


def window_of(views: list[View], random: np.random.Generator, queries: int) -> Batch:
    """Ground truth of a window; a track is visible where its depth agrees with the measured one."""
    stacked = View(*(np.stack(field) for field in zip(*views, strict=True)))
    first = views[0]
    v, u = np.nonzero(first.valid)
    pick = random.integers(len(u), size=queries)
    pixels = np.stack([u[pick], v[pick]], axis=-1).astype(np.float32)
    rays = np.linalg.solve(first.intrinsics, np.column_stack([pixels, np.ones(queries)]).T)
    point = rays * first.depth[v[pick], u[pick]]
    world = first.camera_from_world[:, :3].T @ (point - first.camera_from_world[:, 3:])
    seen = stacked.camera_from_world[:, :, :3] @ world + stacked.camera_from_world[:, :, 3:]
    depth = np.maximum(seen[:, 2], 1e-6)
    uv = np.swapaxes((stacked.intrinsics @ seen)[:, :2] / depth[:, None], 1, 2)
    height, width = first.depth.shape
    column = np.clip(np.round(uv[..., 0]), 0, width - 1).astype(int)
    row = np.clip(np.round(uv[..., 1]), 0, height - 1).astype(int)
    frame = np.arange(len(views))[:, None]
    inside = (uv >= -0.5).all(-1) & (uv < np.array([width, height]) - 0.5).all(-1)
    agree = np.abs(stacked.depth[frame, row, column] - seen[:, 2]) < NEAR * depth
    visible = inside & agree & stacked.valid[frame, row, column] & (seen[:, 2] > 0)
    return normalised(
        stacked.image, stacked.depth, stacked.valid, stacked.camera_from_world,
        stacked.intrinsics, pixels, uv.astype(np.float32), visible,
    )  # fmt: skip
