# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine while programs are compiled, and when one does not fit or fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rig import (
    FULL,
    QUERIES,
    SIZE,
    compare,
    gated_engines,
    golden,
    images_of,
    until,
)
from jax.errors import JaxRuntimeError

from vggt_ros.engine.device import readable_faults
from vggt_ros.engine.engine import Engine
from vggt_ros.engine.interface import Compiling, DeviceLost, OutOfMemory
from vggt_ros.engine.shapes import EncoderProgram, WindowProgram, needed

pytestmark = pytest.mark.slow


@pytest.fixture
def gated():
    with gated_engines() as make:
        yield make


def test_one_frame_is_used_while_the_full_window_is_compiled(gated):
    live, gate = gated(background=True)
    images = images_of(3)
    gate.open.clear()
    gate.free = 2  # the encoder, and a window of one
    with pytest.raises(Compiling, match="56x56"):
        live.prepare(SIZE, 3, depth_frames=2)
    until(lambda: live.programs.if_ready(WindowProgram(SIZE, 4, 1, 1, 0)))
    until(lambda: len(gate.asked) == 3)
    live.prepare(SIZE, 3, depth_frames=2)
    found = live.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES, query_frame=2)
    assert found.tracks is None
    compare(found, images[2:], 1)
    assert live.compiling[0] == "window of 3 56x56"
    gate.open.set()
    until(lambda: not live.compiling)
    sizes = [(s.frames, s.queries) for s in gate.asked[1:]]
    assert sizes == [(1, 0), (3, 0), (2, 0)], "what runs without tracks goes first"
    compare(live.infer((0, 1, 2), images, depth_frames=2), images, 2)
    found = live.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES)
    compare(found, images, 2)
    assert found.tracks is None
    until(lambda: not live.compiling)
    found = live.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES)
    compare(found, images, 2)
    assert found.tracks is not None


def test_another_size_is_compiled_before_the_rest_of_the_first(gated):
    live, gate = gated(background=True)
    gate.open.clear()
    for size in (SIZE, (42, 56)):
        for _ in range(2):
            with pytest.raises(Compiling):
                live.prepare(size, 3, depth_frames=1)
        until(lambda: gate.asked)
    assert live.compiling == (
        "encoder 56x56",
        "encoder 56x42", "window of 1 56x42",
        "window of 1 56x56", "window of 3 56x56", "window of 2 56x56",
        "window of 3 56x42", "window of 2 56x42",
    )  # fmt: skip
    assert not live.close(0.0), "the compiler is busy"
    assert live.compiling == ("encoder 56x56",), "and starts nothing more"


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("when", ["broken", "broken_when_run"])
def test_a_window_that_does_not_fit_into_memory_is_replaced_by_the_next_smaller(
    gated, when, background
):
    live, gate = gated(background=background)
    getattr(gate, when)[WindowProgram(SIZE, 3, 3, 2, 0)] = FULL
    images = images_of(4)
    live.warm(SIZE, [1, 2], depth_frames=2)
    shapes = [s._replace(slots=3) for s in needed(SIZE, [1, 2, 3], depth_frames=2)]
    if background:
        live.programs.request(shapes)
        until(lambda: not live.compiling)
    found = live.infer((0, 1, 2), images[:3], depth_frames=2)
    compare(found, images[1:3], 2)
    notice = found.notice
    assert "out of memory" in notice and "window of 3 56x56 in float32" in notice
    assert "lower window_size or network_width, or set dtype to bfloat16" in notice
    assert "a window of 2 56x56 is used" in notice
    asked = len(gate.asked)
    found = live.infer((1, 2, 3), images[1:], depth_frames=2)
    compare(found, images[2:], 2)
    assert not found.notice and len(gate.asked) == asked, "it is not tried again, and reported once"


def test_tracks_that_do_not_fit_are_left_out(gated):
    live, gate = gated(background=False)
    gate.broken_when_run[WindowProgram(SIZE, 2, 2, 1, 16)] = FULL
    images = images_of(2)
    found = live.infer((0, 1), images, depth_frames=1, queries=QUERIES)
    assert found.tracks is None and "2 56x56, 16 tracks" in found.notice
    compare(found, images, 1)


def test_memory_that_is_free_again_is_used(gated):
    """One frame is the least, so it is tried every time."""
    live, gate = gated(background=False)
    one = WindowProgram(SIZE, 1, 1, 1, 0)
    gate.broken_when_run[one] = FULL
    images = images_of(1)
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="window of 1 56x56 in float32; lower window_size"):
            live.infer((0,), images, depth_frames=1)
    del gate.broken_when_run[one]
    compare(live.infer((0,), images, depth_frames=1), images, 1)


def test_frames_are_read_again_after_an_encoder_that_failed(gated):
    """It had been given the cache; the whole window is encoded again."""
    live, gate = gated(background=False)
    images = images_of(3)
    live.infer((0, 1), images[:2], depth_frames=1)
    live.infer((0, 1, 2), images, depth_frames=1)
    for array in live.frame_cache.arrays:  # what donating does
        array.delete()
    gate.broken_when_run[EncoderProgram(SIZE, 3)] = FULL
    with pytest.raises(OutOfMemory, match="encoder 56x56"):
        live.infer((3, 1, 2), [images[0], *images[1:]], depth_frames=1)
    gate.broken_when_run.clear()
    compare(live.infer((1, 2), images[1:], depth_frames=1), images[1:], 1)


def test_any_other_error_of_the_runtime_means_a_lost_device(gated):
    live, gate = gated(background=False)
    gate.broken_when_run[WindowProgram(SIZE, 1, 1, 1, 0)] = (
        "INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS\nat 0x0"
    )
    with pytest.raises(DeviceLost, match="cpu failed at window of 1 .*ILLEGAL_ADDRESS; restart"):
        live.infer((0,), images_of(1), depth_frames=1)


def test_a_window_that_cannot_be_compiled_is_replaced_and_the_least_one_is_not(gated):
    live, gate = gated(background=False)
    images = images_of(2)
    gate.broken[WindowProgram(SIZE, 2, 2, 1, 0)] = "INTERNAL: no algorithm worked"
    found = live.infer((0, 1), images, depth_frames=1)
    assert "no algorithm worked" in found.notice and "a window of 1 56x56 is used" in found.notice
    compare(found, images[1:], 1)
    live, gate = gated(background=False)
    gate.broken[WindowProgram(SIZE, 1, 1, 1, 0)] = "INTERNAL: no algorithm worked"
    with pytest.raises(DeviceLost, match="no algorithm worked"):
        live.infer((0,), images[:1], depth_frames=1)


def test_the_runtime_s_own_error_of_too_much_memory_is_recognised():
    beyond = 2**55  # bytes; no processor can even address them
    with pytest.raises(OutOfMemory, match="no room for everything in bfloat16; lower window_size"):
        with readable_faults("everything", jax.devices("cpu")[0], np.dtype(jnp.bfloat16)):
            jnp.zeros(beyond, jnp.uint8).block_until_ready()


def test_weights_that_do_not_fit_are_named(monkeypatch):
    def full(*_):
        raise JaxRuntimeError(FULL)

    monkeypatch.setattr(jax, "device_put", full)
    with pytest.raises(OutOfMemory, match="no room for the weights of golden in float32"):
        Engine(
            "golden", *golden()[:2], device=jax.devices()[0], dtype=np.dtype("float32"),
            default_width=56, random=False,
        )  # fmt: skip
