# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drives frames through the robot's pipeline and writes each result to disk.

Whatever ends it (the source, Ctrl-C, a full disk), the results so far are kept and can be opened.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float32

from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Frame, Instant, Observation, Update
from vggt_ros.imaging.fit import Fit
from vggt_ros.mapping.rig.report import RigReport
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.timeline import StreamGate
from vggt_ros.tools.runs.format import RunFrame, open_run
from vggt_ros.tools.runs.network import Attention, Engine
from vggt_ros.tools.runs.one_pass import Fitting, OnePass
from vggt_ros.tools.runs.placement import PlacedFrames
from vggt_ros.tools.runs.report import segments_line
from vggt_ros.tools.runs.rig import rig_summary
from vggt_ros.tools.runs.surface import Surface
from vggt_ros.tools.runs.track_rows import TrackRows
from vggt_ros.tools.runs.writer import RunWriter, defer_interrupt
from vggt_ros.tools.sources.ahead import awaited
from vggt_ros.tools.sources.rig import RigSource
from vggt_ros.tools.sources.source import Source

MAX_REPORTED = 20  # messages of each kind that are kept and printed


class Job:
    """One run: the pipeline, the state of the files on disk, and the figures of the summary."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        source: Source | RigSource,
        writer: RunWriter,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        max_points: int = 1_000_000,
        fit: Fit | None = None,
        *,
        fuse: bool = True,
        one_pass: Fitting | None = None,
    ):
        """With `one_pass` all frames are inferred together, at the end; it says how many fit.

        What a rig's source yields are instants; `queries` are then of its first camera.
        """
        self.engine, self.source, self.writer, self.fuse = engine, source, writer, fuse
        # Photos and films have gaps of any length; stray messages are among those of a robot.
        stream = StreamGate(0) if source.kind in ("images", "video") else None
        kind = Pipeline if one_pass is None else OnePass
        cameras = tuple(source.cameras) if isinstance(source, RigSource) else ()
        self.pipeline = kind(
            engine, settings, time.perf_counter, stream=stream, fit=fit, cameras=cameras
        )
        self.rig: RigReport | None = None  # the last that was said of it
        self.one_pass = one_pass
        self.queries, self.max_points = queries, max_points
        self.taken: list[tuple[str, int]] = []  # optical frame and stamp of the frames on disk
        self.cameras: list[str] = []  # of a rig, of these frames
        self.names: dict[tuple[str, int], str] = {}  # of frames that are not on disk yet
        self.track_rows = TrackRows(0 if queries is None else len(queries))
        self.refused: list[str] = []
        self.refusal = ""  # why the last window was refused
        self.attention = Attention(engine.layout)
        self.pieces = ""  # a warning for a map that ended in several segments
        self.placed = PlacedFrames()
        self.valid: list[int] = []  # pixels with depth of each frame on disk
        self.admitted = self.points = self.windows_refused = 0
        self.scale: dict[str, Any] = {"metric": False, "source": "none"}
        self.seconds: Counter[str] = Counter()
        self.began = self.saved = time.perf_counter()
        self.inferences = 0
        self.reported: Counter[str] = Counter()
        source.notes += settings.cautions
        if queries is not None:
            self.pipeline.query(np.arange(len(queries), dtype=np.uint32), queries)

    def run(
        self, frames: Iterable[Frame | Instant], *, overview: bool = True, quiet: bool = False
    ) -> None:
        """Process all frames; on Ctrl-C or an error write the final files, then raise it again."""
        from tqdm import tqdm

        unit = " instants" if isinstance(self.source, RigSource) else " frames"
        bar = tqdm(
            awaited(frames, self.seconds), total=self.source.total, unit=unit, disable=quiet,
            dynamic_ncols=True,
        )  # fmt: skip
        say = (lambda _: None) if quiet else (lambda line: bar.write(line, file=sys.stderr))
        try:
            for item in bar:
                for line in self.step(item):
                    say(line)
            if self.one_pass and self.admitted:
                say(self.one_pass.line(self.admitted))
            if self.admitted and (last := self.pipeline.finish()) is not None:
                self.take(last)
        except BaseException as error:
            self.finish(stopped_by=str(error) or type(error).__name__)
            raise
        finally:
            bar.close()
        if not self.taken:
            raise UserError(f"every frame of {self.source.path} was refused; {self.refused[0]}")
        self.finish(overview=overview)

    def step(self, item: Frame | Instant) -> list[str]:
        """Process one frame or instant and write its result; returns new messages for the user."""
        update = None
        if self.one_pass is not None:
            self.one_pass.check(self.admitted + 1, more=True)
        given = item if isinstance(item, Instant) else Instant((Observation(item),))
        fitting = tuple(each for each in given.observations if self.fits(each.frame))
        if fitting:
            update = self.admit(given._replace(observations=fitting))
        if self.pipeline.masking.fault:
            self.source.note(self.pipeline.masking.fault)
        if update is not None:
            self.take(update)
        if time.perf_counter() - self.saved > 1:
            self.saved = time.perf_counter()
            self.writer.summarise(self.summary(interrupted=True))
        self.source.notes += self.pipeline.notices
        self.pipeline.notices.clear()
        return self.new_messages()

    def take(self, update: Update) -> None:
        """Write what is new in an update; Ctrl-C waits for it."""
        with defer_interrupt():
            self.write(update)

    def admit(self, given: Instant) -> Update | None:
        """Give the frames to the pipeline, and note which of them it refused."""
        frames = {each.frame.camera_name: each.frame for each in given.observations}
        update, refused = None, []
        try:
            update = self.pipeline.step(given)
        except FrameError as error:
            refused = [(name, str(error)) for name in frames]
        for name, text in self.pipeline.cameras.refused or refused:
            self.refuse(frames.pop(name), text)
        self.pipeline.cameras.refused.clear()
        self.admitted += len(frames)
        for frame in frames.values():
            self.names[frame.camera, frame.stamp_ns] = frame.name
        return update

    def fits(self, frame: Frame) -> bool:
        """Whether the image has a grid; one whose size leaves none costs itself alone."""
        try:
            self.pipeline.grid(*frame.rgb.shape[1::-1])
        except UserError as error:
            self.refuse(frame, str(error))
            return False
        return True

    def refuse(self, frame: Frame, text: str) -> None:
        """A frame is left out."""
        self.refused.append(f"{frame.name}: {text}" if frame.name else text)

    def new_messages(self) -> list[str]:
        """Messages for the user that were not returned before."""
        skipped = [f"skipped {name}: {reason}" for name, reason in self.source.skipped]
        new = []
        for kind, lines in (
            ("skipped", skipped),
            ("refused", self.refused),
            ("", self.source.notes),
        ):
            new += lines[self.reported[kind] : MAX_REPORTED]
            self.reported[kind] = len(lines)
        return new

    def write(self, update: Update) -> None:
        """Write the new views; what corrects them later is applied at the end."""
        registration = update.registration
        uncertain = registration.doubtful or not registration.accepted
        self.windows_refused += not registration.accepted
        if not registration.accepted:
            self.refusal = registration.reason
        restarts = [line for line in self.pipeline.notices if line.endswith("a new map start")]
        self.placed.follow(update.keyframes, update.status)
        for view in update.views[len(update.views) - update.fresh :]:
            name = self.names.pop((view.camera, view.stamp_ns), "")
            frame = RunFrame.of(view, self.pipeline.settings.min_confidence, name)
            self.writer.add(frame)
            self.taken.append((view.camera, view.stamp_ns))
            self.cameras.append(view.camera_name)
            self.valid.append(int(np.isfinite(frame.depth).sum()))
            self.placed.add(
                view.frame_id, view.keyframe, view.segment, uncertain=uncertain,
                because=restarts[0] if restarts else self.refusal,
            )  # fmt: skip
        if update.tracks is not None:
            self.track_rows.add(update.tracks)
        self.attention.add(update)
        self.inferences += 1
        self.seconds.update(update.seconds)
        self.scale = {"metric": update.metric, "source": update.scale_source}
        self.rig = update.rig

    def finish(self, *, overview: bool = False, stopped_by: str | None = None) -> None:
        """Write corrected frames, tracks, cloud, overview and the final summary."""
        out = self.writer.path
        if (keyframes := self.pipeline.settle()) is not None:
            self.placed.follow(keyframes)
        with defer_interrupt():  # or some frames would stand where the others no longer do
            self.writer.correct(self.placed.take_motions())
            if isinstance(self.source, RigSource):
                self.writer.write_rig(self.cameras, self.rig)
            self.writer.summarise(self.summary(interrupted=True))
        if self.queries is not None:
            self.writer.add_tracks(self.track_rows.of(self.taken))
        recorded = open_run(out)
        segments = recorded.segments()
        shown = next(iter(segments), [])
        self.pieces = segments_line([len(each) for each in segments], self.placed.reasons()[1:])
        for warning in filter(None, (self.pieces, self.attention.warning)):
            self.source.note(warning)
        surface = Surface(recorded, shown, fuse=self.fuse)
        self.points = surface.write_cloud(self.valid, self.max_points)
        if overview:
            caption = f"{self.source.path.name}, {self.engine.name}"
            if len(segments) > 1:
                of = f"{len(shown)} of {len(self.taken)} frames"
                caption += f": the largest of {len(segments)} segments, {of}"
            surface.write_overview(caption, "m" if self.scale["metric"] else "")
        interrupted = stopped_by is not None
        stopped = {"stopped_by": stopped_by} if interrupted else {}
        self.writer.summarise(self.summary(interrupted=interrupted) | stopped)

    def summary(self, *, interrupted: bool) -> dict[str, Any]:
        """Contents of `summary.json`; the writer adds the number of frames."""
        source, total = self.source, time.perf_counter() - self.began
        stamps = [ns for _, ns in self.taken]
        segments, segment_numbers = self.placed.stretches()
        faults = [*self.refused, *(f"{name}: {reason}" for name, reason in source.skipped)]
        return {
            "source": {
                "path": str(source.path.resolve()),
                "kind": source.kind,
                "stamps": source.stamps,
                "topic": source.topic,
                "frame": self.taken[0][0] if source.kind == "bag" and self.taken else "",
                "cameras": source.places if isinstance(source, RigSource) else {},
                "camera_info": str(source.camera_info.resolve()) if source.camera_info else "",
            },
            "model": self.engine.name,
            "random_weights": self.engine.random_weights,
            "device": str(getattr(self.engine.device, "device_kind", self.engine.device)),
            "dtype": str(self.engine.dtype),
            "settings": asdict(self.pipeline.settings),
            "selection": source.selection._asdict(),
            "one_pass": self.one_pass is not None,
            "looks": self.inferences,
            "attention": self.attention.summary(),
            "refused": len(self.refused),
            "unreadable": len(source.skipped),
            "unseen": self.admitted - len(stamps),  # newer than the last inference
            "faults": faults[:MAX_REPORTED],
            "notes": source.notes,
            "segments": segments,
            "segment_numbers": segment_numbers,
            "segment_reasons": self.placed.reasons(),
            "uncertain_frames": self.placed.uncertain,
            "keyframes": self.placed.keyframes(),
            "loops": self.placed.loops(),
            **({"rig": rig_summary(self.rig, source)} if isinstance(source, RigSource) else {}),
            "map": self.placed.figures() | {"windows_refused": self.windows_refused},
            "points": self.points,
            "scale": self.scale,
            "times": {
                "first_stamp_ns": stamps[0] if stamps else 0,
                "last_stamp_ns": stamps[-1] if stamps else 0,
                "total_s": round(total, 3),
                "frames_per_s": round(len(stamps) / total, 3),
                "waiting_share": round(self.seconds["waiting"] / total, 4),
                **{f"{name}_s": round(value, 3) for name, value in self.seconds.items()},
            },
            "interrupted": interrupted,
        }
