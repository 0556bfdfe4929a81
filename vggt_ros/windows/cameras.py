# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras whose frames are taken: which frames follow the last ones, and the grid of all.

A single camera is a rig of one that needs no name. The frames of an instant are sorted in the
order of the rig's cameras; the first that is there leads: its number is that of the instant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Instant, Observation
from vggt_ros.geometry import inverse_rigid
from vggt_ros.imaging.fit import Fit
from vggt_ros.imaging.grid import Grid
from vggt_ros.timeline import MIN_JUMP_NS, StreamGate

# Width over height of images: VGGT was trained on 1:1 to 3:1 (Wang et al., CVPR 2025, 3.4).
WIDEST = 3


class Taken(NamedTuple):
    """The frames of an instant that may follow, and what that changes."""

    observations: tuple[Observation, ...]  # in the order of the cameras
    robot: Observation  # what was measured besides images, as the reference camera has it
    starts_map: bool

    @property
    def optical_frames(self) -> dict[str, str]:
        """By the names of the cameras."""
        return {each.frame.camera_name: each.frame.camera for each in self.observations}


class Cameras:
    """One camera, or the cameras of a rig by name, the reference first.

    `refused` are cameras that were left out of an instant, and why; the caller empties it.
    """

    def __init__(
        self,
        names: Sequence[str],
        own_grid: Callable[[int, int], Grid],
        notify: Callable[[str], None],
        *,
        stream: StreamGate | None = None,
        fit: Fit | None = None,
    ):
        """`own_grid`: of an image by its size; `notify` is told what happened to a stream.

        Raises `UserError` for names that are not unique.
        """
        if len(set(names)) < len(names) or "" in names:
            raise UserError(f"cameras {', '.join(names)}: each needs a name of its own")
        gate = stream or StreamGate()
        self.names = tuple(names)
        self._notify = notify
        self.refused: list[tuple[str, str]] = []
        self._streams = {name: gate.another() for name in names} if self.is_rig else {"": gate}
        self._own_grid, self._given, self._fit = own_grid, fit, fit
        self._sizes: dict[str, tuple[int, int]] = {}
        self._last: dict[str, int] = {}  # stamps of each camera's last frame
        self._together: frozenset[str] = frozenset()  # cameras of the last instant

    @property
    def is_rig(self) -> bool:
        """Whether there is more than one camera."""
        return len(self.names) > 1

    @property
    def count(self) -> int:
        """Of the cameras."""
        return max(len(self.names), 1)

    def reset(self) -> None:
        """Forget every frame; the next image decides the grid."""
        for stream in self._streams.values():
            stream.reset()
        self._sizes, self._fit = {}, self._given
        self._last, self._together = {}, frozenset()

    def grid(self, width: int, height: int) -> Grid:
        """The network's grid for an image of this size.

        Of a rig the first image decides the network's size, and others are padded to it. Raises
        `UserError` for an image that leaves no row, or that is too narrow for the others' grid.
        """
        if self._fit is None and self.is_rig:
            own = self._own_grid(width, height)
            self._fit = Fit("pad", own.width, own.height, (width, height))
        return self._own_grid(width, height) if self._fit is None else self._fit.grid(width, height)

    def take(self, instant: Instant) -> Taken:
        """The frames that may follow the last ones of their cameras; the others are left out.

        Raises `FrameError` where none may, `UserError` for an instant without frames, or with a
        camera that is none of the rig's or is in it twice.
        """
        if not self.is_rig:
            if len(instant.observations) != 1:
                raise UserError(
                    f"an instant of {len(instant.observations)} frames is a rig's: name its cameras"
                )
            (observation,) = instant.observations
            return Taken((observation,), observation, self._follows(observation, ""))
        taken, starts_map, fault = [], False, None
        given = self._sorted(instant.observations)
        for name, observation in given.items():
            self._welcome_back(name, given)
            try:
                starts_map |= self._follows(observation, name)
            except FrameError as error:
                fault = FrameError(f"camera {name}: {error}")
                self.refused.append((name, str(error)))
            else:
                taken.append(observation)
                self._last[name] = observation.frame.stamp_ns
        self._together = frozenset(each.frame.camera_name for each in taken) or self._together
        if not taken:
            raise fault or UserError("an instant has no frame; give at least one camera's")
        return Taken(tuple(taken), seen_by(taken, instant.rig, self.names[0]), starts_map)

    def _welcome_back(self, name: str, given: Mapping[str, Observation]) -> None:
        """A camera that paused is no jump in time where one that did not has the same time."""
        last, ns = self._last.get(name), given[name].frame.stamp_ns
        if last is None or name in self._together:
            return
        others = [given[other].frame.stamp_ns for other in given if other in self._together]
        if last < ns and any(abs(ns - other) < MIN_JUMP_NS for other in others):
            self._streams[name].reset()

    def _sorted(self, observations: Sequence[Observation]) -> dict[str, Observation]:
        named = {each.frame.camera_name: each for each in observations}
        if len(named) < len(observations):
            raise UserError("an instant has two frames of one camera; give each camera's once")
        if unknown := sorted(named.keys() - set(self.names)):
            raise UserError(
                f"camera '{unknown[0]}' is none of the rig's, which are {', '.join(self.names)}"
            )
        return {name: named[name] for name in self.names if name in named}

    def _follows(self, observation: Observation, name: str) -> bool:
        """Whether a new map starts with this frame.  Raises `FrameError` for one refused."""
        frame = observation.frame
        width, height = frame.rgb.shape[1::-1]
        size = (0, 0) if self.is_rig or self._given is not None else (width, height)
        change = self._streams[name].check(frame.stamp_ns, frame.camera, *size)
        of = f"camera {name}: " if name else ""
        if change.notice:
            self._notify(of + change.notice)
        was = self._sizes.get(name, (width, height))
        if name and was != (width, height):
            self._notify(
                f"{of}image size changed from {was[0]}x{was[1]} to {width}x{height}: it is fitted"
                " to the rig's grid"
            )
        if name not in self._sizes and width > WIDEST * height:
            self._notify(
                f"{of}images of {width}x{height} are wider than those that the network was trained"
                f" on ({WIDEST}:1 at most): crop them, and where each shows two images side by side"
                " (a stereo camera), give one of the two"
            )
        self._sizes[name] = (width, height)
        return change.starts_map


def seen_by(
    observations: Sequence[Observation],
    rig: Mapping[str, Float[np.ndarray, "4 4"]],
    reference: str,
) -> Observation:
    """The first observation of an instant, with what was measured as the reference camera has it.

    `rig`: `rig_from_camera` by name. What is measured in the axes of a camera of which that is not
    known, nor of the reference, is left out.
    """
    first = observations[0]
    mount = up = None
    for each in observations:
        name = each.frame.camera_name
        if name == reference:
            other_from_reference = np.eye(4)
        elif name in rig and reference in rig:
            other_from_reference = inverse_rigid(rig[name]) @ rig[reference]
        else:
            continue
        if mount is None and each.base_from_camera is not None:
            mount = each.base_from_camera @ other_from_reference
        if up is None and each.up_in_camera is not None:
            up = other_from_reference[:3, :3].T @ each.up_in_camera
    return first._replace(
        base_from_camera=mount,
        up_in_camera=up,
        world_from_base=next(
            (x for o in observations if (x := o.world_from_base) is not None), None
        ),
        odom_from_base=next((x for o in observations if (x := o.odom_from_base) is not None), None),
    )
