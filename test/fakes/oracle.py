# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine with true geometry and chosen faults: the test rig of the map and its scale.

The scene is a furnished room, the camera is mounted on a robot. `Oracle.infer` returns what the
network would, with the faults of a real one: every window has a unit and a first camera of its own,
depth is noisy with gross outliers, cameras are turned and shifted a little. Frames carry their
number in their pixels, so the engine works through image topics just as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from fakes.appearance import appearance, appearance_in_room
from fakes.room import HEIGHT, INTRINSICS, RIG, WIDTH, number_of, room_of, true_depth, turn
from vggt_ros.engine.interface import InferenceResult
from vggt_ros.geometry import inverse_rigid, pose_encoding_from


@dataclass(frozen=True)
class Faults:
    """How far the oracle is from the truth; the defaults are those of the acceptance figures."""

    scale: tuple[float, float] = (0.3, 3.0)  # of every window, log-uniform
    depth: float = 0.05  # relative, per pixel
    outliers: float = 0.02  # share of pixels whose depth is anything
    smooth: float = 0.0  # relative error of depth that varies slowly over the image, rms; half of
    # its variance stays with the frame, as that of a real network
    frame_scale: float = 0.0  # relative, of each frame's depth, in each window
    pose_degrees: float = 0.5  # rms turn of a camera
    direction_degrees: float = -1.0  # rms turn of its direction from the first; below 0: the same
    length: float = 0.0  # relative error of its distance from the first one
    alike: float = 0.0  # metres along x after which all looks alike to it, in an extra view
    broken: dict[int, str] = field(default_factory=dict)  # newest frame of a window -> its damage


VGGT_LIKE = Faults(depth=0.01, outliers=0.005, smooth=0.02, frame_scale=0.01, pose_degrees=0.2)
SMALL_LIKE = Faults(
    depth=0.02, outliers=0.02, smooth=0.1, frame_scale=0.03, pose_degrees=0.9, direction_degrees=7.0
)
NONE = Faults(scale=(1.0, 1.0), depth=0.0, outliers=0.0, pose_degrees=0.0)


def smooth_field(random: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """A random image of mean 0 and rms 1 that varies slowly: waves of up to one period across."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None]
    waves = [
        random.standard_normal() * np.cos(np.pi * (i * u + j * v) + random.uniform(0, 2 * np.pi))
        for i in range(3)
        for j in range(3)
    ]
    field = np.sum(waves, axis=0)
    return (field - field.mean()) / field.std()


class Oracle:
    """An engine for `Pipeline` whose results are the truth under `faults`."""

    name, device, dtype, random_weights, default_width = "oracle", "cpu", "float32", False, WIDTH
    compiling, fingerprint, cache_fault, trackless, layout = (), "oracle", "", "", "joint"

    def __init__(
        self,
        world_from_camera: Float[np.ndarray, "n 4 4"],
        faults: Faults | None = None,
        seed: int = 0,
        see: Callable[[Float[np.ndarray, "4 4"]], Float[np.ndarray, "h w"]] = true_depth,
        rig: Sequence[Float[np.ndarray, "4 4"]] = RIG,
    ):
        """`see`: the true depth in front of a camera."""
        self.world_from_camera = world_from_camera
        self.faults, self.see, self.rig = faults or Faults(), see, rig
        self.random = np.random.default_rng(seed)
        self.scales: list[float] = []  # window units per metre of every inference so far
        # Number and camera of each image of every inference, and by the pipeline's frame id.
        self.inferences: list[list[tuple[int, int]]] = []
        self.images: dict[int, tuple[int, int]] = {}
        self.cached: tuple[int, ...] = ()  # frame ids of the last inference
        self._depths: dict[tuple[int, int], Float[np.ndarray, "h w"]] = {}

    def prepare(self, *_: object, **__: object) -> None:
        """Nothing to compile."""

    def obstacle(self, *_: object, **__: object) -> str:
        """Nothing is compiled, so that all can be tracked."""
        return ""

    def close(self, timeout: float) -> bool:
        """Nothing to wait for."""
        return True

    def reset(self) -> None:
        """Forget which images the frame ids name."""
        self.images, self.cached = {}, ()

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """As `Engine.describe`: what is in front of a camera; `broken` frames show anything."""
        if frame_id not in self.cached:
            return None
        index, camera = self.images[frame_id]
        if self.faults.broken.get(index) in ("other scene", "nonsense"):
            return appearance(np.array([1000.0 + 10.0 * index]))
        return appearance_in_room(self.world_from_camera[index] @ self.rig[camera])

    def infer(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
        views: int = 0,
    ) -> InferenceResult:
        """As `Engine.infer`, with the faults of this window."""
        seen = [number_of(image) for image in images]
        index = [i for i, _ in seen]
        self._remember(frame_ids, seen)
        low, high = self.faults.scale
        self.scales.append(float(np.exp(self.random.uniform(np.log(low), np.log(high)))))
        truth = self._believed(
            self.world_from_camera[index] @ np.stack([self.rig[camera] for _, camera in seen]),
            np.array(frame_ids) < 0,
        )
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
        self.cached = tuple(frame_ids)

    def _believed(
        self, truth: Float[np.ndarray, "s 4 4"], extra: Bool[np.ndarray, "s"]
    ) -> Float[np.ndarray, "s 4 4"]:
        """Where a network takes cameras to be: an extra view is where it looks alike, if anywhere.

        What shows another room than the newest frame may be anywhere.
        """
        if self.faults.alike > 0:
            away = truth[extra, 0, 3] - truth[-1, 0, 3]
            truth[extra, 0, 3] -= self.faults.alike * np.rint(away / self.faults.alike)
        for pose in truth[:-1]:
            if room_of(pose) != room_of(truth[-1]):
                anywhere = np.eye(4)
                anywhere[:3, :3] = turn(0.3 * self.random.standard_normal(3))
                anywhere[:3, 3] = self.random.standard_normal(3)
                pose[:] = truth[-1] @ anywhere
        return truth

    def _cameras(
        self, world_from_camera: Float[np.ndarray, "s 4 4"], damage: str
    ) -> Float[np.ndarray, "s 4 4"]:
        """window_from_camera in metres: relative to a first camera that is off as well."""
        poses = inverse_rigid(world_from_camera[0]) @ world_from_camera
        sigma = np.deg2rad(self.faults.pose_degrees) / np.sqrt(3)
        direction = self.faults.direction_degrees
        aside = sigma if direction < 0 else np.deg2rad(direction) / np.sqrt(3)
        for pose in poses:
            pose[:3, 3] = turn(aside * self.random.standard_normal(3)) @ pose[:3, 3]
            if self.faults.length > 0:
                pose[:3, 3] *= np.exp(self.faults.length * self.random.standard_normal())
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
            self._depths[key] = self.see(self.world_from_camera[index] @ self.rig[camera])
        depth = self._depths[key]
        if damage == "other scene":
            waves = self.random.uniform(0.05, 0.3, (2, 2))
            v, u = np.mgrid[:HEIGHT, :WIDTH]
            depth = 2.0 + np.sin(waves[0, 0] * u + waves[0, 1] * v) + 0.8 * np.cos(waves[1, 0] * u)
        if damage == "nonsense":
            depth = self.random.uniform(0.5, 6.0, depth.shape)
        if faults.smooth > 0 or faults.frame_scale > 0:
            own = smooth_field(np.random.default_rng(1000 * index + camera))
            now = smooth_field(self.random)
            error = faults.smooth * np.sqrt(0.5) * (own + now)
            depth = depth * np.exp(error + faults.frame_scale * self.random.standard_normal())
        depth = depth * np.exp(faults.depth * self.random.standard_normal(depth.shape))
        gross = self.random.random(depth.shape) < faults.outliers
        return np.where(gross, depth * self.random.uniform(0.2, 5.0, depth.shape), depth)
