# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which program an inference uses: what is compiled, what fits, and what is to be compiled next."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from vggt_ros.engine.interface import DeviceLost, OutOfMemory
from vggt_ros.engine.programs import Program, Programs
from vggt_ros.engine.shapes import EncoderProgram, Shape, WindowProgram, by_views
from vggt_ros.errors import UserError


class Selection:
    """Chooses among programs that are ready, and starts to compile those that are missing.

    `untracked` is why this network tracks no points; empty: it does. One that `attends_by_views`
    has programs of their own for the windows of a rig.
    With `background` a program that is missing is compiled while others are used; without, it is
    waited for.  `faults` makes the runtime's errors readable, given what it was that failed.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        background: bool,
        faults: Callable[[str], AbstractContextManager[None]],
        untracked: str = "",
        attends_by_views: bool = False,
    ):
        self.untracked, self.attends_by_views = untracked, attends_by_views
        self.programs, self.background, self._faults = programs, background, faults
        self.whole = False  # whether no other window may take the place of the one asked for
        self.window_size = 0  # of a window that grows no further, once that is known
        self.cameras = 1  # frames of an instant
        self._unfit: dict[WindowProgram, str] = {}  # what does not run, and why

    @property
    def views(self) -> int:
        """By which whole windows are attended; 0: by none."""
        return self.cameras if self.attends_by_views else 0

    def request(self, shapes: Sequence[Shape]) -> bool:
        """Compile these in the background; whether the first two, which come first, are there."""
        at_once, later = shapes[:2], shapes[2:]
        self.programs.request(at_once, first=True)
        self.programs.request(later)
        return None not in [self.find(shape) for shape in at_once]

    def by_views(self, shape: Shape) -> Shape:
        """The program as it is for a window of whole instants, if it is one that may be."""
        return by_views(shape, self.views)

    def find(self, shape: Shape) -> Program | None:
        """The program; in the background None while it is compiled."""
        with self._faults(str(shape)):
            return self.programs.find(shape) if self.background else self.programs.get(shape)

    def encoder(self, shape: EncoderProgram, new: int) -> tuple[EncoderProgram, Program] | None:
        """For so many new frames: all at once where they are those of an instant, else one by one.

        None while neither is ready.
        """
        single = self.find(shape)
        if new == self.cameras > 1:
            several = shape._replace(frames=new)
            if (program := self.find(several)) is not None:
                return several, program
        return None if single is None else (shape, single)

    def choices(
        self, wanted: WindowProgram, query_frame: int, failed: list[UserError]
    ) -> Iterator[tuple[WindowProgram, Program]]:
        """Programs for this window and what may take its place, the best first, if ready.

        Points to track are given in frame `query_frame` of the window. Errors of programs that
        cannot be compiled are added to `failed`. A single frame is always tried: memory that
        others held may be free again.
        """
        find, compile_tracks = self.find, wanted.frames >= self.window_size
        for shape in [wanted] if self.whole else wanted.with_substitutes():
            last = shape.frames == 1 and shape.queries == 0
            without_points = shape.queries and query_frame < wanted.frames - shape.frames
            if without_points or (not last and self._reason(shape)):
                continue
            try:
                if shape.queries:
                    program = self._find_tracks(shape, start=compile_tracks)
                    compile_tracks = False  # but for the best that may run
                else:
                    program = find(shape)
            except (OutOfMemory, DeviceLost) as error:
                self.exclude(shape, error, failed)
                continue
            if program is not None:
                yield shape, program
            elif not shape.queries:  # its compilation was started, and one start is enough
                find = self.programs.if_ready

    def exclude(self, shape: WindowProgram, error: UserError, failed: list[UserError]) -> None:
        """It cannot be compiled or run: neither it nor a larger one is tried again."""
        failed.append(error)
        self._unfit[shape] = str(error)

    def obstacle(self, shape: WindowProgram) -> str:
        """Why this window, with its tracks, is not inferred as it is; empty: it would be.

        In the background what is missing is compiled next, once the network runs without tracks.
        """
        if reason := self._reason(shape):
            return reason
        if not self.background:
            return ""
        if shape.frames > shape.slots:
            return f"no {shape} was prepared"
        try:
            if self._find_tracks(shape, start=shape.frames >= self.window_size) is None:
                return f"the program for a {shape} is not compiled yet"
        except (OutOfMemory, DeviceLost) as error:
            self.exclude(shape, error, [])
        return self._reason(shape)

    def _reason(self, shape: WindowProgram) -> str:
        """Why it does not run, by the experience of one that needs no more; empty: none failed."""
        if shape.queries and self.untracked:
            return self.untracked
        faults = (why for limit, why in self._unfit.items() if shape.needs_at_least(limit))
        return next(faults, "")

    def _find_tracks(self, shape: WindowProgram, *, start: bool) -> Program | None:
        """The program; in the background None while it is compiled, or is not to be yet.

        With `start` a client waits for this one: it is compiled before all others but what runs
        without tracks. Not for a window that has fewer frames than it will: it is soon gone.
        """
        if not self.background:
            return self.find(shape)
        full = min(shape.frames, self.window_size or shape.frames)
        plain = shape.without_tracks()._replace(
            frames=full, depth_frames=min(shape.depth_frames, full)
        )
        if not start or self.programs.if_ready(self.by_views(plain)) is None:
            return self.programs.if_ready(shape)
        with self._faults(str(shape)):
            return self.programs.find(shape, hurry=True)
