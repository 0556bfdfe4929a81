# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rides through the pipeline with the oracle, and how well the map holds: the figures of a ride.

Poses are kept as a consumer keeps them: each belongs to a keyframe and follows its corrections.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fakes.figures import absolute_error, alignment, path_length
from fakes.oracle import Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, drive, hand_held, numbered_image
from jaxtyping import Bool, Float, Int

from vggt_ros.frames import Frame, Observation, Update
from vggt_ros.mapping.corrections import KeyframeFollower, KeyframePoses
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000
PERIOD = SECOND // 10
BROKEN = ("nonsense", "other scene", "newest camera thrown", "shared camera thrown", "not finite")


def cameras(kind: str, frames: int = 300) -> Float[np.ndarray, "n 4 4"]:
    """world_from_camera of a drive of the robot, or of a camera in a hand."""
    return hand_held() if kind == "hand_held" else drive(kind, frames) @ BASE_FROM_CAMERA


@dataclass
class Placed:
    """The newest camera of one update, where it is known to be now."""

    world_from_camera: Float[np.ndarray, "4 4"]
    keyframe: int
    accepted: bool
    unit: float  # world units per metre


class Path:
    """The newest camera of every update, kept as the node's path and cloud are."""

    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self._follower = KeyframeFollower()

    def add(self, update: Update, window_per_metre: float) -> None:
        """`window_per_metre`: units of the update's window that are a metre."""
        self.follow(update.keyframes)
        view, found = update.views[-1], update.registration
        unit = float(found.world_from_window.scale) * window_per_metre
        pose = view.world_from_camera.copy()
        self.placed.append(Placed(pose, view.keyframe, found.accepted, unit))

    def follow(self, keyframes: KeyframePoses) -> None:
        """Move what belongs to keyframes that moved."""
        correction = self._follower.follow(keyframes)
        if not correction.moved and not correction.heirs:
            return
        for placed in self.placed:
            motion = correction.moved.get(placed.keyframe)
            if motion is not None:
                pose = motion.apply_to_poses(placed.world_from_camera[None])[0]
                placed.world_from_camera, placed.unit = pose, placed.unit * float(motion.scale)
            placed.keyframe = correction.heirs.get(placed.keyframe, placed.keyframe)


def grown_between(before: Update, after: Update) -> dict[int, float]:
    """By how much lengths near each keyframe that moved between two updates grew."""
    follower = KeyframeFollower()
    follower.follow(before.keyframes)
    return {key: motion.scale for key, motion in follower.follow(after.keyframes).moved.items()}


class Ride:
    """One drive through the pipeline; `at` names frames by their number, newest last."""

    def __init__(
        self,
        truth: Float[np.ndarray, "n 4 4"],
        faults: Faults | None = None,
        seed: int = 0,
        *,
        engine: Oracle | None = None,
        background: bool = False,
        observe: Callable[[Observation, int], Observation] = lambda observation, _: observation,
        before: Callable[[Pipeline, int], None] = lambda pipeline, i: None,
        **settings: Any,
    ):
        """`observe` adds to what is observed at a frame, `before` is called before each."""
        self.truth, self.engine = truth, engine or Oracle(truth, faults, seed)
        self.pipeline = Pipeline(self.engine, Settings(**settings), background=background)
        self.path, self.updates = Path(), list[Update]()
        for i in range(len(truth)):
            before(self.pipeline, i)
            frame = Frame(numbered_image(i), SECOND + i * PERIOD)
            update = self.pipeline.step(observe(Observation(frame), i))
            assert update is not None
            self.updates.append(update)
            self.path.add(update, self.engine.scales[-1])
        self.keyframes = self.pipeline.settle()
        self.path.follow(self.keyframes)

    # ---- what was said at the time ------------------------------------------------------------

    @property
    def refused(self) -> list[int]:
        """Frames whose window was refused."""
        return [i for i, update in enumerate(self.updates) if not update.registration.accepted]

    @property
    def segments(self) -> Int[np.ndarray, "n"]:
        """Of every window, when it was placed."""
        return np.array([update.registration.segment for update in self.updates])

    @property
    def states(self) -> list[str]:
        """Of the map, after every window."""
        return [update.status.state for update in self.updates]

    # ---- what is known at the end -------------------------------------------------------------

    @property
    def accepted(self) -> Bool[np.ndarray, "n"]:
        return np.array([placed.accepted for placed in self.path.placed])

    @property
    def belongs(self) -> Int[np.ndarray, "n"]:
        """The segment that each frame's keyframe is tied to at the end; -1: it is gone."""
        known, keys = self.keyframes, [placed.keyframe for placed in self.path.placed]
        return np.array([known.segment(key) if key in known else -1 for key in keys])

    @property
    def centres(self) -> Float[np.ndarray, "n 3"]:
        return np.stack([placed.world_from_camera[:3, 3] for placed in self.path.placed])

    @property
    def units(self) -> Float[np.ndarray, "n"]:
        """World units per metre, near each frame."""
        return np.array([placed.unit for placed in self.path.placed])

    def error(self, rows: Sequence[int] | slice | np.ndarray = slice(None)) -> float:
        """ATE of the accepted ones of these frames after a Sim(3) alignment, metres."""
        usable = self.accepted[rows]
        here, there = self.centres[rows][usable], self.truth[rows][usable, :3, 3]
        return absolute_error(here, there, with_scale=True)

    @property
    def share(self) -> float:
        """The error of the whole path, as a share of its length."""
        return self.error() / path_length(self.truth[:, :3, 3])

    @property
    def drift(self) -> float:
        """By how much a metre at the end is more than one at the start."""
        units = self.units[self.accepted]
        return float(units[-10:].mean() / units[:10].mean() - 1.0)

    def off_from(self, known: Sequence[int], rows: Sequence[int]) -> Float[np.ndarray, "k"]:
        """How far frames `rows` are from the truth once frames `known` fit it best, metres."""
        here, there = self.centres, self.truth[:, :3, 3]
        fit = alignment(here[known], there[known], with_scale=True)
        return np.linalg.norm(fit.apply(here[rows]) - there[rows], axis=1)

    def scene_depth(self, i: int) -> float:
        """True median depth in front of a camera, metres."""
        return float(np.median(self.engine.see(self.truth[i])))
