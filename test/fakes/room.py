# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The truth of the test rig: a furnished room, a robot's drives through it, what a camera sees."""

import numpy as np
from jaxtyping import Float, UInt8

from vggt_ros.geometry import WORLD_FROM_OPTICAL, unproject

WIDTH, HEIGHT = 84, 56
FOCAL = 60.0  # pixels: 70 degrees across
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])

ROOM = np.array([[-5.0, -4.0, 0.0], [5.0, 4.0, 3.0]])
APART = 100.0  # metres along x from one room to the next
BAY, BAYS = 10.0, 3  # metres along x from one bay of the hall to the next; how many there are
FURNITURE = np.array(
    [
        [[-2.8, 1.2, 0.0], [-1.6, 2.4, 0.8]],
        [[3.6, 2.5, 0.0], [4.6, 4.0, 2.0]],
        [[-5.0, -4.0, 0.0], [-4.3, -1.5, 2.2]],
        [[-2.0, 3.3, 0.0], [1.0, 4.0, 1.2]],
        [[2.0, -4.0, 0.0], [3.0, -3.4, 1.6]],
        [[4.5, -1.5, 0.6], [5.0, 0.5, 2.0]],
    ]
)

CAMERA_HEIGHT = 0.6  # metres above the floor
BASE_FROM_CAMERA = np.eye(4)
BASE_FROM_CAMERA[:3, :3] = WORLD_FROM_OPTICAL
BASE_FROM_CAMERA[:3, 3] = [0.25, 0.0, CAMERA_HEIGHT]

TOED = 0.02  # radians that the second camera of a stereo rig is turned in
CAMERA_FROM_RIGHT = np.array(
    [
        [np.cos(TOED), 0.0, -np.sin(TOED), 0.24],
        [0.0, 1.0, 0.0, 0.0],
        [np.sin(TOED), 0.0, np.cos(TOED), 0.01],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


# ---- truth --------------------------------------------------------------------------------------


def turn(axis_angle: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a rotation vector, by Rodrigues' formula."""
    angle = float(np.linalg.norm(axis_angle))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def facing(degrees: float, x: float, y: float) -> Float[np.ndarray, "4 4"]:
    """base_from_camera of a level camera at (x, y) that is turned so far to the left."""
    pose = BASE_FROM_CAMERA.copy()
    pose[:3, :3] = turn(np.array([0.0, 0.0, np.deg2rad(degrees)])) @ WORLD_FROM_OPTICAL
    pose[:2, 3] = x, y
    return pose


def _seen_from_first(base_from_camera: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    return np.linalg.inv(BASE_FROM_CAMERA) @ base_from_camera


# `camera_from_each` of the images that there are: the first, the second of a stereo rig, two that
# hardly overlap with the first, and one 0.2 m beside it.
RIG = (
    np.eye(4),
    CAMERA_FROM_RIGHT,
    _seen_from_first(facing(72.0, 0.15, 0.15)),
    _seen_from_first(facing(-72.0, 0.15, -0.15)),
    _seen_from_first(facing(0.0, 0.25, -0.2)),
)


def drive(kind: str, frames: int = 300) -> Float[np.ndarray, "n 4 4"]:
    """world_from_base of a wheeled robot, one pose a frame (a tenth of a second)."""
    speed, rate = np.zeros(frames), np.zeros(frames)  # metres and radians a frame
    x, y, yaw = -3.0, -2.6, 0.0
    if kind == "room":  # straight runs joined by arcs, a stop, a rotation in place, on again
        speed[:] = 0.05
        for first in (90, 150, 230):
            rate[first : first + 20] = np.pi / 2 / 20
        speed[190:230] = 0.0
        rate[200:220] = np.deg2rad(3.0)
        rate[220:230] = np.deg2rad(-6.0)
    elif kind == "arc":
        speed[:], rate[:], x = 0.05, 0.05 / 1.8, 0.8
    elif kind == "spin":
        rate[:] = np.deg2rad(2.0)
    elif kind == "stop_and_go":
        speed[:] = np.where(np.arange(frames) // 30 % 2 == 0, 0.04, 0.0)
        rate[:] = np.where(speed > 0, 0.04 / 3.0, 0.0)
    elif kind == "laps":  # round and round the room, 200 frames each time
        speed[:], x, y = 0.09, -0.3, -2.6
        for lap in range(0, frames, 200):
            for first in (36, 86, 136, 186):
                rate[lap + first : lap + first + 14] = np.pi / 2 / 14
    elif kind == "hall":  # from its first bay to the last, on a straight line
        speed[:], x, y = 2 * BAY / frames, 0.0, 0.85
    elif kind != "stand":
        raise ValueError(f"there is no drive {kind!r}")
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        poses[i, :3, :3] = turn(np.array([0.0, 0.0, yaw]))
        poses[i, :2, 3] = x, y
        x, y, yaw = x + speed[i] * np.cos(yaw), y + speed[i] * np.sin(yaw), yaw + rate[i]
    return poses


def hand_held(frames: int = 334) -> Float[np.ndarray, "n 4 4"]:
    """world_from_camera of a camera in a hand: 7 m on a closed way, with sway in all six axes."""
    phase = np.linspace(0.0, 2.0 * np.pi, frames)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for pose, t in zip(poses, phase, strict=True):
        yaw = t + 0.35 * np.sin(2 * t) + 0.03 * np.sin(31 * t)
        pitch, roll = 0.12 * np.sin(3 * t) + 0.03 * np.sin(23 * t), 0.08 * np.sin(5 * t)
        facing = turn(np.array([0.0, 0.0, yaw])) @ WORLD_FROM_OPTICAL
        pose[:3, :3] = facing @ turn(np.array([pitch, 0.0, 0.0])) @ turn(np.array([0, 0, roll]))
        pose[:3, 3] = [
            1.05 * np.cos(t) + 0.05 * np.sin(9 * t),
            1.05 * np.sin(t) + 0.04 * np.sin(7 * t),
            1.4 + 0.08 * np.sin(4 * t),
        ]
    return poses


def in_room(world_from_camera: Float[np.ndarray, "*n 4 4"], room: int) -> np.ndarray:
    """The same poses in another room, which is as large; its furniture stands otherwise."""
    moved = world_from_camera.copy()
    moved[..., 0, 3] += APART * room
    return moved


def room_of(world_from_camera: Float[np.ndarray, "4 4"]) -> int:
    """The number of the room that a camera is in."""
    return round(float(world_from_camera[0, 3]) / APART)


def furniture(room: int) -> Float[np.ndarray, "n 2 3"]:
    """The boxes in a room, as they would stand in the first; even rooms are all alike."""
    if room % 2 == 0:
        return FURNITURE
    low, high = FURNITURE[:, 0] * [-1, 1, 1], FURNITURE[:, 1] * [-1, 1, 1]
    return np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1)


def true_depth(
    world_from_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"] = INTRINSICS,
) -> Float[np.ndarray, "h w"]:
    """z-depth of the room and its furniture."""
    room = room_of(world_from_camera)
    eye = world_from_camera[:3, 3] - [APART * room, 0.0, 0.0]
    return _depth(eye, world_from_camera[:3, :3], ROOM, furniture(room), intrinsics)


def depth_in_hall(world_from_camera: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "h w"]:
    """z-depth of a hall as wide as the room, and of its bays along x, all furnished alike."""
    hall = ROOM + [[0.0, 0.0, 0.0], [BAY * (BAYS - 1), 0.0, 0.0]]
    boxes = [FURNITURE[1:5] + [BAY * bay, 0.0, 0.0] for bay in range(BAYS)]
    return _depth(world_from_camera[:3, 3], world_from_camera[:3, :3], hall, np.concatenate(boxes))


def _depth(
    eye: Float[np.ndarray, "3"],
    world_from_camera: Float[np.ndarray, "3 3"],
    walls: Float[np.ndarray, "2 3"],
    boxes: Float[np.ndarray, "n 2 3"],
    intrinsics: Float[np.ndarray, "3 3"] = INTRINSICS,
) -> Float[np.ndarray, "h w"]:
    """Rays against boxes, by slabs: from inside the one of the walls, to the others."""
    rays = unproject(np.ones((HEIGHT, WIDTH)), intrinsics) @ world_from_camera.T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)

    def slabs(box: Float[np.ndarray, "2 3"]) -> tuple[np.ndarray, np.ndarray]:
        one, other = (box[0] - eye) / rays, (box[1] - eye) / rays
        near, far = np.minimum(one, other), np.maximum(one, other)
        enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])
        return enter, np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])

    depth = slabs(walls)[1]
    for box in boxes:
        enter, leave = slabs(box)
        depth = np.where((enter > 0) & (enter < leave), np.minimum(depth, enter), depth)
    return depth


CELL = 8  # pixels; numbers are written in cells of black and white, which compression leaves
BITS = 14  # of a number; those of its camera follow


def numbered_image(index: int, camera: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """An image with its number, and that of its camera, in its two upper rows of cells."""
    rgb = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(2 * (WIDTH // CELL)):
        row, column = divmod(bit, WIDTH // CELL)
        cell = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        rgb[cell] = 255 * ((camera << BITS | index) >> bit & 1)
    return rgb


def number_of(rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """The number of an image, and that of its camera."""
    cells = rgb[CELL // 2 : 2 * CELL : CELL, CELL // 2 :: CELL, 1][:, : WIDTH // CELL]
    value = sum(int(cell > 127) << bit for bit, cell in enumerate(cells.ravel()))
    return value & ((1 << BITS) - 1), value >> BITS
