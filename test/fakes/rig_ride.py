# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rig of several cameras on a drive through the oracle's room, and how well it is located."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fakes.figures import absolute_error, path_length
from fakes.oracle import Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, RIG, drive, numbered_image
from vggt_ros.frames import Frame, Instant, Observation, Update
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000
PERIOD = SECOND // 10
FRONT, LEFT, RIGHT, BESIDE = 0, 2, 3, 4  # numbers of `RIG`
THREE = {"front": FRONT, "left": LEFT, "right": RIGHT}
STEREO = {"front": FRONT, "beside": BESIDE}
LAG = 1_000_003  # nanoseconds between the stamps of one camera and the next


class RigRide:
    """One drive; `cameras` are those of `RIG` by name."""

    def __init__(
        self,
        cameras: Mapping[str, int],
        kind: str = "room",
        frames: int = 300,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        described: Mapping[str, Float[np.ndarray, "4 4"]] | None = None,
        there: Callable[[str, int], bool] = lambda name, i: True,
        engine: type[Oracle] = Oracle,
        **settings: Any,
    ):
        """`described`: base_from_camera by /tf, by default the truth; `there`: camera, instant."""
        self.cameras, self.there = dict(cameras), there
        self.described = dict(true_mounts(cameras)) if described is None else dict(described)
        self.truth = drive(kind, frames) @ BASE_FROM_CAMERA
        self.engine = engine(self.truth, faults, seed)
        self.pipeline = Pipeline(self.engine, Settings(**settings), cameras=tuple(cameras))
        self.updates: list[Update] = []
        for i in range(frames):
            update = self.pipeline.step(self.instant(i))
            assert update is not None
            self.updates.append(update)

    def instant(self, i: int) -> Instant:
        """What those cameras saw that are there."""
        seen = [
            self.observation(name, i, k)
            for k, name in enumerate(self.cameras)
            if self.there(name, i)
        ]
        return Instant(tuple(seen), self.described)

    def observation(self, name: str, i: int, k: int) -> Observation:
        frame = Frame(
            numbered_image(i, self.cameras[name]), SECOND + i * PERIOD + k * LAG,
            f"{name}_optical", camera_name=name,
        )  # fmt: skip
        return Observation(frame, self.described.get(name))

    @property
    def reference(self) -> Float[np.ndarray, "n 4 4"]:
        """world_from_reference of every update, as it was said at the time."""
        return np.stack([update.world_from_reference for update in self.updates])

    @property
    def segments(self) -> set[int]:
        return {update.registration.segment for update in self.updates}

    def share(self, rows: slice = slice(None), *, with_scale: bool = False) -> float:
        """ATE after SE(3), or Sim(3), as a share of the way."""
        here, there = self.reference[rows, :3, 3], self.truth[rows, :3, 3]
        return absolute_error(here, there, with_scale=with_scale) / path_length(there)


def true_mounts(cameras: Mapping[str, int]) -> dict[str, Float[np.ndarray, "4 4"]]:
    """base_from_camera of each."""
    return {name: BASE_FROM_CAMERA @ RIG[number] for name, number in cameras.items()}
