# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a network answered, kept on disk until a command is done, so that the same command goes on.

The network takes nearly all of the time.  A command that was interrupted (Ctrl-C, a full disk, a
kill) is run from the start by the one that follows, and gets the recorded answers for as long as it
asks the same: the results are those of a command that was not interrupted, bit for bit.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, UInt8

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.tools.runs.writer import replacing, writing

HEADER, FORMAT = "network.json", "vggt_ros record 1"
FAULTS = (OSError, ValueError, KeyError, EOFError, BadZipFile)


class RecordedEngine:
    """An engine whose answers are recorded in a folder, and first read from it.

    A record is of the n-th inference, and is used where that asks the very same: ids, images,
    depth, queries and views. From the first that differs or is missing on the network is asked.
    """

    def __init__(self, engine: Any, folder: Path):
        """Records of another network are deleted."""
        self._engine, self.folder = engine, folder
        self.name: str = engine.name
        self.default_width: int = engine.default_width
        self.device, self.dtype = engine.device, engine.dtype
        self.random_weights: bool = engine.random_weights
        self.layout: str = engine.layout
        self.asked = self.reused = 0
        self._last: tuple[tuple, dict[str, Any]] | None = None  # that was read, not computed
        known = {"format": FORMAT, "network": engine.fingerprint, "dtype": str(engine.dtype),
                 "device": str(getattr(engine.device, "device_kind", engine.device))}  # fmt: skip
        if _header(folder) != known:
            shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / HEADER) as file:
            file.write(json.dumps(known).encode())
        self.found = sum(1 for _ in folder.glob("[0-9]*.npz"))

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint

    def reset(self) -> None:
        """As `Engine.reset`."""
        self._engine.reset()

    def obstacle(
        self, size: tuple[int, int], frames: int, *, depth_frames: int, queries: int
    ) -> str:
        """As `Engine.obstacle`."""
        return self._engine.obstacle(size, frames, depth_frames=depth_frames, queries=queries)

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
        """As `Engine.infer`."""
        options: dict[str, Any] = {"depth_frames": depth_frames, "queries": queries}
        options |= {"query_frame": query_frame, "views": views}
        question = _question(frame_ids, images, depth_frames, queries, query_frame, views)
        path = self.folder / f"{self.asked:06d}.npz"
        self.asked += 1
        result = _read(path, question)
        if result is not None:
            self._last, self.reused = ((frame_ids, images), options), self.reused + 1
            return result
        self._last = None
        result = self._engine.infer(frame_ids, images, **options)
        kept = {name: x for name, x in result._asdict().items() if x is not None}
        with replacing(path) as file:
            np.savez(file, question=np.array(question), **kept)
        return result

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """As `Engine.describe`."""
        path = self.folder / f"frame_{frame_id}.npy"
        if self._last is not None:
            (frame_ids, images), options = self._last
            if frame_id not in frame_ids:
                return None
            try:
                return np.load(path)
            except FAULTS:  # it was interrupted between the two
                self._engine.infer(frame_ids, images, **options)
        found = self._engine.describe(frame_id)
        if found is not None:
            with replacing(path) as file:
                np.save(file, found)
        return found

    def forget(self) -> None:
        """Delete the records: the command is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _header(folder: Path) -> Any:
    try:
        return json.loads((folder / HEADER).read_text())
    except (OSError, ValueError):
        return None


def _question(
    frame_ids: tuple[int, ...],
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    depth_frames: int,
    queries: Float32[np.ndarray, "n 2"] | None,
    query_frame: int,
    views: int,
) -> str:
    """A digest of all that an answer depends on."""
    digest = hashlib.sha256(repr((frame_ids, depth_frames, query_frame, views)).encode())
    for array in [*images, *([] if queries is None else [queries])]:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(path: Path, question: str) -> InferenceResult | None:
    """The recorded answer; None where there is none, or it is one to another question."""
    try:
        with path.open("rb") as data, np.load(data) as file:
            if str(file["question"]) != question:
                return None
            arrays = {name: file[name] for name in file.files if name != "question"}
    except FAULTS:
        return None
    notice = str(arrays.pop("notice", ""))
    return InferenceResult(**arrays, notice=notice)
