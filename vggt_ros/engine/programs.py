# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compiled programs by shape: made on demand, at once or in the background while others serve."""

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Thread

from vggt_ros.engine.shapes import Shape

Program = Callable


class Programs:
    """Calls `compile` once per shape, from any thread, and never twice at a time.

    Tracing is Python, so a second compilation would only slow down the first, and whoever serves.
    """

    def __init__(self, compile: Callable[[Shape], Program]):
        self._compile = compile
        self._ready: dict[Shape, Program] = {}
        self._failed: dict[Shape, Exception] = {}  # in the background; nobody has heard of it yet
        self._wanted: deque[Shape] = deque()
        self._current: Shape | None = None  # the one being compiled
        self._news = Condition()
        self._thread: Thread | None = None
        self._stopping = False

    @property
    def pending(self) -> tuple[str, ...]:
        """What is being compiled, then what will be, in words."""
        with self._news:
            current = () if self._current is None else (self._current,)
            return tuple(str(shape) for shape in (*current, *self._wanted))

    def get(self, shape: Shape) -> Program:
        """The program, compiled now if need be.  Raises what compiling raised."""
        with self._news:
            self._news.wait_for(lambda: shape in self._ready or self._current is None)
            if shape in self._ready:
                return self._ready[shape]
            self._begin(shape)
        self._make(shape)
        return self._take(shape)

    def find(self, shape: Shape) -> Program | None:
        """The program if it is ready; else it is compiled in the background, before all others.

        One that is awaited already keeps its place.  Raises what compiling it has raised; the next
        call tries again.
        """
        with self._news:
            if shape not in self._ready and shape not in self._failed:
                self._want([shape], first=True)
                return None
        return self._take(shape)

    def held(self, shape: Shape) -> Program | None:
        """The program if it is ready; nothing is begun otherwise."""
        return self._ready.get(shape)

    def want(self, shapes: Iterable[Shape], *, first: bool = False) -> None:
        """Compile these in the background, in this order, after (or before) what is awaited."""
        with self._news:
            self._want(shapes, first=first)

    def stop(self, timeout: float) -> bool:
        """Begin nothing more; True if nothing is being compiled after `timeout` seconds."""
        with self._news:
            self._stopping = True
            self._wanted.clear()
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _want(self, shapes: Iterable[Shape], *, first: bool) -> None:
        known = {*self._ready, *self._failed, *self._wanted, self._current}
        new = [shape for shape in shapes if shape not in known]
        if first:
            self._wanted.extendleft(reversed(new))
        else:
            self._wanted.extend(new)
        if self._thread is None and self._wanted and not self._stopping:
            self._thread = Thread(target=self._run, name="vggt_compiler", daemon=True)
            self._thread.start()
        self._news.notify_all()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(
                    lambda: self._stopping or (self._wanted and self._current is None)
                )
                if self._stopping:
                    return
                shape = self._wanted[0]
                self._begin(shape)
            self._make(shape)

    def _begin(self, shape: Shape) -> None:
        self._current = shape
        self._failed.pop(shape, None)
        if shape in self._wanted:
            self._wanted.remove(shape)

    def _make(self, shape: Shape) -> None:
        try:
            made, failed = self._compile(shape), None
        except Exception as error:  # whoever asks for the program hears of it
            made, failed = None, error
        with self._news:
            self._current = None
            if failed is None:
                self._ready[shape] = made
            else:
                self._failed[shape] = failed
            self._news.notify_all()

    def _take(self, shape: Shape) -> Program:
        with self._news:
            if shape in self._failed:
                raise self._failed.pop(shape)
            return self._ready[shape]
