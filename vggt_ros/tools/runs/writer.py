# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Writes a run as it comes: what was done by then is whole, whenever it ends and by whom."""

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation
from vggt_ros.tools.runs.format import (
    FORMAT,
    FRAMES,
    PICTURE,
    POINTS,
    SUMMARY,
    TRACKS,
    TRAJECTORY,
    Shot,
    Tracks,
    is_run,
    open_run,
)


class Recorder:
    """A run directory being written; its frames can be read all the while."""

    def __init__(self, path: Path, summary: dict, *, overwrite: bool = False):
        """Empty `path` of an earlier run, and of nothing else."""
        claim(path, overwrite=overwrite)
        self.path, self.count = path, 0
        with writing(path):
            (path / FRAMES).mkdir(exist_ok=True)
            for old in (path / FRAMES).glob("[0-9]*.npz"):
                old.unlink()
            for name in (TRAJECTORY, POINTS, TRACKS, PICTURE):
                (path / name).unlink(missing_ok=True)
            self.summarise(summary)
            self._trajectory = (path / TRAJECTORY).open("w")

    def add(self, shot: Shot) -> None:
        """Append one frame: its arrays, then its line of the trajectory."""
        with replacing(self.path / FRAMES / f"{self.count:06d}.npz") as file:
            np.savez(file, **shot._asdict())
        with writing(self.path / TRAJECTORY):
            self._trajectory.write(tum_line(shot.stamp_ns, shot.world_from_camera))
            self._trajectory.flush()
        self.count += 1

    def rescale(self, growth: Sequence[float]) -> None:
        """Multiply lengths, frame by frame: the map's unit became known after they were written."""
        if np.allclose(growth, 1, atol=1e-9):
            return
        written = open_run(self.path)
        stamps, poses = written.trajectory()
        lines = []
        for index, (factor, stamp, pose) in enumerate(zip(growth, stamps, poses, strict=True)):
            pose[:3, 3] *= factor
            lines.append(tum_line(int(stamp), pose))
            shot = written.frame(index)
            shot.world_from_camera[:3, 3] *= factor
            with replacing(self.path / FRAMES / f"{index:06d}.npz") as file:
                np.savez(file, **shot._replace(depth=shot.depth * np.float32(factor))._asdict())
        with replacing(self.path / TRAJECTORY) as file:
            file.write("".join(lines).encode())

    def add_tracks(self, tracks: Tracks) -> None:
        with replacing(self.path / TRACKS) as file:
            np.savez(file, **tracks._asdict())

    def summarise(self, summary: dict) -> None:
        """Replace summary.json; `format` and `frames` are filled in here."""
        summary = {"format": FORMAT, "frames": self.count} | summary
        with replacing(self.path / SUMMARY) as file:
            file.write((json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.path / TRAJECTORY):
            self._trajectory.close()


def claim(path: Path, *, overwrite: bool = False) -> None:
    """Make the directory.  UserError if it cannot be, or holds anything but an earlier run."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give --out a directory")
    if path.is_dir() and any(path.iterdir()) and not (overwrite or is_run(path)):
        raise UserError(f"{path} is not empty and not a run; choose another --out or --overwrite")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def tum_line(stamp_ns: int, world_from_camera: Float64[np.ndarray, "4 4"]) -> str:
    """One line of a TUM trajectory; the nine decimals are integers, never a rounded float."""
    numbers = (
        *world_from_camera[:3, 3],
        *quaternion_from_rotation(world_from_camera[:3, :3]),
    )
    seconds = f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
    return " ".join((seconds, *(f"{number:.9g}" for number in numbers))) + "\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or path}: {error.strerror}; "
            "free some space or choose another --out"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write beside `path`, then rename: nobody ever meets half a file."""
    beside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with beside.open("wb") as file:
                yield file
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C waits until what is inside is done, so that no book has half an entry."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt
