# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run under way: frames through the robot's own pipeline, results onto disk as they come.

Whatever ends it (the source, Ctrl-C, a full disk), what was done by then stays and can be opened.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from vggt_ros.engine import interface
from vggt_ros.errors import UserError
from vggt_ros.files import write_ply
from vggt_ros.frames import Frame, FrameError, Update
from vggt_ros.geometry import transform, unproject
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import PICTURE, POINTS, Cloud, Run, Shot, Tracks, open_run
from vggt_ros.tools.runs.writer import Recorder, unbroken, writing
from vggt_ros.tools.sources.source import Source

PICTURED = 48  # frames at most that the picture is drawn from
SAID = 20  # refusals that are kept word by word


@runtime_checkable
class Engine(interface.Engine, Protocol):
    """A network that can also say what it is; `infer.Engine` is the real one."""

    name: str
    device: Any
    dtype: Any
    random_weights: bool


class Job:
    """One run under way: the pipeline, what is on disk already, and what the summary will say."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        source: Source,
        recorder: Recorder,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        max_points: int = 1_000_000,
    ):
        self.engine, self.source, self.recorder = engine, source, recorder
        self.pipeline = Pipeline(engine, settings, time.perf_counter)
        self.queries, self.max_points = queries, max_points
        self.stamps: list[int] = []  # of the frames on disk
        self.rows: dict[int, tuple] = {}  # of tracks, by stamp
        self.refused: list[str] = []
        self.admitted = self.valid = self.points = 0
        self.segments: list[int] = []  # the first frame of each piece of map
        self.segment = 0
        self.growth: list[float] = []  # of frames of maps that are closed: their unit since then
        self.unit, self.units = 1.0, []  # of the map now, and when each of its frames was written
        self.scale: dict[str, Any] = {"metric": False, "source": "none"}
        self.seconds: Counter[str] = Counter()
        self.began = self.saved = time.perf_counter()
        self.looks = 0
        self.told: Counter[str] = Counter()
        if queries is not None:
            self.pipeline.query(np.arange(len(queries), dtype=np.uint32), queries)

    def drive(self, frames: Iterable[Frame], *, picture: bool = True, quiet: bool = False) -> None:
        """All frames; on Ctrl-C or an error finishes what there is, then lets it pass."""
        from tqdm import tqdm

        bar = tqdm(
            frames, total=self.source.total, unit=" frames", disable=quiet, dynamic_ncols=True
        )
        try:
            for frame in bar:
                for line in self.step(frame):
                    bar.write(line)
        except BaseException as error:
            self.finish(stopped_by=str(error) or type(error).__name__)
            raise
        finally:
            bar.close()
        if not self.stamps:
            raise UserError(f"every frame of {self.source.path} was refused; {self.refused[0]}")
        self.finish(picture=picture)

    def step(self, frame: Frame) -> list[str]:
        """One frame through the pipeline and onto disk; returns what a person should hear."""
        try:
            update = self.pipeline.step(frame)
            self.admitted += 1
        except FrameError as error:
            self.refused.append(str(error))
            update = None
        if update is not None:
            with unbroken():
                self.record(update)
        if time.perf_counter() - self.saved > 1:
            self.saved = time.perf_counter()
            self.recorder.summarise(self.summary(interrupted=True))
        self.source.notes += self.pipeline.notices
        self.pipeline.notices.clear()
        return self.news()

    def news(self) -> list[str]:
        """What a person should hear that was not said before."""
        unreadable = [f"skipped {name}: {reason}" for name, reason in self.source.skipped]
        lines = []
        for kind, said in (
            ("skipped", unreadable),
            ("refused", self.refused),
            ("", self.source.notes),
        ):
            lines += said[self.told[kind] : SAID]
            self.told[kind] = len(said)
        return lines

    def record(self, update: Update) -> None:
        """Write the views that are new; each frame keeps the pose and depth it was first given."""
        alone = update.fresh == len(update.views)
        if alone or update.join.segment != self.segment:
            self.segments.append(len(self.stamps))
        self.segment = update.join.segment
        if alone and self.segment == 0:  # another map: what rescales it is not the old one's affair
            self.growth, self.unit, self.units = self.grown(), 1.0, []
        if self.segment == 0:
            self.unit *= update.rescaled
        for view in update.views[len(update.views) - update.fresh :]:
            assert view.confidence is not None
            shot = Shot(
                depth=view.masked_depth(self.pipeline.settings.min_confidence),
                confidence=view.confidence,
                intrinsics=np.asarray(view.intrinsics, np.float64),
                world_from_camera=np.asarray(view.world_from_camera, np.float64),
                stamp_ns=view.stamp_ns,
                image=view.rgb,
            )
            self.recorder.add(shot)
            self.stamps.append(view.stamp_ns)
            self.units.append(self.unit)
            self.valid += int(np.isfinite(shot.depth).sum())
        if update.tracks is not None:
            t = update.tracks
            for stamp, *row in zip(t.stamps_ns, t.uv, t.visibility, t.confidence, strict=True):
                self.rows.setdefault(stamp, tuple(row))
        self.looks += 1
        self.seconds.update(update.seconds)
        self.scale = {"metric": update.metric, "source": update.scale_source}

    def grown(self) -> list[float]:
        """How much each frame's world has grown since the frame was written."""
        return [*self.growth, *(self.unit / unit for unit in self.units)]

    def finish(self, *, picture: bool = False, stopped_by: str | None = None) -> None:
        """Tracks, cloud, picture and the final summary, from what is on disk."""
        out = self.recorder.path
        if self.queries is not None:
            self.recorder.add_tracks(self.tracks())
        self.recorder.rescale(self.grown())
        self.recorder.summarise(self.summary(interrupted=True))
        recorded = open_run(out)
        with writing(out / POINTS):
            cloud = gather(recorded, self.max_points / max(self.valid, 1))
            write_ply(out / POINTS, *cloud)
        self.points = len(cloud.points)
        if picture:
            from vggt_ros.tools.runs.overview import save_picture

            shots = list(recorded.frames(every=-(-len(self.stamps) // PICTURED)))
            caption = f"{self.source.path.name}, {self.engine.name}"
            with writing(out / PICTURE):
                save_picture(
                    out / PICTURE, shots, caption=caption, unit="m" if self.scale["metric"] else ""
                )
        interrupted = stopped_by is not None
        stopped = {"stopped_by": stopped_by} if interrupted else {}
        self.recorder.summarise(self.summary(interrupted=interrupted) | stopped)

    def tracks(self) -> Tracks:
        """A row for every frame on disk; NaN where the points had been lost by then."""
        assert self.queries is not None
        n = len(self.queries)
        lost = np.full((n, 2), np.nan, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        rows = [self.rows.get(stamp, lost) for stamp in self.stamps]
        uv, visibility, confidence = ([row[i] for row in rows] for i in range(3))
        return Tracks(
            np.array(uv, np.float32).reshape(-1, n, 2),
            np.array(visibility, np.float32).reshape(-1, n),
            np.array(confidence, np.float32).reshape(-1, n),
        )

    def summary(self, *, interrupted: bool) -> dict[str, Any]:
        """What `summary.json` says, beside the number of frames."""
        source, stamps, total = self.source, self.stamps, time.perf_counter() - self.began
        return {
            "source": {"path": str(source.path), "kind": source.kind, "stamps": source.stamps},
            "model": self.engine.name,
            "random_weights": self.engine.random_weights,
            "device": str(getattr(self.engine.device, "device_kind", self.engine.device)),
            "dtype": str(self.engine.dtype),
            "settings": asdict(self.pipeline.settings),
            "selection": source.selection._asdict(),
            "looks": self.looks,
            "refused": len(self.refused),
            "unreadable": len(source.skipped),
            "unseen": self.admitted - len(stamps),  # newer than the last look
            "faults": [*self.refused, *(f"{s.name}: {s.reason}" for s in source.skipped)][:SAID],
            "notes": source.notes,
            "segments": self.segments,
            "points": self.points,
            "scale": self.scale,
            "times": {
                "first_stamp_ns": stamps[0] if stamps else 0,
                "last_stamp_ns": stamps[-1] if stamps else 0,
                "total_s": round(total, 3),
                "frames_per_s": round(len(stamps) / total, 3),
                **{f"{name}_s": round(value, 3) for name, value in self.seconds.items()},
            },
            "interrupted": interrupted,
        }


def gather(recorded: Run, share: float) -> Cloud:
    """That share of all valid pixels, in the world; the same ones each time."""
    draw = np.random.default_rng(0)
    parts = [
        Cloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32))
    ]
    for shot in recorded.frames():
        valid = np.flatnonzero(np.isfinite(shot.depth))
        kept = np.unravel_index(
            draw.choice(valid, int(len(valid) * min(share, 1)), replace=False), shot.depth.shape
        )
        camera_points = unproject(shot.depth.astype(np.float64), shot.intrinsics)[kept]
        points = transform(shot.world_from_camera, camera_points).astype(np.float32)
        parts.append(Cloud(points, shot.image[kept], shot.confidence[kept]))
    return Cloud(*(np.concatenate(field) for field in zip(*parts, strict=True)))
