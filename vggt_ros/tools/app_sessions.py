# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `vggt app` does for each open page: uploads are received, reconstructed, tracked, deleted.

A session is one open page. Its folder has a random name; it is deleted when the page is closed,
when nothing was done in it for a time, and when the program ends.
"""

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings
from vggt_ros.tools.app_images import Rgb, marked, reduced
from vggt_ros.tools.app_results import Shown, save, show, show_tracks
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.format import Run
from vggt_ros.tools.runs.network import Engine
from vggt_ros.tools.sources.images import are_images
from vggt_ros.tools.sources.open import CLIP, open_source

POINTS = 200_000  # of the cloud, which browsers have to draw
# Files that may be uploaded alone, beside images. Playlists are none: a live one has no end.
FILMS = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv"
    " .bag .db3 .mcap".split()
)


class Limits(NamedTuple):
    """What one session may use."""

    images: int = 60  # files of an upload, and frames of a reconstruction
    megabytes: int = 200  # of an upload
    minutes: int = 60  # that uploads and results are kept without use


class Session:
    """One open page: its folder, what it holds, and the lock of its single requests."""

    def __init__(self, root: Path):
        self.folder = Path(tempfile.mkdtemp(dir=root))  # of this user alone
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.source: Path | None = None
        self.settings: dict[str, Any] = {}
        self.first: Rgb | None = None  # the first input image, reduced
        self.input_from_first = 1.0  # scale of its pixels
        self.used = time.monotonic()
        self._kept: dict[str, Path] = {}

    @contextmanager
    def renewing(self, name: str) -> Iterator[Path]:
        """A new folder that replaces the one of that name, unless the block fails.

        Its path is new, since browsers show what they have loaded from a path before.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=self.folder))
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if (old := self._kept.get(name)) is not None:
            shutil.rmtree(old, ignore_errors=True)
        self._kept[name] = folder


class StoppableEngine:
    """An engine that raises `UserError` once the page is closed, so that others need not wait."""

    def __init__(self, engine: Engine, closed: threading.Event):
        self.name, self.layout = engine.name, engine.layout
        self.default_width = engine.default_width
        self.device, self.dtype = engine.device, engine.dtype
        self.random_weights = engine.random_weights
        self.obstacle, self.describe, self.reset = engine.obstacle, engine.describe, engine.reset
        self._engine, self._closed = engine, closed

    @property
    def fingerprint(self) -> str:
        return self._engine.fingerprint

    def infer(self, *arguments: Any, **options: Any) -> Any:
        """As `Engine.infer`."""
        if self._closed.is_set():
            raise UserError("the page was closed")
        return self._engine.infer(*arguments, **options)


class Sessions:
    """All open pages by their keys; the network serves one at a time."""

    def __init__(self, root: Path, engine: Engine, limits: Limits):
        self.root, self.engine, self.limits = root, engine, limits
        self._sessions: dict[str, Session] = {}
        self._lock, self._network = threading.Lock(), threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def keys(self) -> list[str]:
        """Of the sessions that are open."""
        return list(self._sessions)

    def receive(self, key: str, uploads: Sequence[Path]) -> str:
        """Move uploads into the session's folder, in place of earlier ones; returns a line on them.

        Raises `UserError` for what is over the limits or cannot be read: then they are deleted.
        """
        try:
            with self._session(key) as session, session.renewing("uploads") as folder:
                megabytes = self._check(uploads)
                for number, path in enumerate(uploads):
                    taken = (folder / path.name).exists()
                    shutil.move(path, folder / (f"{number}_{path.name}" if taken else path.name))
                first, *others = folder.iterdir()
                source = folder if others or are_images(first) else first
                open_source(source)
                session.source = source
        finally:
            for path in uploads:
                path.unlink(missing_ok=True)
        what = f"{len(uploads)} images" if source == folder else source.name
        return f"received: {what}, {megabytes:.1f} MB"

    def reconstruct(
        self,
        key: str,
        *,
        clip: bool = False,
        frames: int = 24,
        mask_sky: bool = False,
        min_confidence: float = Settings.min_confidence,
    ) -> Shown:
        """Reconstruct what was received last, or the bundled clip.

        Raises `UserError` where there is nothing, or it cannot be reconstructed.
        """
        self.delete_unused()
        with self._session(key) as session:
            source = CLIP if clip else session.source
            if source is None:
                raise UserError(
                    "nothing to reconstruct: upload images or a video, or use the bundled clip"
                )
            frames = min(frames, self.limits.images)
            settings = {
                "every": _spread(source, frames), "max_frames": frames,
                "mask_sky": mask_sky, "min_confidence": min_confidence,
            }  # fmt: skip
            with session.renewing("result") as folder:
                done = self._run(session, source, folder / "run", settings)
                if not done.summary["points"]:
                    raise UserError(
                        f"no depth has a confidence above {min_confidence:g}: choose a lower one"
                    )
                first, scale = reduced(next(iter(open_source(source))).rgb)
                shown = show(done, folder, first)
            session.source, session.settings = source, settings
            session.first, session.input_from_first = first, scale
            return shown._replace(text=self._public(shown.text))

    def mark(self, key: str, points: Sequence[tuple[float, float]]) -> Path:
        """The first image with a dot at each of its chosen pixels (u, v)."""
        with self._session(key) as session, session.renewing("points") as folder:
            if session.first is None:
                raise UserError("nothing to track in: reconstruct first")
            return save(folder / "first.png", marked(session.first, points))

    def track(self, key: str, points: Sequence[tuple[float, float]]) -> list[Path]:
        """Track pixels (u, v) of the first image; returns the frames with their tracks drawn."""
        with self._session(key) as session:
            if session.first is None or session.source is None:
                raise UserError("nothing to track in: reconstruct first")
            if not points:
                raise UserError("no points to track: click into the image first")
            with session.renewing("tracked") as folder:
                queries = folder / "queries.json"
                pixels = (np.array(points, float) + 0.5) * session.input_from_first - 0.5
                queries.write_text(json.dumps(pixels.tolist()))
                done = self._run(session, session.source, folder / "run", session.settings,
                                 queries=queries)  # fmt: skip
                tracks = done.tracks()
                if tracks is None or not np.isfinite(tracks.tracks).any():
                    raise UserError(f"{self.engine.name} tracks no points: it has no track head")
                return show_tracks(done, tracks, folder)

    def forget(self, key: str) -> None:
        """Delete all files of a session; what it computes is stopped at its next inference."""
        with self._lock:
            if (session := self._sessions.get(key)) is not None:
                session.closed.set()
                del self._sessions[key]
        if session is not None:
            with session.lock:
                shutil.rmtree(session.folder, ignore_errors=True)

    def delete_unused(self) -> None:
        """Delete sessions in which nothing was done for `Limits.minutes`."""
        now = time.monotonic()
        for key, session in list(self._sessions.items()):
            if now - session.used > 60 * self.limits.minutes and not session.lock.locked():
                self.forget(key)

    def close(self) -> None:
        """Delete all files."""
        for session in list(self._sessions.values()):
            session.closed.set()
        for key in self.keys:
            self.forget(key)
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def _session(self, key: str) -> Iterator[Session]:
        """The session of a key, for one request at a time; errors name none of its folders."""
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = Session(self.root)
            session = self._sessions[key]
        with session.lock:
            session.used = time.monotonic()
            try:
                yield session
            except UserError as error:
                raise UserError(self._public(str(error))) from None
            finally:
                session.used = time.monotonic()

    def _public(self, text: str) -> str:
        return re.sub(rf"{re.escape(str(self.root))}\S*/", "", text)

    def _check(self, uploads: Sequence[Path]) -> float:
        """Size in MB; raises `UserError` for uploads over the limits, and for a mixture."""
        if not uploads:
            raise UserError("nothing was uploaded: choose images or a video")
        most, megabytes = self.limits, sum(path.stat().st_size for path in uploads) / 1e6
        if len(uploads) > most.images:
            raise UserError(f"{len(uploads)} files are too many: upload at most {most.images}")
        if megabytes > most.megabytes:
            raise UserError(f"{megabytes:.1f} MB are too much: upload at most {most.megabytes} MB")
        others = [path.name for path in uploads if not are_images(path)]
        if others and len(uploads) > 1:
            raise UserError(f"{others[0]} is no image: upload images, or one video alone")
        if others and Path(others[0]).suffix.lower() not in FILMS:
            raise UserError(f"{others[0]} is neither an image nor a video that can be uploaded")
        return megabytes

    def _run(
        self, session: Session, source: Path, out: Path, settings: dict[str, Any],
        queries: Path | None = None,
    ) -> Run:  # fmt: skip
        engine = StoppableEngine(self.engine, session.closed)
        with self._network:
            return run(source, out, engine=engine, queries=queries, max_points=POINTS,
                       picture=False, resume=False, **settings)  # fmt: skip


def _spread(source: Path, frames: int) -> int:
    """Every which frame of a source to use, so that as many span all of it."""
    opened = open_source(source)
    count = opened.count or sum(1 for _ in opened.lazy_frames)
    return max(1, -(-count // frames))
