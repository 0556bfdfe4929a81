# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cameras, rigid and similar motions, points from depth.  NumPy or JAX arrays in, the same out.

Every function takes any leading axes and keeps its input's precision. Names read
`target_from_source`; cameras look along z with x right and y down; quaternions are x, y, z, w.
docs/conventions.md has the whole of it.
"""

from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Array = Any  # np.ndarray or jax.Array; each call stays with the library of its argument

WORLD_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Rotation from optical axes (x right, y down, z ahead) to world axes (x ahead, y left, z up)."""

NARROWEST = 0.01  # radians: the field of view is kept this far from 0 and from a half turn


# ---- rotations --------------------------------------------------------------------------------


def rotation_from_quaternion(quaternion: Float[Array, "*b 4"]) -> Float[Array, "*b 3 3"]:
    """Matrix of a quaternion (x, y, z, w) of any length but zero."""
    xp = quaternion.__array_namespace__()
    x, y, z, w = (quaternion[..., i] for i in range(4))
    double = 2 / xp.sum(quaternion * quaternion, axis=-1)
    rows = [
        [1 - double * (y * y + z * z), double * (x * y - z * w), double * (x * z + y * w)],
        [double * (x * y + z * w), 1 - double * (x * x + z * z), double * (y * z - x * w)],
        [double * (x * z - y * w), double * (y * z + x * w), 1 - double * (x * x + y * y)],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: Float[Array, "*b 3 3"]) -> Float[Array, "*b 4"]:
    """Unit quaternion (x, y, z, w) with w >= 0, well conditioned for every angle."""
    xp = rotation.__array_namespace__()
    squares, products = _quaternions([[rotation[..., i, j] for j in range(3)] for i in range(3)])
    table = xp.stack([xp.stack(row, axis=-1) for row in products], axis=-2)
    # Each row is the quaternion times four times one of its parts; the largest divides best.
    largest = xp.argmax(xp.stack(squares, axis=-1), axis=-1)[..., None, None]
    row = xp.take_along_axis(table, largest, axis=-2)[..., 0, :]
    quaternion = row / xp.sqrt(xp.sum(row * row, axis=-1, keepdims=True))
    return xp.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def one_quaternion(rotation: Float[np.ndarray, "3 3"]) -> list[float]:
    """`quaternion_from_rotation` of a single float64 matrix: the same, in a tenth of the time."""
    squares, products = _quaternions(rotation.tolist())
    row = products[squares.index(max(squares))]
    length = sqrt(sum(part * part for part in row))
    length = -length if row[3] < 0 else length
    return [part / length for part in row]


def _quaternions(m: list[list[Any]]) -> tuple[list[Any], list[list[Any]]]:
    """Four times the squares of x, y, z and w of a matrix; and by those four, times each other."""
    squares = [
        1 + m[0][0] - m[1][1] - m[2][2],
        1 - m[0][0] + m[1][1] - m[2][2],
        1 - m[0][0] - m[1][1] + m[2][2],
        1 + m[0][0] + m[1][1] + m[2][2],
    ]
    xy, xz, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    xw, yw, zw = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    sx, sy, sz, sw = squares
    return squares, [[sx, xy, xz, xw], [xy, sy, yz, yw], [xz, yz, sz, zw], [xw, yw, zw, sw]]


def rotation_angle(rotation: Float[np.ndarray, "3 3"]) -> float:
    """By how many radians a rotation turns, in [0, pi]."""
    return float(np.arccos(np.clip((np.trace(rotation) - 1.0) / 2.0, -1.0, 1.0)))


def nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation next to a matrix in the Frobenius norm (Kabsch, Acta Cryst. A32, 1976)."""
    u, _, vt = np.linalg.svd(matrix)
    return (u * [1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


# ---- rigid motions ----------------------------------------------------------------------------


def homogeneous(target_from_source: Float[Array, "*b 3 4"]) -> Float[Array, "*b 4 4"]:
    """A motion of three rows with the row 0 0 0 1 below."""
    xp = target_from_source.__array_namespace__()
    last = xp.zeros_like(target_from_source[..., :1, :]) + xp.asarray(
        [0.0, 0.0, 0.0, 1.0], dtype=target_from_source.dtype
    )
    return xp.concat([target_from_source, last], axis=-2)


def inverse_rigid(target_from_source: Float[Array, "*b r 4"]) -> Float[Array, "*b r 4"]:
    """`source_from_target`, as [... 3 4] or [... 4 4], whichever was given."""
    xp = target_from_source.__array_namespace__()
    back = xp.matrix_transpose(target_from_source[..., :3, :3])
    shift = -back @ target_from_source[..., :3, 3:]
    inverse = xp.concat([back, shift], axis=-1)
    return xp.concat([inverse, target_from_source[..., 3:, :]], axis=-2)


def transform(
    target_from_source: Float[Array, "*b r 4"], points: Float[Array, "*p 3"]
) -> Float[Array, "*p 3"]:
    """Points of the source frame in the target frame.

    The leading axes of the motion are those of the points: one [4 4] (or [3 4]) moves points of
    any shape, [s 4 4] moves points [s ... 3] frame by frame.
    """
    rotation, shift = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    inner = points.ndim - shift.ndim  # axes of points that share one motion
    if not inner:
        return (rotation @ points[..., None])[..., 0] + shift
    gap = (1,) * (inner - 1)
    batch = shift.shape[:-1]
    rotation = rotation.reshape(*batch, *gap, 3, 3)
    xp = points.__array_namespace__()
    return points @ xp.matrix_transpose(rotation) + shift.reshape(*batch, *gap, 1, 3)


def interpolate_rigid(
    before: Float[np.ndarray, "4 4"], after: Float[np.ndarray, "4 4"], share: float
) -> Float[np.ndarray, "4 4"]:
    """The rigid motion this share of the way from one to the other (a chord, for small turns)."""
    pose = before + share * (after - before)
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ vt
    return pose


def cross_product_matrix(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The matrix that multiplies like the cross product with `vector` from the left."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def lever_arm_jacobian(step: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6 6"]:
    """How errors of a pose (translation, rotation vector) act one `step` further on.

    By the negative of the step it also carries a velocity (linear, angular) to another point.
    """
    jacobian = np.eye(6)
    jacobian[:3, 3:] = cross_product_matrix(-step)
    return jacobian


# ---- scaled motions ---------------------------------------------------------------------------


def scale_covariance(
    covariance: Float[np.ndarray, "6 6"], factor: float
) -> Float[np.ndarray, "6 6"]:
    """Of a pose (translation, rotation vector) in a world whose lengths grew by `factor`."""
    units = np.repeat([factor, 1.0], 3)
    return units[:, None] * covariance * units


class Similarity(NamedTuple):
    """Sim(3), target_from_source: a point p becomes scale * rotation @ p + translation."""

    scale: Float[Array, ""] | float
    rotation: Float[Array, "3 3"]
    translation: Float[Array, "3"]

    @classmethod
    def identity(cls) -> "Similarity":
        return cls(1.0, np.eye(3), np.zeros(3))

    @classmethod
    def scaling(cls, factor: float, about: Float[np.ndarray, "3"]) -> "Similarity":
        """Every distance multiplied by `factor`; the point `about` stays."""
        return cls(factor, np.eye(3), about - factor * about)

    @classmethod
    def between(
        cls,
        target_from_camera: Float[np.ndarray, "4 4"],
        source_from_camera: Float[np.ndarray, "4 4"],
        scale: float,
    ) -> "Similarity":
        """Of this scale, such that the one camera comes to lie where it is in both frames."""
        rotation = target_from_camera[:3, :3] @ source_from_camera[:3, :3].T
        translation = target_from_camera[:3, 3] - scale * rotation @ source_from_camera[:3, 3]
        return cls(scale, rotation, translation)

    def apply(self, points: Float[Array, "*p 3"]) -> Float[Array, "*p 3"]:
        """Points of the source frame in the target frame."""
        return self.scale * (points @ self.rotation.T) + self.translation

    def apply_to_poses(self, poses: Float[np.ndarray, "s 4 4"]) -> Float[np.ndarray, "s 4 4"]:
        """Rigid camera poses in the target frame: centres are scaled, axes only rotated."""
        moved = np.array(poses, np.float64)
        moved[..., :3, :3] = self.rotation @ poses[..., :3, :3]
        moved[..., :3, 3] = self.apply(poses[..., :3, 3])
        return moved

    def __matmul__(self, other: "Similarity") -> "Similarity":
        """`c_from_b @ b_from_a` is `c_from_a`."""
        return Similarity(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.apply(other.translation),
        )

    def inverse(self) -> "Similarity":
        """`source_from_target`."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.translation) / self.scale)


# ---- cameras ----------------------------------------------------------------------------------


def extrinsics_from_pose_encoding(pose_encoding: Float[Array, "*b 9"]) -> Float[Array, "*b 3 4"]:
    """camera_from_world of the network's (translation, quaternion x y z w, field of view)."""
    xp = pose_encoding.__array_namespace__()
    rotation = rotation_from_quaternion(pose_encoding[..., 3:7])
    return xp.concat([rotation, pose_encoding[..., :3, None]], axis=-1)


def intrinsics_from_pose_encoding(
    pose_encoding: Float[Array, "*b 9"], height: int, width: int
) -> Float[Array, "*b 3 3"]:
    """K in pixels of an image of this size, principal point at (width / 2, height / 2).

    The network's head can say a field of view of 0 (or more than a half turn), whose focal length
    is not finite; angles are kept `NARROWEST` inside that range.
    """
    xp = pose_encoding.__array_namespace__()
    half = xp.clip(pose_encoding[..., 7:9], NARROWEST, pi - NARROWEST) / 2
    focal_y = (height / 2) / xp.tan(half[..., 0])
    focal_x = (width / 2) / xp.tan(half[..., 1])
    zero, one = xp.zeros_like(focal_x), xp.ones_like(focal_x)
    rows = [[focal_x, zero, one * (width / 2)], [zero, focal_y, one * (height / 2)]]
    return xp.stack([xp.stack(row, axis=-1) for row in [*rows, [zero, zero, one]]], axis=-2)


def pose_encoding_from(
    camera_from_world: Float[Array, "*b 3 4"],
    intrinsics: Float[Array, "*b 3 3"],
    height: int,
    width: int,
) -> Float[Array, "*b 9"]:
    """The network's encoding of known cameras; the principal point is not part of it."""
    xp = camera_from_world.__array_namespace__()
    size = xp.asarray([height / 2, width / 2], dtype=intrinsics.dtype)
    focal = xp.stack([intrinsics[..., 1, 1], intrinsics[..., 0, 0]], axis=-1)
    return xp.concat(
        [
            camera_from_world[..., 3],
            quaternion_from_rotation(camera_from_world[..., :3]),
            2 * xp.atan(size / focal),
        ],
        axis=-1,
    )


def unproject(
    depth: Float[Array, "*#b h w"], intrinsics: Float[Array, "*#b 3 3"]
) -> Float[Array, "*#b h w 3"]:
    """Points in the camera's frame: `depth` is along z, pixels are counted in whole numbers."""
    xp = depth.__array_namespace__()
    height, width = depth.shape[-2:]
    intrinsics = intrinsics[..., None, None]
    u = xp.arange(width, dtype=depth.dtype)
    v = xp.arange(height, dtype=depth.dtype)[:, None]
    x = (u - intrinsics[..., 0, 2, :, :]) * depth / intrinsics[..., 0, 0, :, :]
    y = (v - intrinsics[..., 1, 2, :, :]) * depth / intrinsics[..., 1, 1, :, :]
    return xp.stack([x, y, depth], axis=-1)
