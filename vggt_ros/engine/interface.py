# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the pipeline asks of a network and receives from it, without the network: no JAX here."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from vggt_ros.errors import UserError


class InferenceResult(NamedTuple):
    """The network's output for one window, float32 on the host, in the window's own gauge.

    There may be fewer frames than were asked for (the newest), and no tracks: more is still being
    compiled, or does not fit into the device's memory.
    """

    pose_encoding: Float32[np.ndarray, "s 9"]
    depth: Float32[np.ndarray, "k h w"]  # of the newest k frames
    confidence: Float32[np.ndarray, "k h w"]
    tracks: Float32[np.ndarray, "s n 2"] | None = None  # network pixels
    visibility: Float32[np.ndarray, "s n"] | None = None
    track_confidence: Float32[np.ndarray, "s n"] | None = None
    notice: str = ""  # what the user should know of how this result was computed


class Compiling(UserError):
    """No program for such an image yet; one is being compiled in the background."""

    @classmethod
    def of(cls, size: tuple[int, int]) -> "Compiling":
        """For images of this height and width in network pixels."""
        return cls(f"compiling for network images of {size[1]}x{size[0]}; images wait")


class OutOfMemory(UserError):
    """The device's memory does not hold this, nor anything smaller; the next inference may fit."""


class DeviceLost(UserError):
    """The device runs nothing any more; only a new process can use it again."""


@runtime_checkable
class Engine(Protocol):
    """What the pipeline needs of a network; `engine.Engine` is the real one."""

    name: str
    default_width: int
    layout: str  # how the images of a window attend to each other (docs/layouts.md)

    @property
    def fingerprint(self) -> str:
        """Tells this network and its weights from others; the same on every device."""
        ...

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
        """One forward pass over a window, oldest frame first.

        Of so many `views` it has images instant by instant, by which layout view_time attends; 0:
        it has no such order, and is one sequence.
        """
        ...

    def obstacle(
        self, size: tuple[int, int], frames: int, *, depth_frames: int, queries: int
    ) -> str:
        """Why `queries` points are not tracked in a window of `frames` now; empty: they would be.

        Of none: why the window is not inferred whole. `size` is (height, width) in network pixels.
        """
        ...

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """What a frame looks like: a vector of unit length, alike for frames that look alike.

        None where the network has no such frame: it keeps those of the last inference only.
        """
        ...

    def reset(self) -> None:
        """Forget every cached frame; keep the compiled programs."""
        ...


def window_lengths(instants: Sequence[int], cameras: int = 1) -> list[int]:
    """Frames of the windows that programs are compiled for, the most useful first.

    `instants` of `cameras` frames each: the shortest, then from long to short. Then those of fewer
    cameras, for a rig of which some are dead: so many instants of one camera and more.
    """
    shortest, *longer = sorted(instants)
    whole = [k * cameras for k in (shortest, *reversed(longer))]
    fewer = {k * m for k in instants for m in range(1, cameras)} - set(whole)
    return whole + sorted(fewer, reverse=True)


def caution(name: str, random_weights: bool) -> str:
    """What the user should know of a network before trusting it; empty: nothing."""
    if random_weights:
        return f"{name} has random weights: its geometry is noise"
    if name == "small":
        return (
            "small was trained on synthetic rooms only; for real images name another model"
            " (VGGT-1B)"
        )
    return ""
