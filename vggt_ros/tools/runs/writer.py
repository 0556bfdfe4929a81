# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writes a run directory frame by frame; whatever interrupts it, the files on disk are complete."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError
from vggt_ros.files import atomic_write, json_bytes
from vggt_ros.geometry import Similarity, quaternion_from_rotation
from vggt_ros.mapping.corrections import SAME
from vggt_ros.mapping.rig.report import LAUNCH_FILE, RigReport, launch_file
from vggt_ros.tools.runs.format import (
    FORMAT,
    FRAMES,
    OVERVIEW,
    POINTS,
    SUMMARY,
    TRACKS,
    TRAJECTORY,
    RunFrame,
    Tracks,
    is_run,
    open_run,
    trajectory_of,
)


class RunWriter:
    """A run directory under construction; its frames can be read at any time."""

    def __init__(self, path: Path, summary: dict, *, overwrite: bool = False):
        """Create `path`, or remove the files of an earlier run (and no others) from it."""
        make_run_directory(path, overwrite=overwrite)
        self.path, self.count = path, 0
        with writing(path):
            (path / FRAMES).mkdir(exist_ok=True)
            for old in (path / FRAMES).glob("[0-9]*.npz"):
                old.unlink()
            for name in (TRAJECTORY, POINTS, TRACKS, OVERVIEW):
                (path / name).unlink(missing_ok=True)
            for old in path.glob(trajectory_of("*")):
                old.unlink()
            self.summarise(summary)
            self._trajectory = (path / TRAJECTORY).open("w")

    def add(self, frame: RunFrame) -> None:
        """Append one frame: its arrays, then its line of the trajectory."""
        with replacing(self.path / FRAMES / f"{self.count:06d}.npz") as file:
            np.savez(file, **frame._asdict())
        with writing(self.path / TRAJECTORY):
            self._trajectory.write(tum_line(frame.stamp_ns, frame.world_from_camera))
            self._trajectory.flush()
        self.count += 1

    def correct(self, motions: Sequence[Similarity]) -> None:
        """Move each frame by its motion, now_from_then of the world: its pose and its depth.

        One motion a frame; a frame that stays where it is is not written again.
        """
        written, path = open_run(self.path), self.path / TRAJECTORY
        lines, moved = path.read_text().splitlines(keepends=True), 0
        for index, (motion, file) in enumerate(zip(motions, written.files, strict=True)):
            if _stays(motion):
                continue
            frame = written.frame(index)
            frame = frame._replace(
                depth=frame.depth * np.float32(motion.scale),
                world_from_camera=motion.apply_to_poses(frame.world_from_camera[None])[0],
            )
            with replacing(file) as npz:
                np.savez(npz, **frame._asdict())
            lines[index] = tum_line(frame.stamp_ns, frame.world_from_camera)
            moved += 1
        if moved:
            with replacing(path) as file:
                file.write("".join(lines).encode())
            with writing(path):
                self._trajectory.close()
                self._trajectory = path.open("a")  # what follows belongs to the new file

    def write_rig(self, cameras: Sequence[str], report: RigReport | None) -> None:
        """Write what is of each camera of a rig; `cameras`: names, one a frame."""
        if text := "" if report is None else launch_file(report):
            with replacing(self.path / LAUNCH_FILE) as file:
                file.write(text.encode())
        lines = (self.path / TRAJECTORY).read_text().splitlines(keepends=True)
        for name in dict.fromkeys(cameras):
            own = [line for line, camera in zip(lines, cameras, strict=True) if camera == name]
            with replacing(self.path / trajectory_of(name)) as file:
                file.write("".join(own).encode())

    def add_tracks(self, tracks: Tracks) -> None:
        """Write tracks.npz."""
        with replacing(self.path / TRACKS) as file:
            np.savez(file, **tracks._asdict())

    def summarise(self, summary: dict) -> None:
        """Replace summary.json; `format` and `frames` are added."""
        summary = {"format": FORMAT, "frames": self.count} | summary
        with replacing(self.path / SUMMARY) as file:
            file.write(json_bytes(summary))

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.path / TRAJECTORY):
            self._trajectory.close()


def make_run_directory(path: Path, *, overwrite: bool = False) -> None:
    """Create the directory; raises `UserError` if it holds anything but an earlier run."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give --out a directory")
    if path.is_dir() and any(path.iterdir()) and not (overwrite or is_run(path)):
        raise UserError(f"{path} is not empty and not a run; choose another --out or --overwrite")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def tum_line(stamp_ns: int, world_from_camera: Float64[np.ndarray, "4 4"]) -> str:
    """One line of a TUM trajectory; seconds are formatted from integers, exact to a nanosecond."""
    numbers = (
        *world_from_camera[:3, 3],
        *quaternion_from_rotation(world_from_camera[:3, :3]),
    )
    seconds = f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
    return " ".join((seconds, *(f"{number:.9g}" for number in numbers))) + "\n"


def _stays(motion: Similarity) -> bool:
    numbers = (motion.scale - 1.0, *(motion.rotation - np.eye(3)).flat, *motion.translation)
    return bool(max(map(abs, numbers)) < SAME)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or path}: {error.strerror}; "
            "free some space or choose another --out"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """`atomic_write` whose disk errors are a `UserError`."""
    with writing(path), atomic_write(path) as file:
        yield file


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the block is done, so that files and counters stay consistent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
