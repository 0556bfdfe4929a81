# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sky, fog, highlights and reflections of varied scenes; rooms have none of them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vggt_ros.train.rooms.materials import noise
from vggt_ros.train.rooms.rays import Hit, dot
from vggt_ros.train.rooms.scenes import World

EXPOSED = 0.45  # median image value that automatic exposure aims at
SHARPNESS = 24.0  # of highlights: exponent of the cosine between normal and half vector


def exposure(light: Float[Array, "3 p"]) -> Float[Array, ""]:
    """The factor on linear RGB that makes the median of an image `EXPOSED`, within limits."""
    wanted = -jnp.log(1 - EXPOSED**2.2)
    return jnp.clip(wanted / jnp.maximum(jnp.median(light.mean(axis=0)), 1e-6), 0.02, 20.0)


def covers(world: World, hit: Hit) -> Bool[Array, "p"]:
    """Whether rays end in the sky: at the walls or the ceiling of a world that is open."""
    shell = (hit.surface == 1) | (hit.surface == 2)
    return shell & (world.surroundings.is_open > 0) if world.surroundings else shell & False


def through_air(
    world: World, hit: Hit, directions: Float[Array, "3 p"], colour: Float[Array, "3 p"]
) -> Float[Array, "3 p"]:
    """Linear RGB of surfaces behind fog, or of the sky, where rays end there."""
    around = world.surroundings
    if around is None:
        return colour
    length = jnp.sqrt(dot(directions, directions))
    clear = jnp.exp(-around.fog * hit.t * length)
    seen = colour * clear + around.horizon[:, None] * (1 - clear)
    return jnp.where(covers(world, hit), above(world, directions / length), seen)


def above(world: World, directions: Float[Array, "3 p"]) -> Float[Array, "3 p"]:
    """Linear RGB of the sky and its clouds along unit vectors; level ones see the horizon."""
    around = world.surroundings
    x, y, z = directions
    up = jnp.clip(z, 0.0, 1.0)
    seed = world.paint.seed[2].astype(jnp.uint32)
    flat = 1.0 / (0.15 + up)  # clouds are level: smaller towards the horizon
    cloud = noise(3 * x * flat, 3 * y * flat, seed) + 0.5 * noise(8 * x * flat, 8 * y * flat, seed)
    colour = around.horizon[:, None] + (around.zenith - around.horizon)[:, None] * up**0.6
    return colour * (1 + 0.3 * jnp.clip(cloud, -1.0, 1.0) * jnp.minimum(4 * up, 1.0))


def mirrored(
    world: World, colour: Float[Array, "3 p"], gloss: Float[Array, "p"],
    normal: Float[Array, "3 p"], directions: Float[Array, "3 p"],
) -> Float[Array, "3 p"]:  # fmt: skip
    """Linear RGB of surfaces that mirror the surroundings, without the things that stand in them.

    `directions` are unit vectors from the eye; the share that is mirrored rises to 1 at grazing
    angles (C. Schlick, 1994).  What lies below the horizon is dark ground.
    """
    facing = dot(normal, directions)
    away = directions - 2 * facing * normal
    share = gloss + (1 - gloss) * jnp.clip(1 - jnp.abs(facing), 0.0, 1.0) ** 5
    ground = 0.4 * world.surroundings.horizon[:, None]
    around = jnp.where(away[2] > 0, above(world, away), ground)
    return jnp.where(gloss > 0, colour + share * (around - colour), colour)


def highlight(
    normal: Float[Array, "3 p"], to_lamp: Float[Array, "3 p"], to_eye: Float[Array, "3 p"]
) -> Float[Array, "p"]:
    """Blinn's reflection (J. Blinn, 1977) for unit vectors."""
    half = to_lamp + to_eye
    cosine = dot(normal, half) / jnp.maximum(jnp.sqrt(dot(half, half)), 1e-6)
    return jnp.maximum(cosine, 0.0) ** SHARPNESS
