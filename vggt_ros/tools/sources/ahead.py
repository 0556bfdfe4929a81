# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames are read and decoded in a thread of their own, while those before are computed on.

One thread: frames of videos and bags are decoded one after another. What it decodes with (Pillow,
PyAV, zstd) and what computes (XLA) both run without Python's lock.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from vggt_ros.frames import Frame, Instant

MAX_FRAMES = 8  # ahead: what an inference takes is made up for, and little is read in vain
MAX_BYTES = 256_000_000  # of pixels; one frame may be larger


Item = TypeVar("Item", Frame, Instant, Frame | Instant)


class ReadAhead(Iterator[Item]):
    """The same frames or instants in order, and the error that ended them where they ended."""

    def __init__(self, frames: Iterable[Item]):
        """Start to read; `frames` belong to the thread from now on."""
        self._frames = frames
        self._ready: deque[Item] = deque()
        self._end: BaseException | None = None  # why there are no more frames
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        """The next frame, as soon as it is decoded."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._end)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
            assert self._end is not None
            raise self._end

    def __enter__(self) -> "ReadAhead[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        """Read no more; a frame that is being decoded is waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or not self._is_full())
                    if self._closed:
                        return
                    self._ready.append(frame)
                    self._changed.notify_all()
            end: BaseException = StopIteration()
        except BaseException as error:  # it is raised where the frames are used
            end = error
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _is_full(self) -> bool:
        held = sum(map(_bytes, self._ready))
        return len(self._ready) >= MAX_FRAMES or held >= MAX_BYTES


def _bytes(item: Frame | Instant) -> int:
    if isinstance(item, Frame):
        return item.rgb.nbytes
    return sum(each.frame.rgb.nbytes for each in item.observations)


def awaited(frames: Iterable[Item], seconds: Counter[str]) -> Iterator[Item]:
    """The frames; the time until each is there is added up as `seconds["waiting"]`."""
    source = iter(frames)
    while True:
        before = time.perf_counter()
        frame = next(source, None)
        seconds["waiting"] += time.perf_counter() - before
        if frame is None:
            return
        yield frame
