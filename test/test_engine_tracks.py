# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs for tracks: when they are compiled, and what is tracked with an extra view."""

from contextlib import suppress

import jax
import numpy as np
import pytest
from engine_rig import (
    FULL,
    QUERIES,
    SIZE,
    TRACK,
    Gated,
    compare,
    gated_engines,
    golden,
    images_of,
    opened,
    until,
)

from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.extra_views import infer_with_extra_view
from vggt_ros.engine.interface import Compiling
from vggt_ros.engine.shapes import WindowProgram

pytestmark = pytest.mark.slow


@pytest.fixture
def gated():
    with gated_engines() as make:
        yield make


def test_tracks_are_compiled_from_the_start_after_all_that_runs_without_them(gated):
    live, gate = gated(background=True)
    gate.open.clear()
    given = {"depth_frames": 2, "extra_views": 1, "track_queries": len(QUERIES)}
    with pytest.raises(Compiling):
        live.prepare(SIZE, 3, **given)
    assert "not compiled yet" in live.obstacle(SIZE, 4, depth_frames=2, queries=3)
    gate.open.set()
    until(lambda: not live.compiling)
    live.prepare(SIZE, 3, **given)
    sizes = [(s.frames, s.queries) for s in gate.asked[1:]]
    assert sizes == [(1, 0), (3, 0), (4, 0), (2, 0), (3, 16), (4, 16)]
    assert {s.slots for s in gate.asked} == {4}
    assert live.obstacle(SIZE, 3, depth_frames=2, queries=3) == ""
    assert live.obstacle(SIZE, 4, depth_frames=2, queries=3) == ""


def test_a_network_without_a_track_head_serves_for_the_rest():
    heads = ("camera", "depth")
    device, number = jax.devices()[0], np.dtype("float32")
    gate = Gated(Compiler(golden()[0], number, device, None, heads=heads))
    engine = opened(gate, background=True, heads=heads)
    with suppress(Compiling):
        engine.prepare(SIZE, 2, depth_frames=2, track_queries=3)
    until(lambda: not engine.compiling)
    assert [(s.frames, s.queries) for s in gate.asked[1:]] == [(1, 0), (2, 0)]
    images = images_of(2)
    found = engine.infer((0, 1), images, depth_frames=2, queries=QUERIES)
    assert found.tracks is None and not engine.compiling
    compare(found, images, 2)
    reason = engine.obstacle(SIZE, 2, depth_frames=2, queries=3)
    assert reason == "the weights of golden have no track head"
    engine.warm(SIZE, [1, 2], depth_frames=2, queries=(0, 3))
    assert not any(shape.queries for shape in gate.asked[1:])
    assert engine.close(60.0)


def test_tracks_that_a_client_waits_for_go_before_what_is_not_needed_to_run(gated):
    """And none are compiled for windows that only fill."""
    live, gate = gated(background=True)
    gate.open.clear()
    gate.free = 3  # the encoder, a window of one, and the full window
    given = {"depth_frames": 2, "extra_views": 1, "track_queries": len(QUERIES)}
    with suppress(Compiling):  # unless the first three were quick
        live.prepare(SIZE, 3, **given)
    until(lambda: len(gate.asked) == 4)
    live.prepare(SIZE, 3, **given)
    images = images_of(2)
    live.infer((0, 1), images, depth_frames=2, queries=QUERIES, query_frame=1)
    assert "window of 4 56x56, 16 tracks" in live.obstacle(SIZE, 4, depth_frames=2, queries=3)
    gate.open.set()
    until(lambda: not live.compiling)
    sizes = [(s.frames, s.queries) for s in gate.asked[1:]]
    assert sizes == [(1, 0), (3, 0), (4, 0), (4, 16), (2, 0), (3, 16)]


def test_a_frame_that_left_the_window_is_tracked_exactly_as_a_view_beside_it(gated):
    live, _ = gated(background=False)
    images = images_of(6)
    live.infer((2, 3, 4), images[2:5], depth_frames=2)
    found, _ = infer_with_extra_view(
        live, (3, 4, 5), images[3:], images[0], depth_frames=2, max_depth_frames=2,
        queries=QUERIES, query_frame=None,
    )  # fmt: skip
    full = golden()[2](np.stack([images[i] for i in (3, 0, 4, 5)]), QUERIES, 1)
    assert found.tracks is not None
    np.testing.assert_allclose(found.tracks, full.tracks[0, [0, 2, 3]], atol=TRACK)
    np.testing.assert_allclose(found.visibility, full.visibility[0, [0, 2, 3]], atol=2e-2)


@pytest.mark.parametrize("when", ["broken", "broken_when_run"])
def test_tracks_that_do_not_fit_have_a_reason(gated, when):
    live, gate = gated(background=True)
    getattr(gate, when)[WindowProgram(SIZE, 4, 3, 2, 16)] = FULL
    given = {"depth_frames": 2, "track_queries": 3}
    with suppress(Compiling):  # kept programs may be there by then
        live.prepare(SIZE, 3, **given)
    until(lambda: not live.compiling)
    images = images_of(3)
    found = live.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES)
    compare(found, images, 2)
    assert found.tracks is None and "16 tracks" in found.notice
    for frames in (3, 4):
        reason = live.obstacle(SIZE, frames, depth_frames=2, queries=3)
        assert "no room for window of 3 56x56, 16 tracks" in reason
        assert "lower window_size" in reason
