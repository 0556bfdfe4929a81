# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Odometry of the test rig's robot, and how far an estimated path is from the true one."""

import numpy as np
from jaxtyping import Float

from fakes.room import turn
from vggt_ros.geometry import Similarity, inverse_rigid


def odometry(
    world_from_base: Float[np.ndarray, "n 4 4"],
    *,
    distance: float = 0.01,
    degrees_per_10m: float = 0.5,
    seed: int = 0,
) -> Float[np.ndarray, "n 4 4"]:
    """odom_from_base of wheels: a false radius, a random walk of the heading, another origin."""
    random = np.random.default_rng(seed)
    radius = 1.0 + distance * random.choice([-1.0, 1.0])
    odom = [np.eye(4)]
    for before, after in zip(world_from_base[:-1], world_from_base[1:], strict=True):
        step = inverse_rigid(before) @ after
        length = float(np.linalg.norm(step[:3, 3]))
        drift = np.deg2rad(degrees_per_10m) * np.sqrt(length / 10.0) * random.standard_normal()
        step[:3, 3] *= radius * (1.0 + distance * random.standard_normal())
        step[:3, :3] = step[:3, :3] @ turn(np.array([0.0, 0.0, drift]))
        odom.append(odom[-1] @ step)
    return np.stack(odom)


def path_length(points: Float[np.ndarray, "n 3"]) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=-1).sum())


def alignment(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, with_scale: bool
) -> Similarity:
    """The similarity, or rigid motion, that brings `points` closest to `truth`.

    S. Umeyama, Least-squares estimation of transformation parameters between two point patterns,
    PAMI 13(4), 1991.
    """
    here, there = points - points.mean(0), truth - truth.mean(0)
    u, size, vt = np.linalg.svd(there.T @ here)
    flip = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    scale = float(size @ flip / np.sum(here**2)) if with_scale else 1.0
    rotation = (u * flip) @ vt
    return Similarity(scale, rotation, truth.mean(0) - scale * rotation @ points.mean(0))


def aligned(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, with_scale: bool
) -> tuple[Float[np.ndarray, "n 3"], float]:
    """`points` after `alignment`, and the scale used."""
    found = alignment(points, truth, with_scale=with_scale)
    return found.apply(points), float(found.scale)


def absolute_error(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, with_scale: bool
) -> float:
    """Root mean square distance after alignment: ATE."""
    fitted, _ = aligned(points, truth, with_scale=with_scale)
    return float(np.sqrt(np.mean(np.sum((fitted - truth) ** 2, axis=-1))))
