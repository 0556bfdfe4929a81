# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Instants of a rig on the exact engine: what is taken, shown, tracked and refused."""

import numpy as np
import pytest
from fakes.planar_engine import SIZE, PlanarEngine

from vggt_ros.engine.interface import window_lengths
from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Frame, Instant, Observation, Update, WindowFrame, window_frames
from vggt_ros.imaging.grid import grid_for
from vggt_ros.imaging.masks import Masking
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.windows.held import HeldFrames
from vggt_ros.windows.results import BESIDE, ONE_CAMERA, views_of

MASKING = Masking()
START, PERIOD = 1_700_000_000_123_456_789, 100_000_000


def seen(name: str, i: int, *, size=(48, 64), ns: int | None = None) -> Observation:
    """Instant i of a camera, which stamps its images by its own clock."""
    stamp = START + i * PERIOD + 1_000_001 * ord(name[0]) if ns is None else ns
    rgb = np.full((*size, 3), i % 251, np.uint8)
    return Observation(Frame(rgb, stamp, f"{name}_optical", camera_name=name))


def instant(i: int, *names: str) -> Instant:
    return Instant(tuple(seen(name, i) for name in names))


def rig(engine=None, names=("a", "b"), **settings) -> Pipeline:
    return Pipeline(engine or PlanarEngine(), Settings(loops=False, **settings), cameras=names)


def step(pipeline: Pipeline, taken: Instant) -> Update:
    update = pipeline.step(taken)
    assert update is not None
    return update


def test_a_window_is_time_major_in_the_order_of_the_cameras():
    """Whatever order they come in; each keeps its own stamp, bit for bit."""
    pipeline = rig(window_size=3)
    for i in range(5):
        update = step(pipeline, instant(i, "b", "a") if i % 2 else instant(i, "a", "b"))
    assert [view.camera_name for view in update.views] == ["a", "b"] * 3
    assert [view.camera for view in update.views] == ["a_optical", "b_optical"] * 3
    assert [view.stamp_ns for view in update.views] == [
        START + i * PERIOD + 1_000_001 * ord(name) for i in (2, 3, 4) for name in "ab"
    ]
    assert update.fresh == 2 and update.stamp_ns == update.views[4].stamp_ns
    assert [view.instant for view in update.newest_views] == [update.views[4].frame_id] * 2


def test_an_instant_of_one_camera_is_the_frame_alone():
    """The numbers are the same bit for bit, with and without the record around it."""
    plain, wrapped = (Pipeline(PlanarEngine(vary_scale=True)) for _ in range(2))
    for i in range(6):
        one = Observation(seen("a", i).frame._replace(camera_name=""))
        updates = plain.step(one), wrapped.step(Instant((one,)))
        assert updates[0] is not None and updates[1] is not None
        for x, y in zip(updates[0].views, updates[1].views, strict=True):
            np.testing.assert_array_equal(x.world_from_camera, y.world_from_camera)
            np.testing.assert_array_equal(x.depth, y.depth)
        assert updates[1].rig is None


def test_windows_have_as_many_frames_as_programs_are_compiled_for():
    """Cameras come and go: few lengths, and all of the newest instant is always shown."""
    engine, names = PlanarEngine(), ("a", "b", "c")
    pipeline, random = rig(engine, names), np.random.default_rng(0)
    for i in range(60):
        there = [name for name in names if random.random() < 0.7] or ["b"]
        update = step(pipeline, instant(i, *there))
        assert [view.camera_name for view in update.newest_views] == there
    lengths = {len(ids) for ids in engine.inferences}
    assert lengths <= set(window_lengths(range(1, 5), 3)) == {1, 2, 3, 4, 6, 8, 9, 12}


def test_what_is_left_out_is_of_the_oldest_instants():
    """Their last cameras, then an instant of which the first is alone."""

    def shown(*counts: int) -> list[int]:
        held, pipeline = HeldFrames(), rig(names=("a", "b", "c"))
        firsts = [sum(counts[:i]) for i in range(len(counts))]
        for first, count in zip(firsts, counts, strict=True):
            update = step(pipeline, instant(first, *"abc"[:count]))
            held.add(first, window_frames([seen("a", 0)], [update.views[0].grid], MASKING) * count)
        assert held.of(firsts) == tuple(range(sum(counts)))
        assert [held.instant(first + counts[i] - 1) for i, first in enumerate(firsts)] == firsts
        ids = held.shown(firsts, window_lengths(range(1, 5), 3))
        return [sum(key in ids for key in held.of([first])) for first in firsts]

    assert shown(3, 3, 3, 3) == [3, 3, 3, 3] and shown(2, 2, 2, 2) == [2, 2, 2, 2]
    assert shown(3, 3, 2, 2) == [2, 3, 2, 2] and shown(3, 3, 3, 2) == [1, 3, 3, 2]
    assert shown(1, 1, 3) == [0, 1, 3] and shown(1, 3, 3, 3) == [0, 3, 3, 3]


def test_a_device_with_too_little_memory_leaves_whole_instants():
    """The engine left out a leader: its follower goes as well."""
    pipeline = rig(PlanarEngine(max_frames=3), window_size=3)
    for i in range(4):
        update = step(pipeline, instant(i, "a", "b"))
    assert [view.camera_name for view in update.views] == ["a", "b"] and update.missing == 4


def test_images_of_several_sizes_come_to_one_grid_with_the_right_k():
    pipeline = rig()
    k = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])
    wide, tall = seen("a", 0), seen("b", 0, size=(90, 60))
    pair = [each._replace(frame=each.frame._replace(intrinsics=k)) for each in (wide, tall)]
    update = step(pipeline, Instant(tuple(pair)))
    assert {view.rgb.shape for view in update.views} == {(*SIZE, 3)}
    for view in update.views:
        np.testing.assert_allclose(view.intrinsics, view.grid.network_from_input @ k)
    assert np.isnan(update.views[1].masked_depth(1.0)[:, 0]).all()  # beside the portrait: nothing
    assert np.isfinite(update.views[0].masked_depth(1.0)).all()


def test_a_camera_that_changes_its_size_goes_on_in_the_same_map():
    pipeline = rig()
    step(pipeline, instant(0, "a", "b"))
    update = step(pipeline, Instant((seen("a", 1), seen("b", 1, size=(24, 32)))))
    assert len(update.views) == 4
    (notice,) = pipeline.notices
    assert notice == (
        "camera b: image size changed from 64x48 to 32x24: it is fitted to the rig's grid"
    )


def test_a_stamp_that_repeats_costs_that_camera_only():
    pipeline = rig()
    step(pipeline, instant(0, "a", "b"))
    again = seen("b", 0)
    update = step(pipeline, Instant((seen("a", 1), again)))
    assert [view.camera_name for view in update.newest_views] == ["a"]
    ((name, text),) = pipeline.cameras.refused
    assert name == "b" and "stamp repeats" in text
    with pytest.raises(FrameError, match="camera b: the image's stamp repeats"):
        pipeline.step(Instant((again,)))


def test_a_camera_that_was_dead_is_taken_again_at_once():
    """Its stamps jump by ten seconds, but another camera says that this is the time."""
    pipeline = rig()
    step(pipeline, instant(0, "a", "b"))
    for i in range(1, 100):
        step(pipeline, instant(i, "a"))
    assert len(step(pipeline, instant(100, "a", "b")).newest_views) == 2
    assert not pipeline.cameras.refused and not pipeline.notices
    with pytest.raises(FrameError, match="camera b: the image's stamp jumps ahead"):
        pipeline.step(instant(5000, "b", "a"))  # both at once: a clock, or another recording


def test_equal_stamps_of_two_cameras_are_the_usual_case():
    pipeline = rig()
    for i in range(3):
        ns = START + i * PERIOD
        update = step(pipeline, Instant((seen("a", i, ns=ns), seen("b", i, ns=ns))))
    assert len(update.views) == 6 and not pipeline.cameras.refused


@pytest.mark.parametrize(
    "names, told",
    [
        (("a", "x"), "camera 'x' is none of the rig's, which are a, b"),
        (("a", "a"), "two frames of one camera"),
        ((), "an instant has no frame"),
    ],
)
def test_an_instant_that_is_not_the_rigs_is_refused(names, told):
    with pytest.raises(UserError, match=told):
        rig().step(instant(0, *names))


def test_names_must_differ():
    with pytest.raises(UserError, match="each needs a name of its own"):
        rig(names=("a", "a"))


def test_points_are_tracked_from_the_camera_they_were_chosen_in_into_all():
    engine = PlanarEngine()
    pipeline = rig(engine, window_size=3)
    step(pipeline, instant(0, "a", "b"))
    pipeline.query(np.uint32([7]), np.float32([[10.0, 10.0]]), camera="b_optical")
    for i in range(1, 8):
        tracks = step(pipeline, instant(i, "a", "b")).tracks
        assert tracks is not None
        assert tracks.cameras == ("a_optical", "b_optical") * (len(tracks.uv) // 2)
        pinned = engine.inferences[-1][engine.queries[-1][1]]
        assert pinned % 2 == 1  # always in an image of camera b
    with pytest.raises(UserError, match="frame_id 'x' is none of the cameras"):
        pipeline.query(np.uint32([7]), np.float32([[10.0, 10.0]]), camera="x")


def test_points_of_a_dead_camera_wait_in_its_last_image():
    """They go on in the other cameras, pinned in the image that is kept beside the window."""
    engine = PlanarEngine()
    pipeline = rig(engine, window_size=2)
    step(pipeline, instant(0, "a", "b"))
    pipeline.query(np.uint32([7]), np.float32([[10.0, 10.0]]), camera="b_optical")
    step(pipeline, instant(1, "a", "b"))
    for i in range(2, 6):
        update = step(pipeline, instant(i, "a"))
        assert update.tracks is not None, i
    assert set(update.tracks.cameras) == {"a_optical"}
    assert engine.inferences[-1][engine.queries[-1][1]] < 0


# ---- layout view_time ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instants, views, why",
    [
        ("ab ab", 2, ""), ("abc abc", 3, ""), ("abc", 3, ""), ("a a a", 1, ""), ("a", 1, ""),
        ("abc ab", 0, "2 instants have 1 of c"),
        ("ab a ab a", 0, "4 instants have 2 of b"),
        ("ab a c", 0, "3 instants have 2 of a and 1 of b and 1 of c"),
        ("a b a b", 0, "4 instants have 2 of a and 2 of b"),  # of no moment both
    ],
)  # fmt: skip
def test_instants_of_other_cameras_are_one_sequence(instants: str, views: int, why: str):
    shown = [
        WindowFrame(seen(name, i).frame, grid_for(64, 48, 56), np.zeros((42, 56, 3), np.uint8))
        for i, names in enumerate(instants.split())
        for name in names
    ]
    numbers = [i for i, names in enumerate(instants.split()) for _ in names]
    shown = [x._replace(instant=i) for x, i in zip(shown, numbers, strict=True)]
    assert views_of(shown, is_rig=True, beside=False) == (views, why)
    assert views_of(shown, is_rig=True, beside=True) == (0, BESIDE)
    assert views_of(shown, is_rig=False, beside=False) == (0, ONE_CAMERA)


class ByViews(PlanarEngine):
    """Records by how many views it is asked to attend."""

    layout = "view_time"

    def infer(self, frame_ids, images, *, views=0, **options):
        self.views = [*getattr(self, "views", []), views]
        return super().infer(frame_ids, images, **options)


def test_a_window_that_is_not_attended_by_views_says_why():
    engine = ByViews()
    pipeline = rig(engine, window_size=3)
    there = ("ab", "ab", "ab", "a", "ab", "ab", "ab", "b", "a", "b")
    why = [step(pipeline, instant(i, *names)).as_sequence for i, names in enumerate(there)]
    # No window has five frames: its oldest instant is shown without a camera, or not at all.
    lacks, both = "3 instants have 1 of b", "3 instants have 2 of a and 2 of b"
    alternating = "3 instants have 2 of b and 1 of a"
    assert why == ["", "", "", lacks, lacks, "", "", both, both, alternating]
    assert [views == 0 for views in engine.views] == [bool(text) for text in why]


def test_windows_of_one_camera_and_of_other_layouts():
    one = Pipeline(ByViews(), Settings(loops=False))
    assert step(one, instant(0, "a")).as_sequence == ONE_CAMERA
    assert step(rig(), instant(0, "a")).as_sequence == ""


def test_a_window_with_a_frame_beside_it_is_one_sequence():
    """The points were chosen in a frame that has left the window."""
    engine = ByViews()
    pipeline = rig(engine, window_size=2)
    for i in range(3):
        update = step(pipeline, instant(i, "a", "b"))
    first = seen("a", 0).frame
    ids, pixels = np.array([7], np.uint32), np.array([[20.0, 20.0]], np.float32)
    pipeline.query(ids, pixels, first.stamp_ns, first.camera)
    update = step(pipeline, instant(3, "a", "b"))
    assert update.tracks is not None and update.as_sequence == BESIDE and engine.views[-1] == 0
