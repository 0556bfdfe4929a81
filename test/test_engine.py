# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The streaming engine against the full forward pass of the same window."""

import jax
import numpy as np
import pytest
from engine_rig import QUERIES, SIZE, compare, compiled, golden, images_of, opened

from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.engine import Engine
from vggt_ros.engine.shapes import EncoderProgram, WindowProgram

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    return opened(compiled())


def test_a_sliding_window_equals_the_full_pass(engine):
    """Filling from one frame to three, sliding, with a jump, a reset, and tracks in between."""
    images = images_of(9)
    engine.reset()
    windows = [(0,), (0, 1, 2), (1, 2, 3), (3, 6, 7), (0, 1, 2), (6, 7, 8)]
    for i, ids in enumerate(windows):
        if i == 4:
            engine.reset()
        window = [images[key] for key in ids]
        tracked = i in (2, 5)
        k = 2 if tracked else 1
        found = engine.infer(ids, window, depth_frames=k, queries=QUERIES if tracked else None)
        assert (found.tracks is not None) == tracked
        compare(found, window, k)


def test_unrolled_layers_give_the_same_results(monkeypatch, tmp_path):
    """As programs for an accelerator have them; kept and loaded like the others."""
    monkeypatch.setattr("vggt_ros.engine.compiler.unrolls_layers", lambda device: True)
    images = images_of(3)
    for start in range(2):
        if start == 1:  # nothing may be traced again
            monkeypatch.setattr(Compiler, "trace", None)
        engine = Engine(
            "golden", golden()[0], golden()[1], device=jax.devices()[0], dtype=np.dtype("float32"),
            default_width=56, random=False, cache_dir=tmp_path,
        )  # fmt: skip
        compare(engine.infer((0, 1, 2), images, depth_frames=1), images, 1)
        compare(engine.infer((0, 1, 2), images, depth_frames=1, queries=QUERIES), images, 1)


def test_unrolled_layers_leave_no_loop():
    def loops(unrolled: bool) -> int:
        compiler = Compiler(
            golden()[0], np.dtype("float32"), jax.devices()[0], None, unrolled=unrolled
        )
        function, arguments = compiler.trace(WindowProgram(SIZE, 3, 3, 1, 0))
        return jax.jit(function).lower(*arguments).as_text().count("stablehlo.while")

    # One stack of the golden network is deeper than one layer; the camera's iterations stay.
    assert loops(unrolled=True) == loops(unrolled=False) - 1


def test_a_frame_is_encoded_once(engine):
    """The second time its image is not even read: its tokens are cached."""
    images = images_of(3)
    engine.reset()
    first = engine.infer((0, 1, 2), images, depth_frames=1)
    black = [np.zeros_like(image) for image in images]
    np.testing.assert_array_equal(engine.infer((0, 1, 2), black, depth_frames=1).depth, first.depth)


def test_an_extra_view_comes_and_goes_and_the_others_stay_cached(engine):
    """A second camera's image in one inference: no frame of the window is read again for it."""
    images = images_of(5)
    engine.reset()
    engine.infer((0, 1, 2, 3), images[:4], depth_frames=2)  # room for a window of three, and one
    engine.infer((1, 2, 3), images[1:4], depth_frames=2)
    black = np.zeros_like(images[0])
    found = engine.infer((1, ~3, 2, 3), [black, images[0], black, black], depth_frames=2)
    compare(found, [images[i] for i in (1, 0, 2, 3)], 2)
    found = engine.infer((2, 3, 4), [black, black, images[4]], depth_frames=2)
    compare(found, images[2:5], 2)


def test_another_image_size_forgets_and_goes_on(engine):
    engine.reset()
    images = images_of(1)
    engine.infer((0,), images, depth_frames=1)
    narrow = [image[:42] for image in images]
    found = engine.infer((0,), narrow, depth_frames=1)
    compare(found, narrow, 1)


def test_queries_are_padded_and_unpadded(engine):
    engine.reset()
    images = images_of(3)
    found = engine.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES)
    fewer = engine.infer((0, 1, 2), images, depth_frames=2, queries=QUERIES[:2])
    assert found.tracks.shape == (3, 3, 2) and fewer.tracks.shape == (3, 2, 2)
    np.testing.assert_array_equal(found.tracks[0], QUERIES)


def test_the_images_of_an_instant_are_encoded_at_once():
    """Three cameras: a window that slides by an instant equals the full pass, dead cameras too."""
    encoders = []

    def compile(shape):
        program = compiled()(shape)

        def run(*inputs):
            encoders.append(shape.frames if isinstance(shape, EncoderProgram) else 0)
            return program(*inputs)

        return run

    engine, images = opened(compile), images_of(9)
    engine.selection.cameras = 3
    for ids, at_once in (
        ((0, 1, 2), [3]),
        ((2, 3, 4), [1, 1]),  # one camera is dead
        ((5, 6, 7), [3]),
    ):
        encoders.clear()
        window = [images[key] for key in ids]
        compare(engine.infer(ids, window, depth_frames=1), window, 1)
        assert [count for count in encoders if count] == at_once
