# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the map says of a window."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.metric.scale import Estimate
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.pose_graph.loop_search import LoopSearch
from vggt_ros.mapping.rig.report import RigReport
from vggt_ros.mapping.segment import MapState, Registration
from vggt_ros.mapping.status import MapStatus, tracking_state
from vggt_ros.mapping.velocity import Velocity

GUESSED = "after a loss the map goes on by odometry, and its unit is measured again"


class Placement(NamedTuple):
    """A window in the world."""

    registration: Registration
    world_from_camera: Float[np.ndarray, "s 4 4"]
    scale: Estimate
    metric: bool
    velocity: Velocity | None  # of the newest camera; None: not known
    keyframes: KeyframePoses
    odom_from_world: Float[np.ndarray, "4 4"]  # rigid; absorbs what corrections moved
    status: MapStatus
    scale_about: Float[np.ndarray, "3"]  # world; an error of the scale moves nothing there
    rig: RigReport | None = None  # None: there is one camera
    reference: Float[np.ndarray, "4 4"] | None = None  # of a rig: its world_from_camera

    def shared(self) -> dict[str, Any]:
        """All but the poses of the window: what an `Update` says as it is said here."""
        fields = self._asdict()
        del fields["world_from_camera"]
        return fields


def map_status(
    found: Registration,
    state: MapState,
    keyframes: KeyframeMap,
    loops: LoopSearch,
    sought_in: int | None,
    *,
    lost: bool,
    searching: bool,
    kept: int,
    guessed: bool,
) -> MapStatus:
    """How the map is doing after a window.

    `kept`: keyframes of the present segment, since the last loss; `guessed`: so is its unit.
    """
    name = tracking_state(
        begun=state.current is not None,
        accepted=found.accepted,
        doubtful=found.doubtful or guessed,
        lost=lost,
        searching=searching,
        keyframes=kept,
        sought=sought_in is not None,
    )
    return MapStatus(
        name,
        found.segment,
        keyframes.segments,
        len(keyframes.store),
        loops.closed,
        loops.tried,
        found.residual,
        state.noise.residual,
        found.reason or (GUESSED if guessed else loops.reason),
        loops.obstacles.text,
        sought_in,
    )
