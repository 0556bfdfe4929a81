# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment of a model by pycolmap: cameras and points moved to where tracks have them.

The result stands where the run stood: turned, moved and scaled onto the cameras before.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError, install_extra
from vggt_ros.geometry import inverse_rigid, nearest_rotation, quaternion_from_rotation
from vggt_ros.tools.exports.colmap_files import write_model
from vggt_ros.tools.exports.images import ExportedImage
from vggt_ros.tools.exports.measured_tracks import MeasuredTracks
from vggt_ros.tools.exports.sparse_model import PIXEL_CENTRE, Camera, Model, Points, View
from vggt_ros.tools.runs.format import Run

if TYPE_CHECKING:
    import pycolmap

CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "OPENCV"]
ROUNDS = (4.0, 2.0)  # network pixels: an observation further off is left out after each round
MIN_ANGLE = 0.5  # degrees of parallax, below which a point says nothing of the cameras
SAME_K = 1e-3  # relative spread of the intrinsics up to which they were given


class Adjusted(NamedTuple):
    """Result of an adjustment."""

    model: "pycolmap.Reconstruction"
    world_from_camera: Float64[np.ndarray, "s 4 4"]
    error_before: float  # pixels of the exported images, root mean square of what is left in
    error: float
    refined: bool  # whether intrinsics were adjusted too


def load_pycolmap() -> Any:
    """The library.  Raises `UserError` where it is missing."""
    try:
        import pycolmap
    except ImportError:
        raise UserError(f"pycolmap is missing; install it {install_extra('colmap')}") from None
    return pycolmap


def adjusted(
    run: Run,
    frames: Sequence[int],
    images: Sequence[ExportedImage],
    tracks: MeasuredTracks,
    *,
    camera: CameraModel = "PINHOLE",
    shared: bool = True,
) -> Adjusted:
    """The frames' cameras and the tracks' points after bundle adjustment.

    Intrinsics are adjusted as well, unless all frames of a camera have the same: then they were
    calibrated. With `shared`, images of one camera and size have one.  Raises `UserError` without
    pycolmap, and where nothing is left to adjust.
    """
    pycolmap = load_pycolmap()
    ks = np.array([images[i].image_from_grid @ run.frame(i).intrinsics for i in frames])
    keys = [(run.frame(i).camera, images[i].width, images[i].height) for i in frames]
    refined = any(
        np.ptp(own[:, 0, 0]) / own[:, 0, 0].mean() > SAME_K
        for own in (ks[[each == key for each in keys]] for key in set(keys))
    )
    model = _initial(run, frames, images, tracks, ks, keys if shared else range(len(frames)))
    with TemporaryDirectory(prefix="vggt_colmap_") as folder:
        write_model(Path(folder), model)
        found = pycolmap.Reconstruction(folder)
    for each in found.cameras.values():
        _set_model(each, camera)
    scale = float(np.median([np.sqrt(np.linalg.det(images[i].image_from_grid)) for i in frames]))
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = refined
    options.refine_principal_point = False
    options.refine_extra_params = refined and camera == "OPENCV"
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = scale
    for bound in ROUNDS:
        pycolmap.bundle_adjustment(found, options)
        found.update_point_3d_errors()
        pycolmap.ObservationManager(found).filter_all_points3D(bound * scale, MIN_ANGLE)
        if not found.num_points3D():
            raise UserError("no track agrees with the cameras, so nothing is adjusted")
    before = np.array([run.frame(i).world_from_camera for i in frames])
    _moved_back(found, before)
    found.update_point_3d_errors()
    poses = _poses(found)
    return Adjusted(
        found, poses, _error(found, before, ks), float(found.compute_mean_reprojection_error()),
        refined,
    )  # fmt: skip


def _initial(
    run: Run,
    frames: Sequence[int],
    images: Sequence[ExportedImage],
    tracks: MeasuredTracks,
    ks: Float64[np.ndarray, "s 3 3"],
    keys: Sequence[object],
) -> Model:
    """The cameras of the run, and the tracks as points that they have.

    Images of equal `keys` share a camera, of their median intrinsics.
    """
    cameras: dict[object, tuple[int, Camera]] = {}
    numbers = []
    for index, key in zip(frames, keys, strict=True):
        k = np.median(ks[[each == key for each in keys]], axis=0)
        values = (k[0, 0], k[1, 1], k[0, 2] + PIXEL_CENTRE, k[1, 2] + PIXEL_CENTRE)
        size = images[index].width, images[index].height
        made = Camera(*size, tuple(float(value) for value in values))
        numbers.append(cameras.setdefault(key, (len(cameras) + 1, made))[0])
    point = np.repeat(np.arange(len(tracks.lengths)), tracks.lengths)
    place = np.empty(len(point), np.int64)
    views = []
    for number, index in enumerate(frames):
        own = np.flatnonzero(tracks.frames == number)
        place[own] = np.arange(len(own))
        affine, frame = images[index].image_from_grid, run.frame(index)
        camera_from_world = inverse_rigid(frame.world_from_camera)
        pixels = tracks.pixels[own] @ affine[:2, :2].T + affine[:2, 2] + PIXEL_CENTRE
        quaternion = np.roll(quaternion_from_rotation(camera_from_world[:3, :3]), 1)
        views.append(
            View(images[index].name, numbers[number], quaternion, camera_from_world[:3, 3],
                 pixels, point[own] + 1)
        )  # fmt: skip
    points = Points(tracks.positions, tracks.colours, tracks.lengths, tracks.frames + 1, place)
    return Model([made for _, made in cameras.values()], views, points)


def _set_model(camera: "pycolmap.Camera", name: CameraModel) -> None:
    import pycolmap

    fx, fy, cx, cy = camera.params
    values = {
        "SIMPLE_PINHOLE": [(fx + fy) / 2, cx, cy],
        "PINHOLE": [fx, fy, cx, cy],
        "OPENCV": [fx, fy, cx, cy, 0.0, 0.0, 0.0, 0.0],
    }[name]
    camera.model = getattr(pycolmap.CameraModelId, name)
    camera.params = values


def _poses(model: "pycolmap.Reconstruction") -> Float64[np.ndarray, "s 4 4"]:
    """world_from_camera of the images, in the order of their ids."""
    poses = []
    for key in sorted(model.images):
        camera_from_world = np.eye(4)
        camera_from_world[:3] = model.images[key].cam_from_world().matrix()
        poses.append(inverse_rigid(camera_from_world))
    return np.array(poses)


def _moved_back(model: "pycolmap.Reconstruction", before: Float64[np.ndarray, "s 4 4"]) -> None:
    """Onto the cameras before: by the mean of their rotations, the spread and mean of centres.

    Centres alone would not say how a straight path is turned about itself.
    """
    import pycolmap

    now = _poses(model)
    turned = (before[:, :3, :3] @ np.swapaxes(now[:, :3, :3], 1, 2)).sum(0)
    rotation = nearest_rotation(turned)
    centres, old = now[:, :3, 3], before[:, :3, 3]
    spread, old_spread = (np.linalg.norm(c - c.mean(0)) for c in (centres, old))
    scale = float(old_spread / spread) if spread > 0 and old_spread > 0 else 1.0
    shift = old.mean(0) - scale * rotation @ centres.mean(0)
    model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation), shift))


def _error(
    model: "pycolmap.Reconstruction",
    before: Float64[np.ndarray, "s 4 4"],
    ks: Float64[np.ndarray, "s 3 3"],
) -> float:
    """Mean distance in pixels of the same observations from the points as the old cameras see."""
    away = []
    for number, key in enumerate(sorted(model.images)):
        image = model.images[key]
        seen = [p for p in image.points2D if p.has_point3D()]
        if not seen:
            continue
        world = np.array([model.points3D[p.point3D_id].xyz for p in seen])
        there = (world - before[number, :3, 3]) @ before[number, :3, :3] @ ks[number].T
        pixels = there[:, :2] / there[:, 2:] + PIXEL_CENTRE
        away.append(np.linalg.norm(pixels - np.array([p.xy for p in seen]), axis=1))
    return float(np.concatenate(away).mean()) if away else 0.0
