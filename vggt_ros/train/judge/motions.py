# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the camera of a clip moves: robot, arc, orbit, handheld, stereo.

World axes: x and y level, z up, metres. Cameras: x right, y down, z ahead.
"""

import numpy as np
from jaxtyping import Float

MOTIONS = ("robot", "arc", "orbit", "handheld", "stereo")
Vector = Float[np.ndarray, "3"]
Poses = Float[np.ndarray, "s 4 4"]  # world_from_camera


def looking_at(eye: Vector, target: Vector, roll: float = 0.0) -> Float[np.ndarray, "4 4"]:
    """world_from_camera of a camera at `eye` whose axis points to `target`; `roll` in radians."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, 0] = cosine * right + sine * down
    pose[:3, 1] = cosine * down - sine * right
    pose[:3, 2], pose[:3, 3] = ahead, eye
    return pose


def move(kind: str, frames: int, reach: float, random: np.random.Generator) -> Poses:
    """A camera's way in a scene whose things stand within `reach` metres of the origin."""
    return {
        "robot": _robot, "arc": _arc, "orbit": _orbit, "handheld": _handheld, "stereo": _stereo,
    }[kind](frames, reach, random)  # fmt: skip


def _robot(frames: int, reach: float, random: np.random.Generator) -> Poses:
    """Ahead at one height, on a curve, looking where it goes."""
    yaw, rate = random.uniform(0, 2 * np.pi), random.uniform(-0.12, 0.12)
    step, height = reach * random.uniform(0.02, 0.06), reach * random.uniform(0.1, 0.35)
    place = -0.75 * reach * np.array([np.cos(yaw), np.sin(yaw)])
    tilt, poses = random.uniform(-0.1, 0.15), []
    for _ in range(frames):
        ahead = np.array([np.cos(yaw), np.sin(yaw)])
        eye = np.array([*place, height])
        poses.append(looking_at(eye, eye + np.array([*ahead, -np.tan(tilt)])))
        place, yaw = place + step * ahead, yaw + rate
    return np.stack(poses)


def _arc(frames: int, reach: float, random: np.random.Generator) -> Poses:
    """Around what stands in the middle, 5 to 12 degrees a frame, at one height."""
    return _around(frames, reach, random, np.radians(random.uniform(5, 12)), climb=0.0)


def _orbit(frames: int, reach: float, random: np.random.Generator) -> Poses:
    """The same in steps of 15 to 30 degrees, rising or sinking."""
    return _around(frames, reach, random, np.radians(random.uniform(15, 30)), climb=0.08)


def _around(
    frames: int, reach: float, random: np.random.Generator, step: float, climb: float
) -> Poses:
    start, turn = random.uniform(0, 2 * np.pi), random.choice([-1.0, 1.0]) * step
    radius, elevation = reach * random.uniform(0.55, 0.85), random.uniform(0.25, 0.7)
    rise, poses = random.uniform(-climb, climb), []
    target = np.array([0.0, 0.0, 0.12 * reach])
    for i in range(frames):
        angle, up = start + i * turn, np.clip(elevation + i * rise, 0.15, 1.1)
        level = radius * np.cos(up)
        eye = np.array([level * np.cos(angle), level * np.sin(angle), radius * np.sin(up)])
        aim = target + 0.02 * reach * random.standard_normal(3)
        poses.append(looking_at(eye, aim, 0.03 * random.standard_normal()))
    return np.stack(poses)


def _handheld(frames: int, reach: float, random: np.random.Generator) -> Poses:
    """Any direction, with sway and roll."""
    angle = random.uniform(0, 2 * np.pi)
    eye = reach * np.array([0.7 * np.cos(angle), 0.7 * np.sin(angle), random.uniform(0.25, 0.5)])
    aim = reach * np.array([*random.uniform(-0.2, 0.2, 2), random.uniform(0.05, 0.25)])
    drift = random.standard_normal(3)
    drift *= reach * random.uniform(0.03, 0.08) / np.linalg.norm(drift)
    roll, poses = random.uniform(-0.3, 0.3), []
    for _ in range(frames):
        poses.append(looking_at(eye, aim, roll))
        eye = eye + drift + 0.01 * reach * random.standard_normal(3)
        eye[2] = max(eye[2], 0.1 * reach)
        aim = aim + 0.03 * reach * random.standard_normal(3)
        roll += 0.06 * random.standard_normal()
    return np.stack(poses)


def _stereo(frames: int, reach: float, random: np.random.Generator) -> Poses:
    """Two parallel cameras side by side, left and right by turns, that go ahead."""
    left = _robot((frames + 1) // 2, reach, random)
    right = left.copy()
    right[:, :3, 3] += reach * random.uniform(0.03, 0.08) * left[:, :3, 0]
    return np.stack([left, right], axis=1).reshape(-1, 4, 4)[:frames]
