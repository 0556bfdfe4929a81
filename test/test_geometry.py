# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Geometry: the reference's numbers, and the laws of docs/conventions.md."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vggt_ros.geometry import (
    WORLD_FROM_OPTICAL,
    Similarity,
    extrinsics_from_pose_encoding,
    intrinsics_from_pose_encoding,
    inverse_rigid,
    pose_encoding_from,
    quaternion_from_rotation,
    rotation_from_quaternion,
    transform,
    unproject,
)

GOLDEN = Path(__file__).parent / "golden"
UNITS = load_file(GOLDEN / "units.safetensors")
TOLERANCE = json.loads((GOLDEN / "tolerance.json").read_text())
LIBRARIES = pytest.mark.parametrize(
    ("xp", "compiled"), [(np, lambda f: f), (jnp, jax.jit)], ids=["numpy", "jax"]
)
RNG = np.random.default_rng(11)


def close(found, expected, atol=1e-5, rtol=0.0):
    np.testing.assert_allclose(np.asarray(found), expected, atol=atol, rtol=rtol)


def random_rotations(*batch):
    return rotation_from_quaternion(RNG.normal(size=(*batch, 4)))


def random_rigid(*batch):
    motion = np.zeros((*batch, 4, 4))
    motion[..., :3, :3] = random_rotations(*batch)
    motion[..., :3, 3] = RNG.normal(size=(*batch, 3))
    motion[..., 3, 3] = 1
    return motion


# ---- the reference's numbers ------------------------------------------------------------------


@LIBRARIES
def test_rotations_equal_the_reference_in_both_directions(xp, compiled):
    rotation = compiled(rotation_from_quaternion)(xp.asarray(UNITS["rot.quat"]))
    close(rotation, UNITS["rot.mat"])
    assert rotation.dtype == np.float32
    back = compiled(quaternion_from_rotation)(xp.asarray(UNITS["rot.mat"]))
    close(back, UNITS["rot.quat_back"])


@LIBRARIES
def test_pose_encodings_equal_the_reference_in_both_directions(xp, compiled):
    extrinsics, intrinsics = compiled(partial(cameras, height=392, width=518))(
        xp.asarray(UNITS["pose.enc"])
    )
    close(extrinsics, UNITS["pose.extrinsic"])
    close(intrinsics, UNITS["pose.intrinsic"], rtol=1e-5)
    encode = compiled(partial(pose_encoding_from, height=392, width=518))
    close(encode(extrinsics, intrinsics), UNITS["pose.enc_back"])


def cameras(encoding, *, height, width):
    intrinsics = intrinsics_from_pose_encoding(encoding, height, width)
    return extrinsics_from_pose_encoding(encoding), intrinsics


@LIBRARIES
def test_rigid_inverse_equals_the_reference(xp, compiled):
    inverse = compiled(inverse_rigid)(xp.asarray(UNITS["pose.extrinsic"][0]))
    close(inverse, UNITS["se3.inverse"][:, :3])


@LIBRARIES
def test_unprojection_equals_the_reference(xp, compiled):
    depth, intrinsics, camera_from_world = (
        xp.asarray(UNITS[f"unproj.{name}"]) for name in ("depth", "intrinsic", "extrinsic")
    )
    points = compiled(world_points)(depth, intrinsics, camera_from_world)
    close(points, UNITS["unproj.points"])


def world_points(depth, intrinsics, camera_from_world):
    points = unproject(depth[..., 0], intrinsics)
    world_from_camera = inverse_rigid(square(camera_from_world))
    return transform(world_from_camera, points)


def square(motion):
    """[... 3 4] with its last row."""
    xp = motion.__array_namespace__()
    last = xp.broadcast_to(xp.asarray([0, 0, 0, 1.0], dtype=motion.dtype), motion[..., :1, :].shape)
    return xp.concat([motion, last], axis=-2)


@LIBRARIES
@pytest.mark.parametrize("case", ["mini_square", "mini_rect", "mini_single"])
def test_cameras_and_points_of_whole_cases_equal_the_reference(xp, compiled, case):
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    height, width = tensors["in.images"].shape[-2:]

    @compiled
    def geometry(encoding, depth):
        extrinsics, intrinsics = cameras(encoding, height=height, width=width)
        return extrinsics, intrinsics, world_points(depth, intrinsics, extrinsics)

    found = geometry(xp.asarray(tensors["out.pose_enc"]), xp.asarray(tensors["out.depth"]))
    for name, value in zip(
        ["out.extrinsic", "out.intrinsic", "out.unprojected"], found, strict=True
    ):
        close(value, tensors[name], atol=TOLERANCE[case][name]["suggested_atol"])


# ---- laws of docs/conventions.md --------------------------------------------------------------


def test_the_cameras_axes_become_ahead_left_up():
    right, down, ahead = np.eye(3)
    close(WORLD_FROM_OPTICAL @ ahead, [1, 0, 0])
    close(WORLD_FROM_OPTICAL @ right, [0, -1, 0])
    close(WORLD_FROM_OPTICAL @ down, [0, 0, -1])
    close(np.linalg.det(WORLD_FROM_OPTICAL), 1)


def test_the_scalar_of_a_quaternion_comes_last():
    close(rotation_from_quaternion(np.array([0.0, 0, 0, 1])), np.eye(3))
    quarter = np.array([0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)])
    close(rotation_from_quaternion(quarter) @ [1, 0, 0], [0, 1, 0])  # about z, x goes to y


@pytest.mark.parametrize("length", [0.01, 1.0, 30.0])
def test_a_quaternion_of_any_length_is_a_rotation(length):
    rotation = rotation_from_quaternion(length * np.array([0.5, -0.1, 0.3, 0.8]))
    close(rotation @ rotation.T, np.eye(3), 1e-12)
    close(np.linalg.det(rotation), 1, 1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, np.pi - 1e-7, np.pi])
@pytest.mark.parametrize("axis", [*np.eye(3), np.ones(3) / np.sqrt(3), np.array([0.6, 0, -0.8])])
def test_quaternions_survive_every_angle(angle, axis):
    quaternion = np.array([*(np.sin(angle / 2) * axis), np.cos(angle / 2)])
    back = quaternion_from_rotation(rotation_from_quaternion(quaternion))
    assert back[3] >= 0
    close(min(np.abs(back - quaternion).max(), np.abs(back + quaternion).max()), 0, 1e-12)


def test_fields_of_view_are_vertical_first_and_fix_the_focal_lengths():
    encoding = np.array([0, 0, 0, 0, 0, 0, 1, 2 * np.arctan(0.5), np.pi / 2])
    intrinsics = intrinsics_from_pose_encoding(encoding, 100, 60)
    close(intrinsics, [[30, 0, 30], [0, 100, 50], [0, 0, 1]], 1e-12)


@LIBRARIES
@pytest.mark.parametrize("field", [0.0, 1e-9, np.pi, 4.0])
def test_impossible_fields_of_view_still_give_finite_cameras(xp, compiled, field):
    encoding = xp.asarray([0, 0, 0, 0, 0, 0, 1, field, field], dtype=np.float32)
    intrinsics = compiled(partial(intrinsics_from_pose_encoding, height=392, width=518))(encoding)
    intrinsics = np.asarray(intrinsics)
    assert np.isfinite(intrinsics).all()
    assert (np.diag(intrinsics) > 0).all()


def test_depth_is_along_the_axis_and_pixels_are_whole_numbers():
    """A pixel (u, v) at depth d projects back to (u, v), and its z is d."""
    intrinsics = np.array([[50.0, 0, 3.5], [0, 60, 2.0], [0, 0, 1]])
    depth = RNG.uniform(1, 9, (5, 7))
    points = unproject(depth, intrinsics)
    close(points[..., 2], depth)
    pixels = points @ intrinsics.T
    v, u = np.indices(depth.shape)
    close(pixels[..., 0] / pixels[..., 2], u, 1e-12)
    close(pixels[..., 1] / pixels[..., 2], v, 1e-12)


def test_one_calibration_serves_many_depth_pictures():
    depth = RNG.uniform(1, 9, (3, 5, 7))
    intrinsics = np.array([[50.0, 0, 3.5], [0, 60, 2.0], [0, 0, 1]])
    close(unproject(depth, intrinsics), unproject(depth, np.stack([intrinsics] * 3)))


def test_unknown_depth_stays_unknown():
    depth = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(unproject(depth, np.eye(3, dtype=np.float32))).all()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("rows", [3, 4])
def test_the_inverse_motion_undoes_the_motion(batch, rows):
    motion = random_rigid(*batch)
    inverse = inverse_rigid(motion[..., :rows, :])
    assert inverse.shape == (*batch, rows, 4)
    close(square(inverse[..., :3, :]) @ motion, np.broadcast_to(np.eye(4), motion.shape), 1e-12)


@pytest.mark.parametrize("inner", [(), (6,), (4, 5)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_one_motion_moves_all_points_of_its_frame(batch, inner):
    motion, points = random_rigid(*batch), RNG.normal(size=(*batch, *inner, 3))
    moved = transform(motion, points)
    for index in np.ndindex(batch):
        expected = points[index] @ motion[index][:3, :3].T + motion[index][:3, 3]
        close(moved[index], expected, 1e-12)


def random_similarity():
    return Similarity(RNG.uniform(0.3, 3), random_rotations(), RNG.normal(size=3))


def test_similarities_form_a_group_that_acts_on_points():
    a, b, c = random_similarity(), random_similarity(), random_similarity()
    points = RNG.normal(size=(4, 5, 3))
    close((a @ b).apply(points), a.apply(b.apply(points)), 1e-12)
    close(((a @ b) @ c).apply(points), (a @ (b @ c)).apply(points), 1e-12)
    close((a @ a.inverse()).apply(points), points, 1e-12)
    close((a.inverse() @ a).apply(points), points, 1e-12)
    close((Similarity.identity() @ a).apply(points), a.apply(points), 1e-12)


def test_geometry_compiles_and_differentiates():
    encoding = jnp.asarray(UNITS["pose.enc"][0])

    @jax.jit
    def spread(encoding):
        points = unproject(jnp.ones((3, 4, 5)), intrinsics_from_pose_encoding(encoding, 4, 5))
        motion = inverse_rigid(square(extrinsics_from_pose_encoding(encoding)))
        return jnp.sum(transform(motion, points) ** 2)

    assert np.isfinite(jax.grad(spread)(encoding)).all()
