# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run --all`: all frames of a source in one inference, and how many fit into the memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Instant, Observation, Update
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.timeline import Window

if TYPE_CHECKING:  # it imports JAX
    from vggt_ros.engine.memory import Need

SPARE = 0.95  # of the free memory: allocators cannot use all of it
MOST = 10_000  # frames of one pass: the search for the largest number that fits ends here
# Bytes on the host for a pixel of each frame: image (3), the network's depth and confidence (8),
# depth in the map's unit and masked (8).
HOST_BYTES = 19


@runtime_checkable
class Measured(Protocol):
    """An engine that tells what memory it needs."""

    device: Any
    selection: Any  # which program an inference uses

    def memory(self, size: tuple[int, int], frames: int) -> "Need":
        """Bytes on the device for one pass over so many frames of (height, width) pixels."""
        ...


class Room(NamedTuple):
    """Free bytes; where the device is a CPU, it has the host's memory and no more."""

    device: int
    host: int
    shared: bool


class Fitting(NamedTuple):
    """How many frames one pass can have."""

    most: int
    engine: Measured
    size: tuple[int, int]  # height and width of the network's images
    room: Room

    def check(self, frames: int, *, more: bool = False) -> None:
        """Raise `UserError` where so many (or `more`) do not fit."""
        if frames <= self.most:
            return
        device, host = self.bytes(frames)
        height, width = self.size
        at_least = "at least " if more else ""
        if self.most == MOST:
            raise UserError(
                f"one pass takes at most {MOST:,} frames, and there are {at_least}{frames:,}: use"
                f" --max-frames {MOST}, --every {-(-frames // MOST)}, or windows (without --all)"
            )
        cure = "a smaller --network-width, or" if self.most < 1 else (
            f"--max-frames {self.most}, --every {-(-frames // self.most)}, a smaller"
            " --network-width, or"
        )  # fmt: skip
        raise UserError(
            f"one pass over {at_least}{frames} frames of {width}x{height} needs about"
            f" {device / 1e9:.1f} GB on {self._name}, of which {self.room.device / 1e9:.1f} GB are"
            f" free, and {host / 1e9:.1f} GB of the host's memory, of which"
            f" {self.room.host / 1e9:.1f} GB are free; the largest number that fits is {self.most}:"
            f" use {cure} windows (without --all), for which any number fits"
        )

    def line(self, frames: int) -> str:
        """What is to come, for the user."""
        need, host = self.engine.memory(self.size, frames), self.bytes(frames)[1]
        return (
            f"one pass over {frames} frames of {self.size[1]}x{self.size[0]}: about"
            f" {need.total / 1e9:.2f} GB on {self._name} (weights {need.weights / 1e9:.2f}, tokens"
            f" {(need.cache + need.tokens) / 1e9:.2f}, heads and logits {need.scratch / 1e9:.2f},"
            f" results {need.results / 1e9:.2f}) and {host / 1e9:.2f} GB of the host's memory;"
            f" {self.most} frames would fit"
        )

    def bytes(self, frames: int) -> tuple[int, int]:
        """On the device, and of the host."""
        return self.engine.memory(self.size, frames).total, host_bytes(self.size, frames)

    @property
    def _name(self) -> str:
        return str(getattr(self.engine.device, "device_kind", self.engine.device))


def host_bytes(size: tuple[int, int], frames: int) -> int:
    """Of all frames together."""
    return HOST_BYTES * frames * size[0] * size[1]


def fitting(engine: Measured, size: tuple[int, int], room: Room) -> Fitting:
    """The largest number of frames that fits, by bisection; the need grows with their number."""
    loaded = engine.memory(size, 1).weights  # is not free any more

    def fits(frames: int) -> bool:
        device, host = engine.memory(size, frames).total - loaded, host_bytes(size, frames)
        if room.shared:
            return device + host <= SPARE * room.host
        return device <= SPARE * room.device and host <= SPARE * room.host

    low, high = 0, MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Fitting(low, engine, size, room)


def plan(
    engine: Measured, settings: Settings, size: tuple[int, int], total: int | None
) -> tuple[Fitting, Settings]:
    """How many frames of (height, width) network pixels fit, and the settings of one pass.

    `total` is the number of frames, where it is known. Raises `UserError` where they do not fit,
    and for settings of windows.
    """
    usual = Settings()
    for name in ("window_size", "stride", "depth_frames"):
        if getattr(settings, name) != getattr(usual, name):
            option = name.replace("_", "-")
            raise UserError(f"--{option} is of windows, and --all has none: leave one of them out")
    found = fitting(engine, size, free_memory(engine.device))
    found.check(total or 1, more=total is None)
    engine.selection.whole = True  # a shorter window is of no use here
    frames = total or found.most
    return found, replace(settings, window_size=frames, stride=frames, loops=False)


def free_memory(device: Any, read: Callable[[str], str] | None = None) -> Room:
    """What is free now; `read` gives the text of a file of the system."""
    read = read or (lambda name: Path(name).read_text())
    fields = dict(line.split(":") for line in read("/proc/meminfo").splitlines())
    host = 1024 * int(fields["MemAvailable"].split()[0])
    try:  # a container may have less than its machine
        limit = int(read("/sys/fs/cgroup/memory.max"))
        host = min(host, limit - int(read("/sys/fs/cgroup/memory.current")))
    except (OSError, ValueError):  # "max": no limit
        pass
    stats = None if getattr(device, "platform", "cpu") == "cpu" else device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return Room(host, host, shared=True)
    return Room(stats["bytes_limit"] - stats.get("bytes_in_use", 0), host, shared=False)


class OnePass(Pipeline):
    """All frames are held, as the network sees them, until `finish` infers them together.

    Of the images at the camera's own size nothing is kept: `View.input_rgb` is the network's.
    """

    def step(self, observation: Observation | Instant) -> None:
        """Take one frame.  Raises `FrameError` as `Pipeline.step`, and where no more fit."""
        if isinstance(observation, Instant):
            (observation,) = observation.observations
        before = len(self._window.frame_ids)
        if before >= self.settings.window_size:
            raise FrameError(f"one pass has room for {self.settings.window_size} frames")
        super().step(observation)
        newest = self._window.frame_ids[-1]
        held = self._held.frames[newest]
        frame = held.frame._replace(rgb=held.pixels)
        self._held.frames[newest] = held._replace(frame=frame)
        self._robot = observation._replace(frame=frame)
        if before and len(self._window.frame_ids) == 1:
            self.notices.append(f"the {before} frames before it are left out: one pass has one map")

    def finish(self) -> Update:
        """The one inference.  Raises `UserError` where it did not cover all frames."""
        asked = len(self._window.frame_ids)
        if not asked:
            raise UserError("no frame was taken")
        update = self._update({"start": self.clock()}, self._robot)
        if len(update.views) < asked:
            reason = f" ({self.notices[-1]})" if self.notices else ""
            raise UserError(
                f"one pass over {asked} frames does not run here{reason}; use fewer (--max-frames),"
                " or windows (without --all)"
            )
        return update

    def _with(self, frame_id: int) -> tuple[Window, bool]:
        """Every frame enters the window, and nothing is inferred yet."""
        return Window((*self._window.frame_ids, frame_id)), False
