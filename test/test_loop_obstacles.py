# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops that were asked for and cannot be sought: the status says why, as long as that is so."""

from collections.abc import Iterator

import numpy as np
import pytest
from fakes.planar_engine import HEIGHT, WIDTH, PlanarEngine, frames

from vggt_ros.frames import Observation
from vggt_ros.imaging.compressed import compress
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

WINDOW = 4


class Drive:
    """Along the planar engine's wall; `says`: what the newest status says of loops."""

    def __init__(self, engine: PlanarEngine | None = None, **settings):
        self.pipeline = Pipeline(
            engine or PlanarEngine(),
            Settings(**{"window_size": WINDOW, "loop_period": 1, **settings}),
        )
        self._frames = iter(frames(60))
        self.says = ""

    def on(self, count: int = 1) -> "Drive":
        """That many frames further."""
        for _ in range(count):
            update = self.pipeline.step(Observation(next(self._frames)))
            self.says = update.status.graph if update else self.says
        return self

    def show(self, row: int) -> int:
        """Have the next inference show an old keyframe; returns its id."""
        key = int(self.pipeline.map.keyframes.store.ids[row])
        self.pipeline.map.next_loop = key
        return key


def test_nothing_stands_in_the_way_of_an_ordinary_drive():
    drive = Drive().on(12)
    assert drive.pipeline.map.loops.is_on and drive.says == ""


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2)])
def test_windows_that_share_no_frame(size: int, stride: int):
    drive = Drive(window_size=size, stride=stride).on(4)
    assert f"window_size {size} is not above stride {stride}" in drive.says
    assert "raise window_size, or set loops to false" in drive.says
    assert Drive(window_size=size, stride=stride, loops=False).on(4).says == ""


def test_tracked_points():
    engine = PlanarEngine()
    engine.untracked = {WINDOW + 1}  # no program has room for them and a keyframe
    drive = Drive(engine).on(6)
    ids = np.arange(3, dtype=np.uint32)
    drive.pipeline.query(ids, np.array([[20.0, 20.0], [30.0, 20.0], [30.0, 30.0]]))
    assert "no loop is sought while 3 points are tracked" in drive.on(2).says
    drive.pipeline.query(ids[:0], np.zeros((0, 2)))
    assert drive.on(2).says == ""
    engine.untracked = set()
    drive.pipeline.query(ids[:1], np.array([[20.0, 20.0]]))
    assert drive.on(2).says == "", "there is room"
    quiet = Drive(loops=False).on(6)
    quiet.pipeline.query(ids[:1], np.array([[20.0, 20.0]]))
    assert quiet.on(2).says == "", "loops were not asked for"


def test_an_engine_without_room_for_a_keyframe():
    engine = PlanarEngine(max_frames=WINDOW)
    drive = Drive(engine).on(8)
    drive.show(0)
    said = drive.on().says
    assert "no loop is sought for 50 inferences" in said and "no program for 5 frames" in said
    assert drive.on(5).says == said, "until one was shown"
    engine.max_frames = 99
    drive.show(1)
    assert drive.on().says == ""


def test_no_frame_is_lost_to_a_keyframe_whose_program_is_not_compiled():
    """It is shown in the first inference after that, and until then windows are whole."""
    engine = PlanarEngine()
    engine.unready = {WINDOW + 1}
    drive = Drive(engine).on(8)
    drive.show(0)
    assert "no loop is sought: a window of 5 is not compiled yet" in drive.on().says
    assert all(len(frames) == WINDOW for frames in engine.inferences[WINDOW - 1 :])
    engine.unready = set()
    drive.show(0)
    assert drive.on().says == "" and len(engine.inferences[-1]) == WINDOW + 1


def test_an_engine_without_room_for_the_window():
    engine = PlanarEngine()
    drive = Drive(engine).on(6)
    engine.max_frames = 3
    assert "the engine leaves 1 frames out of the window" in drive.on(2).says
    engine.max_frames = 99
    assert drive.on(2).says == ""


class WithoutDescriptors(PlanarEngine):
    """An engine that cannot say what a frame looks like, for now."""

    silent = True

    def describe(self, frame_id: int):
        """As `Engine.describe`."""
        return None if self.silent else super().describe(frame_id)


def test_keyframes_without_a_descriptor():
    engine = WithoutDescriptors()
    drive = Drive(engine).on(10)
    store = drive.pipeline.map.keyframes.store
    known = len(store)
    assert f"{known} of {known} keyframes have no descriptor" in drive.says
    engine.silent = False
    drive.on(5)
    assert f"{known} of {len(store)} keyframes have no descriptor" in drive.says


@pytest.fixture
def drive() -> Iterator[Drive]:
    yield Drive().on(10)


def test_a_keyframe_of_another_image_size(drive: Drive):
    store = drive.pipeline.map.keyframes.store
    key, known = drive.show(0), len(store)
    store.replace(key, image=compress(np.zeros((28, 28, 3), np.uint8)))
    said = drive.on().says
    assert f"1 of {known} keyframes could not be compared so far: keyframe {key} has" in said
    assert f"an image of 28x28, the window {WIDTH}x{HEIGHT}" in said
    drive.show(1)
    assert drive.on().says == ""


def test_a_keyframe_without_an_image(drive: Drive):
    key = drive.show(0)
    drive.pipeline.map.keyframes.store.replace(key, image=b"")
    assert f"keyframe {key} has no image" in drive.on().says
