# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Solids of a scene: unit shapes that are scaled, rotated and placed; some of them move."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Solids(NamedTuple):
    """Unit shapes (cube, ball, upright cylinder; all spanning -1..1) placed in the world."""

    world_from_solid: Float[Array, "n 3 3"]  # a rotation
    centre: Float[Array, "n 3"]  # at rest, metres
    half: Float[Array, "n 3"]  # half extents, metres
    swing: Float[Array, "n 3"]  # amplitude of a sinusoidal motion, metres; 0: static
    oscillation: Float[Array, "n 2"]  # its angular rate (rad/s) and phase at time 0 (rad)


def at(solids: Solids, seconds: Float[Array, ""]) -> Solids:
    """The solids at a time in seconds."""
    sine = jnp.sin(solids.oscillation[:, 0] * seconds + solids.oscillation[:, 1])
    return solids._replace(centre=solids.centre + solids.swing * sine[:, None])


def static(
    rotation: Float[Array, "n 3 3"], centre: Float[Array, "n 3"], half: Float[Array, "n 3"]
) -> Solids:
    """Solids that do not move."""
    zero = jnp.zeros_like(centre)
    return Solids(rotation, centre, half, zero, zero[:, :2])


def removed(solids: Solids, gone: Bool[Array, "n"]) -> Solids:
    """The solids, with those marked `gone` moved below the floor and shrunk: shapes stay fixed."""
    below = jnp.array([0.0, 0.0, -20.0])
    return solids._replace(
        centre=jnp.where(gone[:, None], below, solids.centre),
        half=jnp.where(gone[:, None], 0.01, solids.half),
        swing=jnp.where(gone[:, None], 0.0, solids.swing),
    )


def about_z(yaw: Float[Array, "n"]) -> Float[Array, "n 3 3"]:
    """Rotations by `yaw` radians about the vertical axis."""
    cos, sin, zero, one = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros_like(yaw), jnp.ones_like(yaw)
    return jnp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).reshape(-1, 3, 3)
