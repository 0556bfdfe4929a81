# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the pipeline asks of a network and hears from it, without the network: no JAX in here."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from vggt_ros.errors import UserError


class Look(NamedTuple):
    """What the network says of one window, float32 on the host, in the window's own gauge.

    There may be fewer frames than were asked for (the newest), and no tracks: more is still being
    compiled, or does not fit into the device's memory.
    """

    pose_encoding: Float32[np.ndarray, "s 9"]
    depth: Float32[np.ndarray, "k h w"]  # of the newest k frames
    confidence: Float32[np.ndarray, "k h w"]
    tracks: Float32[np.ndarray, "s n 2"] | None = None  # network pixels
    visibility: Float32[np.ndarray, "s n"] | None = None
    track_confidence: Float32[np.ndarray, "s n"] | None = None
    notice: str = ""  # what a person should hear of how this look came about


class Compiling(UserError):
    """No program for such a picture yet; one is being compiled in the background."""


class OutOfMemory(UserError):
    """The device's memory does not hold this, nor anything smaller; another look may be tried."""


class DeviceLost(UserError):
    """The device runs nothing any more; only a new process can begin anew."""


@runtime_checkable
class Engine(Protocol):
    """What the pipeline needs of a network; `infer.Engine` is the real one."""

    default_width: int

    def look(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
    ) -> Look:
        """One forward pass over a window, oldest frame first."""
        ...

    def reset(self) -> None:
        """Forget every cached frame; keep the compiled program."""
        ...


def caution(name: str, random_weights: bool) -> str:
    """What a person should know of a network before they trust it; empty: nothing."""
    if random_weights:
        return f"{name} has random weights: its geometry is noise"
    if name == "small":
        return "small has seen drawn rooms only; for real pictures name another model (VGGT-1B)"
    return ""
