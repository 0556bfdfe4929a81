# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ray-cast rendering of synthetic rooms in JAX: images, exact z-depth and exact tracks.

Shapes are fixed, so a batch of scenes is one compiled program on the device that trains.
Pixel (0, 0) is the centre of the first pixel; the principal point is the centre of the image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vggt_ros.train.rooms import materials, sky, solids
from vggt_ros.train.rooms.rays import UP, cast, dot, prefers_large_kernels, times
from vggt_ros.train.rooms.scenes import World
from vggt_ros.train.rooms.trajectories import Trajectory

_TOLERANCE = 1e-3  # relative distance at which a ray has reached its target


class Rendering(NamedTuple):
    """Frames of a trajectory: sRGB-like colour in [0, 1] and z-depth in metres."""

    images: Float[Array, "s h w 3"]
    depth: Float[Array, "s h w"]


class Tracks(NamedTuple):
    """Positions in every frame (pixels) of the points under the query pixels of frame 0."""

    uv: Float[Array, "s n 2"]
    visible: Bool[Array, "s n"]


class Surface(NamedTuple):
    """Surface at the hit points."""

    normal: Float[Array, "3 p"]  # unit length, towards the room
    uv: Float[Array, "2 p"]  # face coordinates, metres
    margin: Float[Array, "p"]  # distance to the border of the face, metres


def intrinsics_for(fov_x: Float[Array, ""], height: int, width: int) -> Float[Array, "3 3"]:
    """Pinhole intrinsics with square pixels, `fov_x` radians wide, centred on the image."""
    focal = width / 2 / jnp.tan(fov_x / 2)
    centre = jnp.array([[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2], [0, 0, 1.0]])
    return centre + focal * jnp.diag(jnp.array([1.0, 1.0, 0.0]))


def draw(
    world: World,
    trajectory: Trajectory,
    intrinsics: Float[Array, "3 3"],
    height: int,
    width: int,
    side: int = 2,
    shutter: Float[Array, "s 3"] | None = None,
) -> Rendering:
    """Render every frame with `side` x `side` rays a pixel; depth is at the pixel's centre.

    With a rolling `shutter` each camera turns by that rotation vector (radians, camera frame)
    while its rows are exposed from the first to the last; depth is that of the middle row's pose.
    """
    step = (jnp.arange(side) + 0.5) / side - 0.5
    offsets = jnp.stack(jnp.meshgrid(step, step), axis=-1).reshape(-1, 2, 1)
    turns = 2.4 * jnp.arange(side**2) + 0.7  # each ray samples another part of every lamp

    def frame(camera_from_world: Array, seconds: Array, turn: Array | None = None) -> Rendering:
        now = world._replace(solids=solids.at(world.solids, seconds))
        eye = _position(camera_from_world)
        grid = _grid(height, width)

        def add(light: Array, ray: tuple[Array, Array]) -> tuple[Array, None]:
            directions = _directions(camera_from_world, intrinsics, grid + ray[0], turn)
            return light + _shade(now, eye, directions, 1 / intrinsics[0, 0], ray[1]), None

        light, _ = jax.lax.scan(add, jnp.zeros((3, height * width)), (offsets, turns))
        hit = cast(now, eye, _directions(camera_from_world, intrinsics, grid))
        depth = jnp.where(sky.covers(world, hit), jnp.inf, hit.t) if world.surroundings else hit.t
        light /= side**2
        exposure = 1.7 if world.surroundings is None else sky.exposure(light)
        image = _tone_map(exposure * light).T.reshape(height, width, 3)
        return Rendering(image, depth.reshape(height, width))

    return _for_each_frame(frame, trajectory, shutter)


def track(
    world: World,
    trajectory: Trajectory,
    intrinsics: Float[Array, "3 3"],
    height: int,
    width: int,
    queries: Float[Array, "n 2"],
) -> Tracks:
    """Track the surface points under `queries` (pixels of frame 0), also on moving solids."""
    first = solids.at(world.solids, trajectory.seconds[0])
    eye = _position(trajectory.camera_from_world[0])
    directions = _directions(trajectory.camera_from_world[0], intrinsics, queries.T)
    hit = cast(world._replace(solids=first), eye, directions)
    start = eye[:, None] + directions * hit.t
    known = ~sky.covers(world, hit)
    shell = jnp.zeros((3, 3))
    home = jnp.concatenate([shell, first.centre]).T[:, hit.surface]

    def frame(camera_from_world: Array, seconds: Array) -> Tracks:
        moved = solids.at(world.solids, seconds)
        point = start + jnp.concatenate([shell, moved.centre]).T[:, hit.surface] - home
        seen = camera_from_world[:, :3] @ point + camera_from_world[:, 3:]
        uv = ((intrinsics @ seen)[:2] / jnp.maximum(seen[2], 1e-3)).T
        inside = ((uv >= -0.5) & (uv <= jnp.array([width, height]) - 0.5)).all(axis=-1)
        eye = _position(camera_from_world)
        clear = cast(world._replace(solids=moved), eye, point - eye[:, None]).t > 1 - _TOLERANCE
        return Tracks(uv, inside & clear & (seen[2] > 0.05) & known)

    return _for_each_frame(frame, trajectory)


def _for_each_frame(frame: Callable, trajectory: Trajectory, *more: Any) -> Any:
    """`frame(camera_from_world, seconds, ...)` for every frame: a loop, or one `vmap`."""
    frames = trajectory.camera_from_world, trajectory.seconds, *more
    if prefers_large_kernels():
        return jax.vmap(frame)(*frames)
    return jax.lax.map(lambda at: frame(*at), frames)


def _shade(
    world: World, eye: Array, directions: Array, pixel: Array, turn: Array
) -> Float[Array, "3 p"]:
    """Linear RGB along rays; `pixel` is the difference of slope between neighbouring pixels."""
    # Barriers: without them XLA on CPUs computes a cast again for each of its uses.
    hit = jax.lax.optimization_barrier(cast(world, eye, directions))
    point = eye[:, None] + directions * hit.t
    surface = jax.lax.optimization_barrier(_surface(world, point, hit.surface))
    length = jnp.sqrt(dot(directions, directions))
    slant = jnp.abs(dot(surface.normal, directions)) / length
    # Between the axes of the pixel's ellipse on the surface: neither aliasing nor blur dominates.
    footprint = pixel * hit.t * length / jnp.maximum(slant, 0.1) ** 0.7
    paint = jax.tree.map(lambda a: a.T[..., hit.surface], world.paint)
    paint = jax.lax.optimization_barrier(paint)
    zoom, shine = (1.0, None)
    if world.surroundings:
        zoom, shine = world.surroundings.zoom[hit.surface], world.surroundings.shine[hit.surface]
    albedo = materials.paint(paint, surface.uv * zoom, surface.margin * zoom, footprint * zoom)

    def from_lamp(at: tuple[Array, Array]) -> Array:
        lamp, power = at
        spot = lamp + 0.22 * jnp.stack([jnp.cos(turn), jnp.sin(turn), jnp.zeros_like(turn)])
        way = jax.lax.optimization_barrier(point + 2e-3 * surface.normal - spot[:, None])
        far = jnp.sqrt(dot(way, way))
        facing = jnp.maximum(-dot(surface.normal, way) / far, 0.0)
        lit = cast(world, spot, way).t > 1 - _TOLERANCE
        arriving = lit * facing / (1.0 + 0.35 * far**2)
        if shine is None:
            return power[:, None] * arriving
        glare = shine * sky.highlight(surface.normal, -way / far, -directions / length)
        return jnp.stack([power[:, None] * arriving, power[:, None] * arriving * glare])

    light = jax.lax.map(from_lamp, (world.lamps, world.power)).sum(axis=0)
    light, glare = (light, 0.0) if shine is None else light
    light += world.ambient[:, None] * _ambient_occlusion(world.room, point, surface.normal)
    colour = albedo * (light + paint.glow) + glare
    if world.surroundings:
        gloss = world.surroundings.gloss[hit.surface]
        colour = sky.mirrored(world, colour, gloss, surface.normal, directions / length)
    return sky.through_air(world, hit, directions, colour)


def _surface(world: World, point: Float[Array, "3 p"], index: Int[Array, "p"]) -> Surface:
    """Normal and face coordinates of hits; round solids are unrolled about their axis."""
    bodies, number = world.solids, jnp.maximum(index - 3, 0)
    rotation = jnp.transpose(bodies.world_from_solid, (1, 2, 0))[..., number]
    half = bodies.half.T[:, number]
    local = times(jnp.swapaxes(rotation, 0, 1), point - bodies.centre.T[:, number])
    unit = local / half
    box = _face(unit)
    round_, upright = number >= world.layout.boxes, world.layout.boxes + world.layout.balls
    lid = (number >= upright) & (jnp.abs(unit[2]) > 1 - 1e-4)
    side = jnp.where(number >= upright, unit * jnp.array([[1.0], [1.0], [0.0]]), unit)
    normal = jnp.where(lid, jnp.array(UP) * jnp.sign(unit[2]), jnp.where(round_, side, box)) / half
    normal = times(rotation, normal / jnp.sqrt(dot(normal, normal)))

    shell = index < 3
    centred = point / (world.room / 2)[:, None] - jnp.array(UP)
    face = jnp.where(shell, _face(centred), box)
    normal = jnp.where(shell, -face, normal)
    place = jnp.where(shell, point, local)
    u = jnp.where(jnp.abs(face[0]) > 0, place[1], place[0])
    v = jnp.where(jnp.abs(face[2]) > 0, place[1], place[2])
    rolled = round_ & ~lid & ~shell
    u = jnp.where(rolled, jnp.arctan2(local[1], local[0]) * half[0], u)
    v = jnp.where(rolled, local[2], v)
    gap = jnp.where(jnp.abs(face) > 0, 9.0, half - jnp.abs(local)).min(axis=0)
    margin = jnp.where(shell | round_, 9.0, gap)
    # Every face of a solid and every wall starts at another place of the pattern.
    slide = dot(face, jnp.array([[3.0], [7.0], [11.0]]))
    return Surface(normal, jnp.stack([u + 40.0 + slide, v + 20.0]), margin)


def _face(unit: Float[Array, "3 p"]) -> Float[Array, "3 p"]:
    """The outward normal of the cube's face nearest to a point on it."""
    size = jnp.abs(unit)
    x = (size[0] >= size[1]) & (size[0] >= size[2])
    y = ~x & (size[1] >= size[2])
    return jnp.stack([x, y, ~x & ~y]) * jnp.sign(unit)


def _ambient_occlusion(room: Array, point: Float[Array, "3 p"], normal: Array) -> Float[Array, "p"]:
    """Share of the ambient light that arrives: less in corners and on undersides."""
    gap = room[:, None] / 2 - jnp.abs(point - jnp.array(UP) * room[2] / 2)
    near = jnp.exp(-jnp.maximum(gap, 0.0) / 0.35) * (1 - jnp.abs(normal))
    return (1 - 0.45 * near.sum(axis=0).clip(0.0, 1.0)) * (0.75 + 0.25 * normal[2])


def _tone_map(light: Float[Array, "3 p"]) -> Float[Array, "3 p"]:
    """Linear RGB to image values in [0, 1]: highlights compressed, then gamma."""
    return (1 - jnp.exp(-light)).clip(0.0, 1.0) ** (1 / 2.2)


def _grid(height: int, width: int) -> Float[Array, "2 p"]:
    v, u = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack([u.reshape(-1), v.reshape(-1)]).astype(jnp.float32)


def _directions(
    camera_from_world: Array, intrinsics: Array, uv: Array, turn: Array | None = None
) -> Float[Array, "3 p"]:
    """World directions through pixels ([2 p]), one unit of z-depth long.

    `turn` is the (small) rotation vector of the camera from the first row to the last.
    """
    x = (uv[0] - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (uv[1] - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = jnp.stack([x, y, jnp.ones_like(x)])
    if turn is not None:
        late = uv[1] / jnp.maximum(uv[1].max(), 1.0) - 0.5
        rays += late * jnp.cross(turn[:, None], rays, axis=0)
    return times(camera_from_world[:, :3].T[..., None], rays)


def _position(camera_from_world: Float[Array, "3 4"]) -> Float[Array, "3"]:
    return -camera_from_world[:, 3] @ camera_from_world[:, :3]
