# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames are read ahead: in order, so many and no more, in a thread that ends."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from fakes.planar_engine import frames, planar_engine_of_a_run

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.report import times_line
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.sources.ahead import MAX_BYTES, MAX_FRAMES, ReadAhead
from vggt_ros.tools.sources.source import Source

PATIENCE = 120.0  # seconds, of a busy machine


class Reader:
    """Counts what is read, and says when so many are."""

    def __init__(self, count: int, rgb: np.ndarray | None = None):
        self.taken, self._count = 0, count
        self._rgb = np.zeros((2, 2, 3), np.uint8) if rgb is None else rgb
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            with self._changed:
                self.taken += 1
                self._changed.notify_all()
            yield Frame(self._rgb, index + 1)

    def has_taken(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.taken >= count, PATIENCE)


def test_all_frames_come_in_order():
    with ReadAhead(Reader(50)) as ahead:
        assert [frame.stamp_ns for frame in ahead] == list(range(1, 51))
        assert next(ahead, None) is None, "the end stays the end"


def test_so_many_are_read_while_none_is_used_and_no_more():
    reader = Reader(100)
    with ReadAhead(reader) as ahead:
        assert reader.has_taken(MAX_FRAMES + 1), "without being asked"
        next(ahead)
        assert reader.has_taken(MAX_FRAMES + 2)
    assert reader.taken <= MAX_FRAMES + 2 and not reader_threads()


def test_large_frames_are_held_up_to_a_number_of_bytes():
    large = np.broadcast_to(np.uint8(0), (10_000, 10_000, 3))  # takes no memory
    assert 2 * large.nbytes > MAX_BYTES
    reader = Reader(100, large)
    with ReadAhead(reader) as ahead:
        next(ahead)
        assert reader.has_taken(2)
    assert reader.taken <= 3


def test_an_error_comes_after_the_frames_before_it():
    def broken() -> Iterator[Frame]:
        yield from frames(3)
        raise UserError("the disk is gone")

    with ReadAhead(broken()) as ahead:
        taken = [next(ahead) for _ in range(3)]
        with pytest.raises(UserError, match="the disk is gone"):
            next(ahead)
    assert len(taken) == 3 and not reader_threads()


def test_the_time_of_waiting_is_told_from_that_of_computing(tmp_path):
    came = threading.Event()

    def slow() -> Iterator[Frame]:
        came.wait(2.0)  # never set: two seconds, before there is anything to compute
        yield from frames(3)

    source = Source(tmp_path, "list", "", ())
    with RunWriter(tmp_path / "out", {}) as writer:
        Job(planar_engine_of_a_run(), Settings(), source, writer).run(
            slow(), overview=False, quiet=True
        )
    times = open_run(tmp_path / "out").summary["times"]
    # Less than two seconds where a busy machine starts to wait later than the images' thread.
    assert 0.3 <= times["waiting_s"] <= times["total_s"]
    assert times["waiting_share"] == pytest.approx(times["waiting_s"] / times["total_s"], abs=1e-3)


def test_the_line_of_times_adds_up():
    times = {"total_s": 10.0, "frames_per_s": 4.8, "network_s": 6.0, "geometry_s": 0.5,
             "waiting_s": 1.5}  # fmt: skip
    assert times_line(times) == (
        "time: 10.0 s, 4.8 frames/s; network 60%, map and geometry 5%, waiting for images 15%,"
        " files, cloud and picture 20%"
    )


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read ahead"]
