# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The shapes that a network is compiled for, and which of them are needed, in what order."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from vggt_ros.engine.interface import window_lengths
from vggt_ros.errors import UserError

QUERY_SIZES = (16, 64, 256, 1024)  # queries are padded to one of these, so that shapes are few


class EncoderProgram(NamedTuple):
    """Encodes frames of `size` (height, width) into their slots of the cache: one, or a rig's."""

    size: tuple[int, int]
    slots: int
    frames: int = 1

    def __str__(self) -> str:
        several = f" of {self.frames}" if self.frames > 1 else ""
        return f"encoder{several} {self.size[1]}x{self.size[0]}"


class WindowProgram(NamedTuple):
    """Infers a window of `frames`: depth for the newest `depth_frames`, tracks of `queries`.

    In layout view_time the frames may be those of so many `views`, instant by instant; 0: they are
    one sequence.
    """

    size: tuple[int, int]
    slots: int
    frames: int
    depth_frames: int
    queries: int
    views: int = 0

    def __str__(self) -> str:
        tracks = f", {self.queries} tracks" if self.queries else ""
        views = f", {self.views} views" if self.views else ""
        return f"window of {self.frames} {self.size[1]}x{self.size[0]}{views}{tracks}"

    def with_substitutes(self) -> Sequence["WindowProgram"]:
        """This window, and what may be inferred in its place: no tracks, then fewer frames.

        Of several views whole instants are left out, and at last the views are one sequence.
        """
        shapes: list[WindowProgram] = []
        for s in range(self.frames, 0, -1):
            if self.views and s % self.views and s > self.views:
                continue
            views = self.views if self.views and s % self.views == 0 else 0
            fewer = self._replace(frames=s, depth_frames=min(s, self.depth_frames), views=views)
            shapes += [fewer, fewer.without_tracks()] if self.queries else [fewer]
        return shapes

    def without_tracks(self) -> "WindowProgram":
        """The same window, without tracks."""
        return self._replace(queries=0)

    def needs_at_least(self, other: "WindowProgram") -> bool:
        """Whether it needs at least the memory that the other does."""
        return (
            self.size == other.size
            and self.frames >= other.frames
            and self.depth_frames >= other.depth_frames
            and self.queries >= other.queries
        )


Shape = EncoderProgram | WindowProgram


def by_views(shape: Shape, views: int) -> Shape:
    """The program for windows of whole instants of so many views, if it may be one; else itself."""
    if isinstance(shape, EncoderProgram) or not views > 1 or shape.frames % views:
        return shape
    return shape._replace(views=views)


def of_views(shapes: Sequence[Shape], views: int) -> list[Shape]:
    """The programs as layout view_time has them, of a rig of so many views; 0: none are by views.

    Where cameras are dead whole instants are of the others: full windows of those come last.
    """
    found = [by_views(shape, views) for shape in shapes]
    plain = [shape for shape in shapes if isinstance(shape, WindowProgram) and not shape.queries]
    full = max((shape.frames for shape in plain if not shape.frames % max(views, 1)), default=0)
    for fewer in range(views - 1, 0, -1):
        length = full // views * fewer
        found += [shape._replace(views=fewer) for shape in plain if shape.frames == length]
    return list(dict.fromkeys(found))


def needed(
    size: tuple[int, int],
    window_sizes: Sequence[int],
    *,
    depth_frames: int,
    queries: Iterable[int] = (0,),
    extra_views: int = 0,
    cameras: int = 1,
) -> list[Shape]:
    """Programs for windows of `size` (height, width) network pixels, the most useful first.

    The shortest window (of one frame) is used at once. The longest is used from then on: the
    window has filled by the time that it is compiled. `extra_views` are frames that are in a
    full window now and then, besides its own; they come next, since without them a camera that was
    lost is not found again. The others are passed while a window fills again after a reset; they
    follow from long to short, so that the next shorter one is there first, should the longest not
    fit into the device's memory. The cache has a slot for one in any case, so that points may be
    tracked from a frame that left the window.
    Of a rig, `window_sizes` and `depth_frames` count instants of `cameras` frames each.
    """
    longest, depth_frames = max(window_sizes) * cameras, depth_frames * cameras
    slots = longest + max(extra_views, 1)
    extended = range(longest + 1, longest + extra_views + 1)
    shapes: list[Shape] = [EncoderProgram(size, slots)]
    for i, padded in enumerate(sorted({padded_queries(count) for count in queries})):
        shortest, *longer = window_lengths(window_sizes, cameras)
        order = (shortest, *longer[:1], *(() if i else extended), *longer[1:])
        for s in order:
            shapes.append(WindowProgram(size, slots, s, min(depth_frames, s), padded))
    full = [max(window_sizes) * m for m in range(cameras, 0, -1)]  # also while cameras are dead
    for s in [length + extra for extra in range(1, extra_views + 1) for length in full]:
        program = WindowProgram(size, slots, s, min(depth_frames, s), 0)
        shapes += [] if program in shapes else [program]
    if cameras > 1:  # what it saves is time: an instant can be encoded image by image
        shapes.insert(3, EncoderProgram(size, slots, cameras))
    return shapes


def for_tracks(
    size: tuple[int, int], window_size: int, *, depth_frames: int, queries: int, cameras: int = 1
) -> list[WindowProgram]:
    """Programs that track up to `queries` points in full windows of `size` (height, width).

    The second has room for a frame that left the window before the points in it were tracked. No
    program is for shorter windows: a window passes through them while it fills, and tracks can
    begin when it has. Of a rig, `window_size` and `depth_frames` count instants.
    """
    if queries == 0:
        return []
    slots, padded = window_size * cameras + 1, padded_queries(queries)
    depth_frames *= cameras
    return [WindowProgram(size, slots, s, min(depth_frames, s), padded) for s in (slots - 1, slots)]


def prepared(
    size: tuple[int, int],
    window_size: int,
    *,
    depth_frames: int,
    extra_views: int = 0,
    track_queries: int = 0,
    cameras: int = 1,
) -> list[Shape]:
    """Programs for all windows up to this size: those of `needed`, then `for_tracks`."""
    sizes = range(1, window_size + 1)
    return [
        *needed(
            size, sizes, depth_frames=depth_frames, extra_views=extra_views, cameras=cameras
        ),
        *for_tracks(
            size, window_size, depth_frames=depth_frames, queries=track_queries, cameras=cameras
        ),
    ]  # fmt: skip


def padded_queries(count: int) -> int:
    """The padded number of queries.  Raises `UserError` where there are too many."""
    if count == 0:
        return 0
    for padded in QUERY_SIZES:
        if count <= padded:
            return padded
    raise UserError(f"{count} queries are too many; send at most {QUERY_SIZES[-1]}")


def query_inputs(
    queries: Float32[np.ndarray, "n 2"] | None, padded: int
) -> tuple[Float32[np.ndarray, "m 2"], Bool[np.ndarray, "m"]]:
    """Queries as a program for `padded` of them takes them, and which are not padding."""
    given = queries if queries is not None and padded else np.zeros((0, 2), np.float32)
    points = np.zeros((padded, 2), np.float32)
    points[: len(given)] = given
    return points, np.arange(padded) < len(given)
