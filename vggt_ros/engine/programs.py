# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compiled programs by shape: compiled on demand, at once or in the background."""

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Thread

from vggt_ros.engine.shapes import Shape

Program = Callable


class Programs:
    """Calls `compile` once per shape, from any thread, and never twice at a time.

    Tracing is Python, so a second compilation would only slow down the first, and inference.
    """

    def __init__(self, compile: Callable[[Shape], Program]):
        self._compile = compile
        self._ready: dict[Shape, Program] = {}
        self._failed: dict[Shape, Exception] = {}  # in the background; not reported yet
        self._queue: deque[Shape] = deque()
        self._current: Shape | None = None  # the one being compiled
        self._changed = Condition()
        self._thread: Thread | None = None
        self._stopping = False

    @property
    def pending(self) -> tuple[str, ...]:
        """What is being compiled, then what will be, as text."""
        with self._changed:
            current = () if self._current is None else (self._current,)
            return tuple(str(shape) for shape in (*current, *self._queue))

    def get(self, shape: Shape) -> Program:
        """The program, compiled now if need be.  Raises what compiling raised."""
        with self._changed:
            self._changed.wait_for(lambda: shape in self._ready or self._current is None)
            if shape in self._ready:
                return self._ready[shape]
            self._start(shape)
        self._make(shape)
        return self._take(shape)

    def find(self, shape: Shape, *, hurry: bool = False) -> Program | None:
        """The program if it is ready; else it is compiled in the background, before all others.

        One that is awaited already keeps its place, unless in a `hurry`.  Raises what compiling it
        has raised; the next call tries again.
        """
        with self._changed:
            if shape not in self._ready and shape not in self._failed:
                if hurry and shape in self._queue:
                    self._queue.remove(shape)
                self._enqueue([shape], first=True)
                return None
        return self._take(shape)

    def if_ready(self, shape: Shape) -> Program | None:
        """The program if it is ready; no compilation is started otherwise."""
        return self._ready.get(shape)

    def request(self, shapes: Iterable[Shape], *, first: bool = False) -> None:
        """Compile these in the background, in this order, after (or before) what is awaited."""
        with self._changed:
            self._enqueue(shapes, first=first)

    def stop(self, timeout: float) -> bool:
        """Start no more compilations; True if nothing is being compiled after `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _enqueue(self, shapes: Iterable[Shape], *, first: bool) -> None:
        known = {*self._ready, *self._failed, *self._queue, self._current}
        new = [shape for shape in shapes if shape not in known]
        if first:
            self._queue.extendleft(reversed(new))
        else:
            self._queue.extend(new)
        if self._thread is None and self._queue and not self._stopping:
            self._thread = Thread(target=self._run, name="vggt_compiler", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or (self._queue and self._current is None)
                )
                if self._stopping:
                    return
                shape = self._queue[0]
                self._start(shape)
            self._make(shape)

    def _start(self, shape: Shape) -> None:
        self._current = shape
        self._failed.pop(shape, None)
        if shape in self._queue:
            self._queue.remove(shape)

    def _make(self, shape: Shape) -> None:
        try:
            made, failed = self._compile(shape), None
        except Exception as error:  # raised where the program is asked for
            made, failed = None, error
        with self._changed:
            self._current = None
            if failed is None:
                self._ready[shape] = made
            else:
                self._failed[shape] = failed
            self._changed.notify_all()

    def _take(self, shape: Shape) -> Program:
        with self._changed:
            if shape in self._failed:
                raise self._failed.pop(shape)
            return self._ready[shape]
