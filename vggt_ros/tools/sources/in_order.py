# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images in the order of their stamps, where a bag has some of them a little late.

A recorder writes messages as they arrive, and drivers with several threads, or a network, deliver
one before another.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator

from vggt_ros.tools.sources.source import LazyFrame

HELD = 8  # images that wait for a late one
MAX_LATE_NS = 1_000_000_000  # more is another clock, or a recording that begins again


def in_order(frames: Iterable[LazyFrame], note: Callable[[str], object]) -> Iterator[LazyFrame]:
    """The images sorted by their stamps as far as one is late by `HELD` images and a second.

    What is beyond stays where it is: strays and clocks that were set are for the pipeline to judge.
    The first that is late is a note, with figures.
    """
    held: list[LazyFrame] = []
    said = False
    for frame in frames:
        late_ns = held[-1].stamp_ns - frame.stamp_ns if held else 0
        if abs(late_ns) > MAX_LATE_NS:
            yield from held
            held = []
        elif late_ns > 0 and not said:
            said = True
            note(
                f"{frame.name} was recorded after one whose stamp is {late_ns * 1e-6:.1f} ms later:"
                f" images are sorted by their stamps, as far as they are {HELD} images late"
            )
        insort(held, frame, key=lambda each: each.stamp_ns)
        if len(held) > HELD:
            yield held.pop(0)
    yield from held
