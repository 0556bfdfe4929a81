# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is said of the camera's place in the map while it is not known: parameter `tf_when_lost`."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from vggt_ros.frames import Update
from vggt_ros.mapping.status import LOST, RELOCALISING

Policy = Literal["withhold", "freeze", "predict"]
Pose = Float[np.ndarray, "4 4"]


def is_located(update: Update) -> bool:
    """Whether the window was registered to the map: its poses were measured, not predicted.

    While the camera is searched for, windows may fit each other, but nothing ties them to the map.
    """
    return update.registration.accepted and update.status.state not in (RELOCALISING, LOST)


class PoseGate:
    """Lets known poses pass; instead of others nothing, the last known one, or the prediction."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._last: Pose | None = None  # known

    def select(self, located: bool, find: Callable[[], Pose | None]) -> Pose | None:
        """The pose to publish; `find` is called only where its result is of use."""
        if not located and self._policy != "predict":
            return self._last if self._policy == "freeze" else None
        pose = find()
        if located and pose is not None:
            self._last = pose
        return pose

    def reset(self) -> None:
        """Another map: the last known pose is not of it."""
        self._last = None
