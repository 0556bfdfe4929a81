# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows of a rig as the map takes them: the camera that leads each instant, and the others.

The map registers one camera of each instant, held together with the others by the rig, so that its
pose is estimated by all of them. The others give depth for the scale, pairs for metres, and stand
where the rig has them. What the map says of "the newest camera" is of the rig's reference.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.map_frames import median_depth
from vggt_ros.mapping.metric import scale
from vggt_ros.mapping.metric.baseline import CameraPair
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.recovery import Prediction
from vggt_ros.mapping.rig.report import RigReport
from vggt_ros.mapping.rig.rig import Rig
from vggt_ros.mapping.segment import MapState, Registration, Segment
from vggt_ros.mapping.sharing import SampledWindow, sampled
from vggt_ros.mapping.window import WindowGeometry, coarse


class HeldWindow(NamedTuple):
    """A window with the cameras of each instant held together; of a single camera as it is."""

    whole: WindowGeometry
    leading: WindowGeometry  # the first camera of each instant
    sampled: SampledWindow | None = None  # of a rig
    pairs: tuple[CameraPair, ...] = ()  # as the network has them
    unit: float = 1.0  # world units per window unit that the rig was held with


def hold(
    rig: Rig | None,
    window: WindowGeometry,
    state: MapState,
    known: ScaleState,
    unit_of: Callable[[WindowGeometry], float],
) -> HeldWindow:
    """`unit_of`: world units per unit of a window that shares nothing with the map."""
    if rig is None or not np.isfinite(window.window_from_camera).all():
        return HeldWindow(window, window.part(leading=True))
    sparse = coarse(window)
    leading, others = sparse.part(leading=True), sparse.part(leading=False)
    seen = sampled(leading, others, state)
    if seen.fit is not None:
        unit = seen.fit.scale
    else:
        unit = 1.0 if state.current is None else unit_of(leading)
    held = rig.hold(window, unit, metres_per_unit(known), median_depth(seen.frames))
    seen = seen.with_poses(dict(zip(held.frame_ids, held.window_from_camera, strict=True)))
    return HeldWindow(held, held.part(leading=True), seen, rig.pairs(window), unit)


def metres_per_unit(known: ScaleState) -> float | None:
    """Of the world; None: not known."""
    return scale.estimate(known).value if known.metric and not known.guessed else None


def learn(rig: Rig | None, window: HeldWindow, found: Registration) -> None:
    """What a registered window says of the rig is kept; a refused one says nothing."""
    if rig is not None and found.accepted:
        rig.keep(float(found.world_from_window.scale) / window.unit)
    elif rig is not None:
        rig.drop()


def restart(rig: Rig | None) -> None:
    """Another part of the map begins; see `Rig.restart`."""
    if rig is not None:
        rig.restart()


def move(rig: Rig | None, factor: float) -> None:
    """The world was rescaled."""
    if rig is not None:
        rig.move(factor)


def started(rig: Rig | None, window: WindowGeometry, state: MapState) -> MapState:
    """An empty map whose first frame is not the reference's stands at that one's place there."""
    if rig is None or state.current is not None or not window.cameras:
        return state
    mount = rig.reference_from(window.cameras[0], None)
    return replace(state, world_from_first=state.world_from_first @ mount)


def of_leader(
    rig: Rig | None, window: WindowGeometry, known: ScaleState, predicted: Prediction | None
) -> Prediction | None:
    """A prediction of the reference, for the camera that leads the newest instant."""
    if rig is None or predicted is None or not window.cameras:
        return predicted
    mount = rig.reference_from(window.cameras[-1], metres_per_unit(known))
    return predicted._replace(world_from_camera=predicted.world_from_camera @ mount)


def of_reference(
    rig: Rig | None, cameras: tuple[str, ...], known: ScaleState, segment: Segment
) -> Segment:
    """A window's segment as if the reference had taken all of its frames; depth stays as it is.

    `cameras`: of the frames. The very same where it has, and for a single camera.
    """
    if rig is None or set(cameras) <= {rig.names[0]}:
        return segment
    metres = metres_per_unit(known)
    mounts = {name: inverse_rigid(rig.reference_from(name, metres)) for name in set(cameras)}
    pairs = zip(segment.frames, cameras, strict=True)
    frames = tuple(
        frame._replace(world_from_camera=frame.world_from_camera @ mounts[name])
        for frame, name in pairs
    )
    return segment._replace(frames=frames)


class RigPlaced(NamedTuple):
    """What an update says of a rig."""

    rig: RigReport | None = None
    reference: Float[np.ndarray, "4 4"] | None = None  # its world_from_camera


def placed_rig(
    rig: Rig | None,
    window: HeldWindow,
    known: ScaleState,
    world_from_camera: Float[np.ndarray, "s 4 4"],
) -> RigPlaced:
    """`world_from_camera`: of all frames of the window."""
    whole = window.whole
    if rig is None or not whole.cameras:
        return RigPlaced()
    metres, newest = metres_per_unit(known), window.leading.frame_ids[-1]
    row = whole.frame_ids.index(newest)
    mount = inverse_rigid(rig.reference_from(whole.cameras[row], metres))
    pairs = zip(whole.instants, whole.cameras, strict=True)
    present = [name for instant, name in pairs if instant == newest]
    return RigPlaced(rig.report(present, metres), world_from_camera[row] @ mount)
