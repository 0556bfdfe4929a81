# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine whose answers are exact: a camera slides to its right along a wall, a step a frame."""

from collections.abc import Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from fakes.appearance import appearance
from vggt_ros.engine.interface import Compiling, InferenceResult
from vggt_ros.engine.memory import Need
from vggt_ros.frames import Frame, Observation

SIZE = HEIGHT, WIDTH = 42, 56  # network pixels; a camera of `images` has twice as many
STEP = 0.2  # metres between two frames
DEPTH = 2.0  # metres to the wall, straight ahead
EPOCH = 1_700_000_000_123_456_789  # stamp of the first of `frames`
PERIOD_NS = 33_333_333
TIMEOUT = 60.0  # seconds; only ever waited for by a test that fails


class PlanarEngine:
    """An engine for the pipeline, the node and `vggt run`; it records what it is asked.

    `vary_scale`: every inference has a unit of its own, as those of a real network have.
    `max_frames`: an inference covers no more, as on a device whose memory is full.
    `missing`: sizes whose programs are still being compiled. `untracked`: lengths of windows whose
    programs for tracks are; `unready`: whose programs without are. While `gate` is cleared, `infer`
    waits, and has set `inside`.
    """

    device, dtype, random_weights, default_width = "none", "float32", False, WIDTH
    fingerprint, cache_fault, trackless, layout = "planar", "", "", "joint"

    def __init__(self, *, name: str = "planar", vary_scale: bool = False, max_frames: int = 99):
        self.name, self.vary_scale, self.max_frames = name, vary_scale, max_frames
        self.confidence = np.full(SIZE, 4.0, np.float32)
        self.visibility, self.track_confidence = 1.0, 1.0
        self.focal: tuple[int, int] = WIDTH, HEIGHT  # pixels, across and down
        self.inferences: list[tuple[int, ...]] = []  # frames of each
        self.queries: list[tuple[np.ndarray, int]] = []
        self.prepared: list[tuple[tuple[int, int], int]] = []  # size and window size
        self.missing: set[tuple[int, int]] = set()
        self.untracked: set[int] = set()
        self.unready: set[int] = set()
        self.track_queries = 0  # of the last `prepare`
        self.compiling: tuple[str, ...] = ()
        self.resets = 0
        self.cached: tuple[int, ...] = ()  # frames of the last inference, also those left out
        self.selection = SimpleNamespace(whole=False)  # as the real engine's; not used here
        self.gate, self.inside = Event(), Event()
        self.gate.set()

    def prepare(
        self,
        size: tuple[int, int],
        window_size: int,
        *,
        depth_frames: int,
        extra_views: int = 0,
        track_queries: int = 0,
    ) -> None:
        """As `Engine.prepare`: raises `Compiling` for a size in `missing`."""
        self.track_queries = track_queries
        self.prepared.append((size, window_size))
        if size in self.missing:
            raise Compiling(f"compiling for {size[1]}x{size[0]}; images wait")

    def memory(self, size: tuple[int, int], frames: int) -> Need:
        """As `Engine.memory`: a gigabyte a frame."""
        return Need(weights=10**9, cache=0, tokens=frames * 10**9, scratch=0, results=0)

    def obstacle(
        self, size: tuple[int, int], frames: int, *, depth_frames: int, queries: int
    ) -> str:
        """As `Engine.obstacle`."""
        missing = self.untracked if queries else self.unready
        return f"a window of {frames} is not compiled yet" if frames in missing else ""

    def warm(self, *_: object, **__: object) -> None:
        """Nothing to compile."""

    def close(self, timeout: float) -> bool:
        """Nothing to wait for."""
        return True

    def reset(self) -> None:
        self.resets, self.cached = self.resets + 1, ()

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """As `Engine.describe`: from metre to metre along the wall it looks another."""
        if frame_id not in self.cached:
            return None
        return appearance(np.array([STEP * frame_id]))

    def infer(
        self,
        frame_ids: tuple[int, ...],
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: np.ndarray | None = None,
        query_frame: int = 0,
        views: int = 0,
    ) -> InferenceResult:
        """As `Engine.infer`."""
        self.inside.set()
        assert self.gate.wait(TIMEOUT)
        self.cached = tuple(frame_ids)
        cut = max(len(frame_ids) - self.max_frames, 0)
        frame_ids, query_frame = frame_ids[cut:], query_frame - cut
        depth_frames = min(depth_frames, len(frame_ids))
        unit = 0.5 + (len(self.inferences) * 0.37) % 1.0 if self.vary_scale else 1.0
        self.inferences.append(frame_ids)
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        encoding[:, 0] = [-STEP * (i - frame_ids[0]) * unit for i in frame_ids]
        encoding[:, 6] = 1.0
        encoding[:, 7:] = 2 * np.arctan(np.array([HEIGHT, WIDTH]) / self.focal[::-1] / 2)
        depth = np.full((depth_frames, *SIZE), DEPTH * unit, np.float32)
        confidence = np.broadcast_to(self.confidence, depth.shape).astype(np.float32)
        if queries is None or query_frame < 0 or len(frame_ids) in self.untracked:
            return InferenceResult(encoding, depth, confidence)
        self.queries.append((queries, query_frame))
        pinned = frame_ids[query_frame]
        if pinned < 0:  # a view beside the window: its image says which it is
            pinned = int(images[query_frame + cut].flat[0])
        shift = [-STEP / DEPTH * self.focal[0] * (i - pinned) for i in frame_ids]
        tracks = queries[None] + np.array(shift, np.float32)[:, None, None] * np.float32([1, 0])
        ones = np.ones(tracks.shape[:2], np.float32)
        return InferenceResult(
            encoding,
            depth,
            confidence,
            tracks,
            np.float32(self.visibility) * ones,
            np.float32(self.track_confidence) * ones,
        )


def planar_engine_of_a_run() -> PlanarEngine:
    """Square pixels, a unit of its own in every inference, and upper rows that are guesses."""
    engine = PlanarEngine(vary_scale=True)
    engine.focal = WIDTH, WIDTH
    engine.confidence[:7] = 1.0
    engine.visibility, engine.track_confidence = 0.75, 0.5
    return engine


def image(i: int) -> UInt8[np.ndarray, "h w 3"]:
    """Image number i, with the number in its red channel and two halves that differ."""
    rgb = np.full((2 * HEIGHT, 2 * WIDTH, 3), (i, 50, 200), np.uint8)
    rgb[:, WIDTH:, 1] = 90
    return rgb


def frames(count: int) -> list[Frame]:
    return [Frame(image(i), EPOCH + i * PERIOD_NS) for i in range(count)]


def write_frames(folder: Path, count: int) -> Path:
    """A new folder of `frames`, as PNG files that are named by their nanoseconds."""
    folder.mkdir()
    for frame in frames(count):
        Image.fromarray(frame.rgb).save(folder / f"{frame.stamp_ns}.png")
    return folder


def observations(count: int) -> list[Observation]:
    return [Observation(frame) for frame in frames(count)]
