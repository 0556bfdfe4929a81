# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine with true geometry and chosen faults: the test rig of the map and its scale.

The scene is a furnished room, the camera is mounted on a robot. `Oracle.infer` returns what the
network would, with the faults of a real one: every window has a unit and a first camera of its own,
depth is noisy with gross outliers, cameras are turned and shifted a little. Frames carry their
number in their pixels, so the engine works through image topics just as well.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.geometry import WORLD_FROM_OPTICAL, inverse_rigid, pose_encoding_from, unproject

WIDTH, HEIGHT = 84, 56
FOCAL = 60.0  # pixels: 70 degrees across
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])

ROOM = np.array([[-5.0, -4.0, 0.0], [5.0, 4.0, 3.0]])
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
RIG = (np.eye(4), CAMERA_FROM_RIGHT)  # `camera_from_each` of the images that there are


# ---- truth --------------------------------------------------------------------------------------


def turn(axis_angle: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a rotation vector, by Rodrigues' formula."""
    angle = float(np.linalg.norm(axis_angle))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


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
    elif kind != "stand":
        raise ValueError(f"there is no drive {kind!r}")
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        poses[i, :3, :3] = turn(np.array([0.0, 0.0, yaw]))
        poses[i, :2, 3] = x, y
        x, y, yaw = x + speed[i] * np.cos(yaw), y + speed[i] * np.sin(yaw), yaw + rate[i]
    return poses


def true_depth(world_from_camera: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "h w"]:
    """z-depth of the room and its furniture: rays against boxes, by slabs."""
    rays = unproject(np.ones((HEIGHT, WIDTH)), INTRINSICS) @ world_from_camera[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    eye = world_from_camera[:3, 3]

    def slabs(box: Float[np.ndarray, "2 3"]) -> tuple[np.ndarray, np.ndarray]:
        one, other = (box[0] - eye) / rays, (box[1] - eye) / rays
        near, far = np.minimum(one, other), np.maximum(one, other)
        enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])
        return enter, np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])

    depth = slabs(ROOM)[1]
    for box in FURNITURE:
        enter, leave = slabs(box)
        depth = np.where((enter > 0) & (enter < leave), np.minimum(depth, enter), depth)
    return depth


def numbered_image(index: int, camera: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """An image with its number, and that of its camera, in its upper left corner."""
    rgb = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    rgb[:16, :16] = index >> 8, index & 255, camera
    return rgb


# ---- faults -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faults:
    """How far the oracle is from the truth; the defaults are those of the acceptance figures."""

    scale: tuple[float, float] = (0.3, 3.0)  # of every window, log-uniform
    depth: float = 0.05  # relative, per pixel
    outliers: float = 0.02  # share of pixels whose depth is anything
    pose_degrees: float = 0.5  # rms turn of a camera, and of its direction from the first one
    broken: dict[int, str] = field(default_factory=dict)  # newest frame of a window -> its damage


NONE = Faults(scale=(1.0, 1.0), depth=0.0, outliers=0.0, pose_degrees=0.0)


class Oracle:
    """An engine for `Pipeline` whose results are the truth under `faults`."""

    name, device, dtype, random_weights, default_width = "oracle", "cpu", "float32", False, WIDTH
    compiling = ()

    def __init__(
        self,
        world_from_camera: Float[np.ndarray, "n 4 4"],
        faults: Faults | None = None,
        seed: int = 0,
    ):
        self.world_from_camera = world_from_camera
        self.faults = faults or Faults()
        self.random = np.random.default_rng(seed)
        self.scales: list[float] = []  # window units per metre of every inference so far
        # Number and camera of each image of every inference, and by the pipeline's frame id.
        self.inferences: list[list[tuple[int, int]]] = []
        self.images: dict[int, tuple[int, int]] = {}
        self._depths: dict[tuple[int, int], Float[np.ndarray, "h w"]] = {}

    def prepare(self, *_: object, **__: object) -> None:
        """Nothing to compile."""

    def close(self, timeout: float) -> bool:
        """Nothing to wait for."""
        return True

    def reset(self) -> None:
        """Forget which images the frame ids name."""
        self.images = {}

    def infer(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
    ) -> InferenceResult:
        """As `Engine.infer`, with the faults of this window."""
        seen = [(int(i[4, 4, 0]) << 8 | int(i[4, 4, 1]), int(i[4, 4, 2])) for i in images]
        index = [i for i, _ in seen]
        self._remember(frame_ids, seen)
        low, high = self.faults.scale
        self.scales.append(float(np.exp(self.random.uniform(np.log(low), np.log(high)))))
        truth = self.world_from_camera[index] @ np.stack([RIG[camera] for _, camera in seen])
        damage = self.faults.broken.get(index[-1], "")
        poses = self._cameras(truth, damage)
        depth = np.stack([self._depth(*each, damage) for each in seen[-depth_frames:]])
        confidence = self.random.uniform(1.6, 4.0, depth.shape)
        poses[:, :3, 3] *= self.scales[-1]
        encoding = pose_encoding_from(
            inverse_rigid(poses)[:, :3], np.tile(INTRINSICS, (len(index), 1, 1)), HEIGHT, WIDTH
        )
        if damage == "not finite":
            encoding = encoding * np.nan
        tracks = visibility = None
        if queries is not None:  # tests read in which frames the points are, not where
            shift = np.float32([0.01 * i + 40.0 * c for i, c in seen])
            tracks = queries[None] + shift[:, None, None]
            visibility = np.ones(tracks.shape[:2], np.float32)
        return InferenceResult(
            encoding.astype(np.float32),
            (depth * self.scales[-1]).astype(np.float32),
            confidence.astype(np.float32),
            tracks,
            visibility,
            visibility,
        )

    def _remember(self, frame_ids: tuple[int, ...], images: list[tuple[int, int]]) -> None:
        """As the engine does: an image is known by its frame id, which must never name another."""
        assert len(set(frame_ids)) == len(frame_ids)
        for key, seen in zip(frame_ids, images, strict=True):
            assert self.images.setdefault(key, seen) == seen
        self.inferences.append(images)

    def _cameras(
        self, world_from_camera: Float[np.ndarray, "s 4 4"], damage: str
    ) -> Float[np.ndarray, "s 4 4"]:
        """window_from_camera in metres: relative to a first camera that is off as well."""
        poses = inverse_rigid(world_from_camera[0]) @ world_from_camera
        sigma = np.deg2rad(self.faults.pose_degrees) / np.sqrt(3)
        for pose in poses:
            pose[:3, 3] = turn(sigma * self.random.standard_normal(3)) @ pose[:3, 3]
            pose[:3, :3] = pose[:3, :3] @ turn(sigma * self.random.standard_normal(3))
        if damage == "newest camera thrown":
            poses[-1, :3, :3] = poses[-1, :3, :3] @ turn(np.array([0.0, 0.5, 0.0]))
            poses[-1, :3, 3] += [0.5, 0.0, 0.5]
        if damage == "shared camera thrown":
            poses[-2, :3, :3] = poses[-2, :3, :3] @ turn(np.array([0.0, 0.5, 0.0]))
        if damage == "nonsense":
            for pose in poses:
                pose[:3, :3] = turn(self.random.standard_normal(3))
                pose[:3, 3] = self.random.standard_normal(3)
        return poses

    def _depth(self, index: int, camera: int, damage: str) -> Float[np.ndarray, "h w"]:
        faults, key = self.faults, (index, camera)
        if key not in self._depths:
            self._depths[key] = true_depth(self.world_from_camera[index] @ RIG[camera])
        depth = self._depths[key]
        if damage == "other scene":
            waves = self.random.uniform(0.05, 0.3, (2, 2))
            v, u = np.mgrid[:HEIGHT, :WIDTH]
            depth = 2.0 + np.sin(waves[0, 0] * u + waves[0, 1] * v) + 0.8 * np.cos(waves[1, 0] * u)
        if damage == "nonsense":
            depth = self.random.uniform(0.5, 6.0, depth.shape)
        depth = depth * np.exp(faults.depth * self.random.standard_normal(depth.shape))
        gross = self.random.random(depth.shape) < faults.outliers
        return np.where(gross, depth * self.random.uniform(0.2, 5.0, depth.shape), depth)


# ---- odometry and figures -----------------------------------------------------------------------


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


def aligned(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, with_scale: bool
) -> tuple[Float[np.ndarray, "n 3"], float]:
    """`points` after the similarity or rigid motion that fits `truth` best, and the scale used.

    S. Umeyama, Least-squares estimation of transformation parameters between two point patterns,
    PAMI 13(4), 1991.
    """
    here, there = points - points.mean(0), truth - truth.mean(0)
    u, size, vt = np.linalg.svd(there.T @ here)
    flip = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    scale = float(size @ flip / np.sum(here**2)) if with_scale else 1.0
    return scale * here @ ((u * flip) @ vt).T + truth.mean(0), scale


def absolute_error(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, with_scale: bool
) -> float:
    """Root mean square distance after alignment: ATE."""
    fitted, _ = aligned(points, truth, with_scale=with_scale)
    return float(np.sqrt(np.mean(np.sum((fitted - truth) ** 2, axis=-1))))
