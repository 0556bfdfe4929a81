# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Shapes, devices and kept programs, as the engine uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rig import SIZE, golden

from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled
from vggt_ros.engine.shapes import EncoderProgram, WindowProgram, for_tracks, needed, padded_queries
from vggt_ros.errors import UserError


@pytest.mark.slow
def test_the_second_start_needs_no_tracing(tmp_path, monkeypatch):
    """A traced program is kept beside the compiled one, and a damaged file is written again."""

    def compiler():
        return Compiler(golden()[0], np.dtype("float32"), jax.devices()[0], tmp_path)

    shape = EncoderProgram((28, 28), 1)
    compiler()(shape)
    (kept,) = tmp_path.glob("*.export")
    kept.write_bytes(kept.read_bytes()[:100])
    compiler()(shape)
    monkeypatch.setattr(Compiler, "trace", None)
    compiler()(shape)


def test_a_program_has_a_readable_name():
    assert str(WindowProgram((28, 42), 4, 3, 1, 16)) == "window of 3 42x28, 16 tracks"
    assert str(EncoderProgram((28, 42), 4)) == "encoder 42x28"


def test_needed_programs_are_in_the_order_of_their_use():
    shapes = needed(SIZE, range(1, 5), depth_frames=2, queries={0, 20}, extra_views=1)
    assert shapes[0] == EncoderProgram(SIZE, 5)
    assert all(shape.slots == 5 for shape in shapes)
    windows = [shape for shape in shapes[1:] if isinstance(shape, WindowProgram)]
    assert [(s.frames, s.depth_frames, s.queries) for s in windows] == [
        (1, 1, 0), (4, 2, 0), (5, 2, 0), (3, 2, 0), (2, 2, 0),
        (1, 1, 64), (4, 2, 64), (3, 2, 64), (2, 2, 64),
    ]  # fmt: skip


def test_programs_for_tracks_are_of_full_windows_and_one_view_more():
    shapes = for_tracks(SIZE, 4, depth_frames=2, queries=20)
    assert [(s.slots, s.frames, s.depth_frames, s.queries) for s in shapes] == [
        (5, 4, 2, 64), (5, 5, 2, 64),
    ]  # fmt: skip
    assert for_tracks(SIZE, 4, depth_frames=2, queries=0) == []


def test_queries_are_padded_to_few_sizes():
    assert [padded_queries(n) for n in (0, 1, 16, 17, 1024)] == [0, 16, 16, 64, 1024]
    with pytest.raises(UserError, match="at most 1024"):
        padded_queries(1025)


def test_the_device_has_run_a_kernel_before_it_is_used(monkeypatch):
    assert choose_device("auto").platform in ("cpu", "gpu", "tpu")
    with pytest.raises(UserError, match="device auto or cpu"):
        choose_device("abacus")
    monkeypatch.setattr(jax.lax, "conv", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="cannot run a kernel"):
        choose_device("cpu")


def test_platforms_of_which_none_is_here_are_named(monkeypatch):
    def no_backend_is_left(*_):
        raise AssertionError

    monkeypatch.setattr(jax, "devices", no_backend_is_left)  # as with JAX_PLATFORMS=cuda
    with pytest.raises(UserError, match="JAX_PLATFORMS allows .* and none is here.*leave JAX_PLAT"):
        choose_device()


def test_dtype_follows_the_device():
    cpu = jax.devices("cpu")[0]
    assert choose_dtype("auto", cpu) == np.float32
    assert choose_dtype("bfloat16", cpu) == jnp.bfloat16
    with pytest.raises(UserError, match="float16"):
        choose_dtype("float16", cpu)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cache_dir"):
        keep_compiled(blocked / "cache")


def test_programs_of_a_rig_are_finite_and_its_first_instant_comes_first():
    """Whole instants, with a keyframe beside them, then fewer cameras; no other is compiled."""
    shapes = needed(SIZE, range(1, 5), depth_frames=3, extra_views=1, cameras=3)
    assert shapes[0] == EncoderProgram(SIZE, 13) and shapes[3] == EncoderProgram(SIZE, 13, 3)
    windows = [shape for shape in shapes if isinstance(shape, WindowProgram)]
    assert [w.frames for w in windows] == [3, 12, 13, 9, 6, 8, 4, 2, 1, 5]
    assert [w.depth_frames for w in windows] == [3, 9, 9, 9, 6, 8, 4, 2, 1, 5]
    assert str(shapes[3]) == "encoder of 3 56x56"
    tracks = for_tracks(SIZE, 4, depth_frames=3, queries=20, cameras=3)
    assert [(w.frames, w.depth_frames) for w in tracks] == [(12, 9), (13, 9)]
