# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Scenes for Mitsuba 3: a hall, the top of a table, open ground.

A scene is a dictionary as `mitsuba.load_dict` takes it. Things stand around the origin.
"""

from typing import Any

import mitsuba as mi
import numpy as np
from jaxtyping import Float

from vggt_ros.train.judge.textures import texture

SCENES = ("hall", "table", "ground")
REACH = {"hall": 4.0, "table": 0.8, "ground": 12.0}  # metres from the origin
GRID = 64  # points along one side of a height field


def scene(kind: str, random: np.random.Generator) -> tuple[dict[str, Any], float]:
    """A scene of this kind, and how far from the origin its things and cameras stand, metres."""
    reach = REACH[kind] * random.uniform(0.8, 1.25)
    found: dict[str, Any] = {"type": "scene"}
    found |= {"hall": _hall, "table": _table, "ground": _ground}[kind](reach, random)
    count = int(random.integers(6, 15))
    for i in range(count):
        found[f"thing{i}"] = _thing(kind, reach, random)
    return found, reach


def _hall(reach: float, random: np.random.Generator) -> dict[str, Any]:
    """A room: four walls, a ceiling, lamps of several sizes."""
    height, far = reach * random.uniform(0.7, 1.1), 1.15 * reach
    found = {"floor": _plane(far, 0.0, random), "ceiling": _plane(far, height, random, down=True)}
    for i in range(4):
        turn = mi.ScalarTransform4f().rotate([0, 0, 1], 90.0 * i)
        stand = mi.ScalarTransform4f().translate([far, 0, height / 2]).rotate([0, 1, 0], -90)
        found[f"wall{i}"] = {
            "type": "rectangle",
            "to_world": turn @ stand @ mi.ScalarTransform4f().scale([height / 2, far, 1]),
            "bsdf": _surface(random),
        }
    for i in range(int(random.integers(1, 4))):
        place = [*random.uniform(-0.6 * reach, 0.6 * reach, 2), 0.96 * height]
        size = reach * random.uniform(0.15, 0.35)  # small ones leave grain
        found[f"lamp{i}"] = _lamp(place, size, 4.0, random)
    return found


def _table(reach: float, random: np.random.Generator) -> dict[str, Any]:
    """A round table top in an evenly lit surrounding, with one or two lamps."""
    found: dict[str, Any] = {
        "top": {
            "type": "disk",
            "to_world": mi.ScalarTransform4f().scale([1.6 * reach] * 3),
            "bsdf": _surface(random, repeat=3.0),
        },
        "floor": _plane(8.0, -0.75, random),
    }
    for i in range(int(random.integers(1, 3))):
        angle = random.uniform(0, 2 * np.pi)
        place = [1.5 * np.cos(angle), 1.5 * np.sin(angle), random.uniform(1.0, 2.0)]
        found[f"lamp{i}"] = _lamp(place, 0.15, 25.0, random)
    return found | {"sky": _sky(0.7, random)}


def _ground(reach: float, random: np.random.Generator) -> dict[str, Any]:
    """A height field under a sky, with a sun."""
    side = np.linspace(-4.0 * reach, 4.0 * reach, GRID)
    y, x = np.meshgrid(side, side, indexing="ij")
    waves = [
        random.normal(0, reach * 0.08)
        * np.sin(k * x / reach + random.uniform(0, 6.3))
        * np.cos(k * y / reach + random.uniform(0, 6.3))
        for k in random.uniform(0.3, 2.0, 5)
    ]
    z = np.sum(waves, axis=0)
    z = (z - z.max(where=np.hypot(x, y) < reach, initial=-np.inf)) - 0.01 * reach
    direction = [*random.uniform(-1, 1, 2), -random.uniform(0.5, 1.5)]
    return {
        "field": _mesh(np.stack([x, y, z], axis=-1), _surface(random, repeat=20.0)),
        "sun": {
            "type": "directional", "direction": direction,
            "irradiance": {"type": "rgb", "value": [2.4, 2.3, 2.0]},
        },
        "sky": _sky(0.6, random),
    }  # fmt: skip


def _thing(kind: str, reach: float, random: np.random.Generator) -> Any:
    """A ball, pillar, tilted box, disk or stone on the ground, or floating."""
    spread = 0.45 if kind == "table" else 0.8
    size = reach * random.uniform(0.04, 0.16)
    angle, away = random.uniform(0, 2 * np.pi), spread * reach * np.sqrt(random.random())
    rise = 0.9 * size if random.random() < 0.85 else reach * random.uniform(0.2, 0.5)
    centre = [away * np.cos(angle), away * np.sin(angle), rise]
    shape = random.choice(["sphere", "cube", "cylinder", "disk", "stone"])
    if shape == "sphere":
        return {"type": shape, "center": centre, "radius": size, "bsdf": _surface(random)}
    place = mi.ScalarTransform4f().translate(centre)
    upright = place @ mi.ScalarTransform4f().rotate([0, 0, 1], random.uniform(0, 360))
    if shape == "cylinder":
        return {
            "type": shape, "radius": 0.5 * size, "p0": [*centre[:2], 0.0],
            "p1": [*centre[:2], reach * random.uniform(0.1, 0.4)], "bsdf": _surface(random),
        }  # fmt: skip
    stretch = (size * random.uniform(0.6, 1.4, 3)).tolist()
    if shape == "stone":
        return _stone(upright, stretch, random)
    if random.random() < 0.4:
        axis = random.standard_normal(3).tolist()
        upright = place @ mi.ScalarTransform4f().rotate(axis, random.uniform(0, 360))
    to_world = upright @ mi.ScalarTransform4f().scale(stretch)
    return {"type": shape, "to_world": to_world, "bsdf": _surface(random, repeat=1.0)}


def _stone(to_world: Any, stretch: list[float], random: np.random.Generator) -> Any:
    """A ball whose surface goes in and out: an implicit shape, as a mesh."""
    v, u = np.meshgrid(np.linspace(0, np.pi, GRID), np.linspace(0, 2 * np.pi, GRID), indexing="ij")
    ball = np.stack([np.sin(v) * np.cos(u), np.sin(v) * np.sin(u), np.cos(v)], axis=-1)
    waves = random.normal(0, 3.0, (5, 3))
    radius = 1.0 + sum(0.09 * np.sin(ball @ wave + random.uniform(0, 6.3)) for wave in waves)
    return _mesh(ball * radius[..., None] * stretch, _surface(random, repeat=2.0), to_world)


def _mesh(points: Float[np.ndarray, "h w 3"], bsdf: dict[str, Any], to_world: Any = None) -> Any:
    """A grid of points as triangles; texture coordinates run from 0 to 1."""
    height, width = points.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, b, c), (b, d, c))])
    v, u = np.mgrid[:height, :width]
    places = points.reshape(-1, 3)
    if to_world is not None:
        matrix = np.array(to_world.matrix).reshape(4, 4)
        places = places @ matrix[:3, :3].T + matrix[:3, 3]
    made = mi.Mesh(
        "grid", len(places), len(faces), has_vertex_texcoords=True, props=_properties(bsdf)
    )
    values = mi.traverse(made)
    values["vertex_positions"] = places.astype(np.float32).ravel()
    values["faces"] = faces.astype(np.uint32).ravel()
    uv = np.stack([u / (width - 1), v / (height - 1)], axis=-1)
    values["vertex_texcoords"] = uv.astype(np.float32).ravel()
    values.update()
    return made


def _properties(bsdf: dict[str, Any]) -> Any:
    properties = mi.Properties()
    properties["mesh_bsdf"] = mi.load_dict(bsdf)
    return properties


def _plane(
    half: float, height: float, random: np.random.Generator, *, down: bool = False
) -> dict[str, Any]:
    place = mi.ScalarTransform4f().translate([0, 0, height])
    if down:
        place = place @ mi.ScalarTransform4f().rotate([1, 0, 0], 180)
    return {
        "type": "rectangle",
        "to_world": place @ mi.ScalarTransform4f().scale([half, half, 1]),
        "bsdf": _surface(random, repeat=6.0),
    }


def _surface(random: np.random.Generator, repeat: float = 2.0) -> dict[str, Any]:
    """Dull, glossy or metallic, seen from both sides."""
    scale = repeat * random.uniform(0.6, 1.6)
    reflectance = {
        "type": "bitmap", "bitmap": mi.Bitmap(texture(random)), "wrap_mode": "repeat",
        "to_uv": mi.ScalarTransform4f().scale([scale, scale, 1.0]),
    }  # fmt: skip
    kind = random.choice(["dull", "glossy", "metal"], p=[0.7, 0.25, 0.05])
    if kind == "metal":
        return {"type": "twosided", "bsdf": {"type": "roughconductor", "alpha": 0.3}}
    if kind == "glossy":
        bsdf = {"type": "roughplastic", "diffuse_reflectance": reflectance, "alpha": 0.15}
        return {"type": "twosided", "bsdf": bsdf}
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": reflectance}}


def _lamp(
    place: list[float], size: float, radiance: float, random: np.random.Generator
) -> dict[str, Any]:
    tint = np.array([1.0, random.uniform(0.75, 1.0), random.uniform(0.5, 1.0)])
    return {
        "type": "sphere", "center": place, "radius": size,
        "emitter": {
            "type": "area",
            "radiance": {"type": "rgb", "value": (radiance * tint).tolist()},
        },
    }  # fmt: skip


def _sky(brightness: float, random: np.random.Generator) -> dict[str, Any]:
    """A surrounding that is brighter above, with clouds."""
    above = np.linspace(1.0, 0.25, 64)[:, None, None]
    tint = np.array([random.uniform(0.6, 1.0), random.uniform(0.7, 1.0), 1.0])
    clouds = texture(random)[:64, :128].mean(axis=-1, keepdims=True)
    light = brightness * above * tint * (0.6 + 0.8 * clouds)
    return {
        "type": "envmap", "bitmap": mi.Bitmap(light.astype(np.float32)),
        "to_world": mi.ScalarTransform4f().rotate([1, 0, 0], 90),
    }  # fmt: skip
