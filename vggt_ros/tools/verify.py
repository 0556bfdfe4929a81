# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt verify`: comparison of this network with recorded outputs of the reference network."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.option_sets import refuse_unused

if TYPE_CHECKING:
    from jax import Array

    from vggt_ros.model.config import Config


class Row(NamedTuple):
    """Comparison of one tensor."""

    name: str
    shape: tuple[int, ...]
    error: float  # largest absolute difference; infinite for another shape, NaN if any is NaN
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def verify(
    config: Path,
    weights: tuple[Path, ...],
    case: Path | None = None,
    tolerance: Path | None = None,
) -> int:
    """Run the network on a recorded case and compare every tensor with the reference's.

    Prints one row a tensor and exits with 1 if any error exceeds its tolerance. Without a case, the
    names and shapes of the weights are compared with the configuration; heads that the weights do
    not have at all are reported, and left out. All arithmetic is float32, matrix products at the
    highest precision.

    Args:
        config: config.json with the model's dimensions under "config", and its layout ("layout",
            "order") where it is not the official one.
        weights: Files that together hold all weights under their official names, or one file
            written by `vggt weights`.
        case: Safetensors file with in.images, in.query_points and the expected tensors. Images
            [B, T, N, 3, H, W] are those of N cameras at T instants; stages may have these axes
            apart or joined.
        tolerance: JSON file with a suggested_atol per case and tensor. Tensors without one may
            differ by 3e-5 of their largest value; track and its coordinates by 1e-4, the tracker's
            other stages by 3e-3, visibility and confidence of tracks by 2e-2, since the tracker
            amplifies rounding from iteration to iteration.
    """
    if case is None:
        text = "is of recorded tensors: name them with --case, or leave it out"
        refuse_unused(verify, locals(), {"tolerance": text})
    from vggt_ros.model import checkpoint
    from vggt_ros.model.tensor_files import open_files

    model = checkpoint.read_config(config)
    files = open_files(weights)
    heads = checkpoint.heads_of(files)
    if case is None:
        report = checkpoint.balance(model, files, heads)
        print(report)
        if not report.balanced:
            print(f"out of balance: {report.fault()}")
        return 0 if report.balanced and report.loaded else 1
    expected = open_files([case]).tensors
    limits = checkpoint.read_json(tolerance).get(case.stem) if tolerance else {}
    if limits is None:
        raise UserError(f"{tolerance} has no case {case.stem}; cases are named after their files")
    loaded, report = checkpoint.load(model, files, heads)
    print(report)
    tensors = _run(model, loaded, expected)
    axes = tuple(expected["in.images"].shape[:-3])
    rows = [
        compare(
            name,
            as_recorded(tensors[name], tuple(value.shape), axes),
            np.asarray(value),
            limits.get(name, {}).get("suggested_atol"),
        )
        for name, value in sorted(expected.items())
        if name in tensors
    ]
    print(table(rows))
    if absent := sorted(n for n in expected if n not in tensors and not n.startswith("in.")):
        print(f"not compared, for this network has no such stage: {', '.join(absent)}")
    good = sum(row.ok for row in rows)
    print(f"{good} of {len(rows)} tensors within tolerance")
    return 0 if rows and good == len(rows) else 1


# Tolerance as a share of the tensor's largest value; the first pattern that matches is used.
DEFAULTS = (
    (r"out\.(vis|conf)", 2e-2),
    (r"out\.track|track\.coords\.\d+", 1e-4),
    (r"track\.(uf_in|uf_out|corr)\.\d+", 3e-3),
    (r".*", 3e-5),
)


def compare(
    name: str, found: np.ndarray, expected: np.ndarray, tolerance: float | None = None
) -> Row:
    """Compare one tensor; the default tolerance is its share in `DEFAULTS`."""
    if tolerance is None:
        share = next(share for pattern, share in DEFAULTS if re.fullmatch(pattern, name))
        tolerance = share * max(float(np.abs(expected).max(initial=0)), 0.1)
    if found.shape != expected.shape:
        return Row(name, expected.shape, float("inf"), tolerance)
    error = np.abs(found.astype(np.float64) - expected).max(initial=0)
    return Row(name, expected.shape, float(error), tolerance)


def as_recorded(found: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """A tensor with its images on the axes of a recorded one of that `shape`, where it has them.

    `axes` are those of the images: scenes and frames, or scenes, instants and views. Stages have
    them apart, or the frames on one axis, or all on one; which of these is no part of the numbers.
    """
    ways = {axes, (axes[0], math.prod(axes[1:])), (math.prod(axes),)}
    for ours in ways:
        for theirs in ways:
            rest = found.shape[len(ours) :]
            if (*ours, *rest) == found.shape and (*theirs, *rest) == shape:
                return found.reshape(shape)
    return found


def table(rows: list[Row]) -> str:
    """The rows as text, in aligned columns."""
    width = max((len(row.name) for row in rows), default=4)
    lines = [f"{'tensor':<{width}}  {'shape':<20} {'max abs error':>13} {'tolerance':>10}  ok"]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        ok = "yes" if row.ok else "NO"
        lines.append(
            f"{row.name:<{width}}  {shape:<20} {row.error:>13.2e} {row.tolerance:>10.2e}  {ok}"
        )
    return "\n".join(lines)


def _run(config: "Config", weights: Any, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every stage of the network on the input of the case, and the geometry computed from it."""
    import jax

    from vggt_ros.geometry import (
        extrinsics_from_pose_encoding,
        intrinsics_from_pose_encoding,
        inverse_rigid,
        transform,
        unproject,
    )
    from vggt_ros.model.capture import capture_intermediates

    images, queries = _inputs(case, config.aggregator.patch_size)
    with jax.default_matmul_precision("highest"):
        captured = capture_intermediates(config, weights, images, queries)
    tensors = {name: np.asarray(value) for name, value in captured.items()}
    if "out.pose_enc" in tensors:
        encoding = tensors["out.pose_enc"]
        height, width = images.shape[-3:-1]
        extrinsics = extrinsics_from_pose_encoding(encoding)
        intrinsics = intrinsics_from_pose_encoding(encoding, height, width)
        tensors |= {"out.extrinsic": extrinsics, "out.intrinsic": intrinsics}
        if "out.depth" in tensors:
            camera_points = unproject(tensors["out.depth"][..., 0], intrinsics)
            world_from_camera = np.zeros((*extrinsics.shape[:-2], 4, 4), np.float32)
            world_from_camera[..., :3, :] = inverse_rigid(extrinsics)
            tensors["out.unprojected"] = transform(world_from_camera, camera_points)
    return tensors


def _inputs(case: dict[str, Any], patch: int) -> tuple["Array", "Array | None"]:
    """Images with colour as the last axis, and query points if the case has any."""
    import jax.numpy as jnp

    if "in.images" not in case:
        raise UserError("the case holds no in.images: is it a case file?")
    shape = case["in.images"].shape
    if len(shape) not in (5, 6) or shape[-3] != 3 or shape[-2] % patch or shape[-1] % patch:
        raise UserError(
            f"in.images of shape {tuple(shape)} is not [scenes, frames, 3, height, width], nor "
            "[scenes, instants, views, 3, height, width], "
            f"with height and width multiples of {patch}"
        )
    images = np.moveaxis(np.asarray(case["in.images"], np.float32), -3, -1)
    queries = case.get("in.query_points")
    if queries is not None:
        queries = jnp.asarray(np.asarray(queries, np.float32))
    return jnp.asarray(images), queries
