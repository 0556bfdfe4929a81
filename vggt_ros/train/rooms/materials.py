# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (tables are wider than prose)
"""Procedural materials: one pattern of cells, seams and grain with a table of parameters.

Planks, tiles, bricks, book spines, posters and plaster are the same pattern with other parameters:
every surface costs the same, and a batch of rooms is one fused program.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vggt_ros.train.rooms.sampling import RandomStream


class Material(NamedTuple):
    """Parameters of the pattern; every field has the same leading axes.  Lengths are metres."""

    base: Float[Array, "*m 3"]
    accent: Float[Array, "*m 3"]
    cell: Float[Array, "*m 2"]  # width and height of a tile, plank, brick, spine
    stagger: Float[Array, "*m"]  # offset of neighbouring rows, in cells
    seam: Float[Array, "*m"]  # width of the joint between cells
    checker: Float[Array, "*m"]  # share of `accent` on every other cell
    tone: Float[Array, "*m"]  # spread of brightness from cell to cell
    hue: Float[Array, "*m"]  # spread of colour from cell to cell
    grain: Float[Array, "*m"]  # strength of the noise
    stretch: Float[Array, "*m"]  # the noise is this much longer along the first axis
    ink: Float[Array, "*m"]  # share of hard-edged blots: posters, marble, leaves
    frame: Float[Array, "*m"]  # width of a dark border on each face of a box
    glow: Float[Array, "*m"]  # light that the surface emits
    seed: Float[Array, "*m"]
    printed: Float[Array, "*m"] | None = (
        None  # strength of lines of glyphs; None: no surface has any
    )
    decay: Float[Array, "*m"] | None = None  # of the noise from octave to octave; None: DECAY


DECAY = 0.72
GLYPH = 0.03  # metres: width of a glyph and its gap; lines are twice as high


#                 hue        saturation  value        cell u, v    stag seam  chk  tone hue  grain str ink frame glow
TABLE = {
    "planks":    ((.05, .10), (.35, .65), (.35, .75), (1.20, .14), .50, .005, .0,  .45, .05, .35,  8., .0, .00, 0.),
    "tiles":     ((.00, 1.0), (.05, .25), (.55, .85), (.40, .40),  .00, .012, .0,  .18, .04, .18,  1., .1, .00, 0.),
    "checkered": ((.00, 1.0), (.10, .40), (.60, .85), (.35, .35),  .00, .006, .9,  .10, .03, .15,  1., .0, .00, 0.),
    "carpet":    ((.00, 1.0), (.20, .55), (.30, .60), (.60, .60),  .00, .000, .25, .10, .10, .50,  1., .3, .00, 0.),
    "plaster":   ((.05, .60), (.03, .20), (.70, .92), (9.0, 9.0),  .00, .000, .0,  .00, .00, .16,  1., .0, .00, 0.),
    "bricks":    ((.00, .08), (.30, .60), (.45, .75), (.24, .08),  .50, .012, .0,  .35, .06, .30,  1., .0, .00, 0.),
    "wallpaper": ((.00, 1.0), (.10, .40), (.60, .88), (.30, .55),  .00, .000, .45, .04, .04, .12,  1., .4, .00, 0.),
    "panels":    ((.04, .12), (.20, .55), (.40, .80), (.22, 4.0),  .00, .008, .0,  .25, .04, .25,  .2, .0, .00, 0.),
    "wood":      ((.04, .10), (.35, .70), (.30, .75), (9.0, 9.0),  .00, .000, .0,  .00, .00, .45,  6., .0, .00, 0.),
    "painted":   ((.00, 1.0), (.05, .60), (.35, .90), (9.0, 9.0),  .00, .000, .0,  .00, .00, .14,  1., .0, .02, 0.),
    "cloth":     ((.00, 1.0), (.20, .65), (.30, .75), (.07, .07),  .00, .000, .3,  .15, .04, .40,  1., .1, .00, 0.),
    "spines":    ((.00, 1.0), (.20, .60), (.40, .80), (.045, .90), .50, .004, .0,  .50, .90, .25,  .3, .0, .00, 0.),
    "poster":    ((.00, 1.0), (.30, .80), (.50, .95), (.19, .13),  .30, .000, .2,  .30, .75, .25,  1., .7, .03, 0.),
    "door":      ((.03, .12), (.15, .50), (.45, .85), (.42, .95),  .00, .020, .0,  .08, .02, .30,  .2, .0, .06, 0.),
    "daylight":  ((.52, .60), (.10, .30), (.90, .99), (.45, .60),  .00, .030, .0,  .06, .06, .30,  2., .5, .05, .55),
    "rug":       ((.00, 1.0), (.30, .65), (.30, .65), (.32, .24),  .50, .015, .4,  .35, .25, .40,  1., .3, .10, 0.),
    "lamp":      ((.08, .14), (.05, .15), (.95, 1.0), (9.0, 9.0),  .00, .000, .0,  .00, .00, .00,  1., .0, .00, 2.5),
    "leaves":    ((.22, .36), (.40, .75), (.30, .60), (.05, .05),  .50, .000, .3,  .50, .10, .60,  1., .8, .00, 0.),
}  # fmt: skip
NAMES = tuple(TABLE)


def indices(*names: str) -> Int[np.ndarray, "k"]:
    """Rows of the table by name."""
    return np.array([NAMES.index(name) for name in names], np.int32)


def sample(random: RandomStream, kind: Int[Array, "m"]) -> Material:
    """Materials of the given kinds (rows of the table) with random colour, scale and seed."""
    rows = np.array([[*h, *s, *v, *cell, *rest] for h, s, v, cell, *rest in TABLE.values()])
    row = jnp.asarray(rows, jnp.float32)[kind]
    draws = random(kind.shape[0], 9)
    hsv = row[:, 0:6:2] + (row[:, 1:6:2] - row[:, 0:6:2]) * draws[:, :3]
    shift = jnp.stack([0.25 * draws[:, 3] - 0.12, 0.3 * draws[:, 4] - 0.1, -0.35 * draws[:, 5]], -1)
    size = 2.0 ** (draws[:, 6] - 0.5)
    stagger, seam, checker, tone, hue, grain, stretch, ink, frame, glow = row[:, 8:].T
    return Material(
        base=_rgb(hsv),
        accent=_rgb(hsv + shift),
        cell=row[:, 6:8] * size[:, None],
        stagger=stagger,
        seam=seam,
        checker=checker,
        tone=tone,
        hue=hue,
        grain=grain * (0.7 + 0.6 * draws[:, 7]),
        stretch=stretch,
        ink=ink,
        frame=frame,
        glow=glow,
        seed=jnp.floor(draws[:, 8] * 65536.0),
    )


def sample_any(random: RandomStream, count: int) -> Material:
    """Materials of any kind, of the table or not: plain, striped, tiled, blotted; 22 numbers each."""
    draws = random(count, 22)
    rare = lambda i, share: jnp.where(draws[:, i] < share, draws[:, i] / share, 0.0)  # noqa: E731
    hues = jnp.stack([draws[:, 0], 0.85 * draws[:, 1] ** 1.5, 0.12 + 0.85 * draws[:, 2]], -1)
    others = jnp.stack([draws[:, 3], 0.85 * draws[:, 4] ** 1.5, 0.08 + 0.9 * draws[:, 5]], -1)
    cell = 0.06 * 2.0 ** (5.0 * draws[:, 6:8])
    drawn = draws[:, 8] > 0.12  # the others are plain
    return Material(
        base=_rgb(hues),
        accent=_rgb(others),
        cell=jnp.where(drawn[:, None], cell, 9.0),
        stagger=0.5 * (draws[:, 9] < 0.4),
        seam=drawn * 0.03 * rare(10, 0.5),
        checker=drawn * rare(11, 0.35),
        tone=drawn * 0.7 * draws[:, 12] ** 2,
        hue=drawn * rare(13, 0.3),
        grain=jnp.where(drawn, 0.05 + 0.55 * draws[:, 14], 0.04),
        stretch=2.0 ** (6.0 * draws[:, 15] - 3.0),
        ink=drawn * rare(16, 0.5),
        frame=0.04 * rare(17, 0.2),
        glow=jnp.zeros(count),
        seed=jnp.floor(draws[:, 18] * 65536.0),
        printed=drawn * 0.9 * jnp.minimum(1.0, 3 * rare(19, 0.15)),
        decay=0.45 + 0.5 * draws[:, 20],
    )


def paint(
    material: Material,
    uv: Float[Array, "2 p"],
    margin: Float[Array, "p"],
    footprint: Float[Array, "p"],
) -> Float[Array, "3 p"]:
    """Albedo in [0, 1] at face coordinates `uv` (metres); the material's rays are its last axis.

    `margin` is the distance to the face's border; `footprint` the width of a pixel on the surface:
    finer detail fades to its mean, so that patterns do not alias.
    """
    (u, v), (width, height) = uv, material.cell
    seed = material.seed.astype(jnp.uint32)
    row = jnp.floor(v / height)
    along = u / width + material.stagger * _hash(row, row, seed + 7)
    column = jnp.floor(along)
    resolved = jnp.clip(1.5 - footprint / jnp.minimum(width, height), 0.0, 1.0)

    decay = DECAY if material.decay is None else material.decay
    grain = _clouds(u / material.stretch, v, seed + 11, footprint, decay)
    blots = _soft_step(_clouds(u * 0.4, v * 0.4, seed + 13, footprint, decay) * 6.0)
    odd = jnp.mod(column + row, 2.0)
    accent = material.checker * (0.5 + (odd - 0.5) * resolved) + material.ink * blots
    accent = jnp.clip(accent + 0.5 * material.grain * grain, 0.0, 1.0)
    colour = material.base * (1 - accent) + material.accent * accent

    own = jnp.stack([_hash(column, row, seed + k) for k in range(3)])
    colour += material.hue * resolved * (own**2 - colour)
    colour *= 1 + material.tone * resolved * (_hash(column, row, seed + 3) - 0.5)
    colour *= 1 + material.grain * grain

    across, up = along - column, v / height - row
    to_seam = jnp.minimum(jnp.minimum(across, 1 - across) * width, jnp.minimum(up, 1 - up) * height)
    lines = _cover(material.seam / 2 - to_seam, footprint) * (material.seam > 0)
    border = _cover(material.frame - margin, footprint) * (material.frame > 0)
    colour *= 1 - 0.55 * jnp.maximum(lines, border)
    if material.printed is not None:
        colour *= 1 - material.printed * _glyphs(u / GLYPH, v / (2 * GLYPH), seed, footprint)
    return jnp.clip(colour, 0.02, 1.0)


def _glyphs(
    u: Float[Array, "p"], v: Float[Array, "p"], seed: Array, footprint: Float[Array, "p"]
) -> Float[Array, "p"]:
    """Ink of words in lines, one glyph a unit of `u` and one line a unit of `v`: 3 x 5 dots each."""
    column, line = jnp.floor(u), jnp.floor(v)
    dot, row = jnp.floor(4 * (u - column)), jnp.floor(8 * (v - line))
    word = _hash(column, line, seed + 21) > 0.2
    inked = _hash(4 * column + dot, 8 * line + row, seed + 23) < 0.55
    ink = (word & inked & (dot < 3) & (row < 5)).astype(jnp.float32)
    mean = 0.8 * 0.55 * (3 / 4) * (5 / 8)
    return mean + (ink - mean) * jnp.clip(1.6 - footprint / (GLYPH / 4), 0.0, 1.0)


def _cover(depth: Float[Array, "p"], footprint: Float[Array, "p"]) -> Float[Array, "p"]:
    """Share of a pixel on the inner side of an edge that lies `depth` away."""
    return jnp.clip(depth / footprint + 0.5, 0.0, 1.0)


def _clouds(
    u: Float[Array, "p"], v: Float[Array, "p"], seed: Array, footprint: Float[Array, "p"],
    decay: float | Array = DECAY,
) -> Float[Array, "p"]:  # fmt: skip
    """Value noise over five octaves, 40 cm to 1.6 cm, about -0.5 to 0.5; too fine octaves fade.

    Each octave is `decay` times as strong as the one before.
    """
    total = jnp.zeros_like(u)
    for octave in range(5):
        frequency = 2.5 * 2.25**octave
        weight = 0.5 * decay**octave * jnp.clip(1.6 - 1.6 * footprint * frequency, 0.0, 1.0)
        total += weight * noise(u * frequency, v * frequency, seed + 17 * octave)
    return total


def noise(u: Float[Array, "p"], v: Float[Array, "p"], seed: Array) -> Float[Array, "p"]:
    """Smooth random field in [-1, 1] with one value per unit square."""
    column, row = jnp.floor(u), jnp.floor(v)
    a, b = u - column, v - row
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    near = _hash(column, row, seed) * (1 - a) + _hash(column + 1, row, seed) * a
    far = _hash(column, row + 1, seed) * (1 - a) + _hash(column + 1, row + 1, seed) * a
    return 2 * (near * (1 - b) + far * b) - 1


def _hash(column: Float[Array, "p"], row: Float[Array, "p"], seed: Array) -> Float[Array, "p"]:
    """A pseudorandom number in [0, 1) for each cell: integer mixing, the same on every device."""
    x = column.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    x ^= row.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
    x ^= seed * jnp.uint32(0xC2B2AE3D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x2C1B3C6D)
    x = (x ^ (x >> 12)) * jnp.uint32(0x297A2D39)
    return ((x ^ (x >> 15)) >> 8).astype(jnp.float32) * (1 / (1 << 24))


def _soft_step(x: Float[Array, "p"]) -> Float[Array, "p"]:
    x = jnp.clip(x + 0.5, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _rgb(hsv: Float[Array, "m 3"]) -> Float[Array, "m 3"]:
    """Colour from hue (wraps), saturation and value."""
    hue, saturation, value = hsv[:, :1], jnp.clip(hsv[:, 1:2], 0, 1), jnp.clip(hsv[:, 2:], 0, 1)
    ramp = jnp.abs(jnp.mod(hue * 6.0 + jnp.array([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0
    return value * (1 - saturation * (1 - jnp.clip(ramp, 0.0, 1.0)))
