# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The streaming engine against the full forward pass of the same window, whatever came before."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from vggt_ros.device import choose_device, choose_dtype, keep_compiled
from vggt_ros.errors import UserError
from vggt_ros.infer import Engine, query_room
from vggt_ros.look import Compiling
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import abstract_model
from vggt_ros.model.weights import read
from vggt_ros.programs import HEADS, Encode, See

GOLDEN = Path(__file__).parent / "golden"
SIZE = (56, 56)
# Rounding of other batch sizes, over the depths of the reference's own float32 noise
# (golden/tolerance.json: pose 1e-5, depth and confidence 7e-5; tracks after four iterations 5e-3).
POSE, DENSE, TRACK = 1e-5, 7e-5, 5e-3


@pytest.fixture(scope="module")
def golden():
    config = Config.from_dict(json.loads((GOLDEN / "config.json").read_text())["config"])
    tensors = {}
    for file in sorted(GOLDEN.glob("weights_*.safetensors")):
        tensors |= load_file(file)
    weights, _ = read(config, tensors, HEADS)
    graph = nnx.split(abstract_model(config, HEADS))[0]

    @jax.jit
    def full(images, queries):
        frames = images[None].astype(jnp.float32) / 255
        return nnx.merge(graph, weights)(frames, queries[None])

    return config, weights, full


@pytest.fixture(scope="module")
def engine(golden):
    config, weights, _ = golden
    return Engine(
        "golden", config, weights, device=jax.devices()[0], dtype=np.dtype("float32"),
        default_width=56, random=False,
    )  # fmt: skip


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    base = random.integers(0, 255, (8, 8, 3))
    smooth = np.kron(base, np.ones((7, 7, 1))).astype(np.uint8)
    return [np.roll(smooth, 3 * i, axis=1) // (1 + i % 2) for i in range(count)]


QUERIES = np.array([[10, 12], [40, 33], [55, 0]], np.float32)


def compare(found, window, full, depth_frames):
    out = full(np.stack(window), QUERIES)
    np.testing.assert_allclose(found.pose_encoding, out.pose_encoding[0], atol=POSE)
    np.testing.assert_allclose(found.depth, out.depth[0, -depth_frames:], atol=DENSE)
    np.testing.assert_allclose(
        found.confidence, out.depth_confidence[0, -depth_frames:], atol=DENSE
    )
    if found.tracks is not None:
        np.testing.assert_allclose(found.tracks, out.tracks[0], atol=TRACK)
        np.testing.assert_allclose(found.visibility, out.visibility[0], atol=2e-2)


def test_a_sliding_window_says_what_the_full_pass_says(engine, golden):
    """Filling from one frame to three, sliding, with a jump, a reset, and tracks in between."""
    images = pictures(9)
    engine.reset()
    windows = [(0,), (0, 1, 2), (1, 2, 3), (3, 6, 7), (0, 1, 2), (6, 7, 8)]
    for i, ids in enumerate(windows):
        if i == 4:
            engine.reset()
        window = [images[key] for key in ids]
        tracked = i in (2, 5)
        k = 2 if tracked else 1
        found = engine.look(ids, window, depth_frames=k, queries=QUERIES if tracked else None)
        assert (found.tracks is not None) == tracked
        compare(found, window, golden[2], k)


def test_a_frame_is_encoded_once(engine):
    """The second time its picture is not even read: what was computed of it is remembered."""
    images = pictures(3)
    engine.reset()
    first = engine.look((0, 1, 2), images, depth_frames=1)
    black = [np.zeros_like(image) for image in images]
    np.testing.assert_array_equal(engine.look((0, 1, 2), black, depth_frames=1).depth, first.depth)


def test_a_guest_comes_and_goes_and_the_others_are_remembered(engine, golden):
    """A second camera's picture in one look: no frame of the window is read again for it."""
    images = pictures(5)
    engine.reset()
    engine.look((0, 1, 2, 3), images[:4], depth_frames=2)  # room for a window of three, and one
    engine.look((1, 2, 3), images[1:4], depth_frames=2)
    black = np.zeros_like(images[0])
    found = engine.look((1, ~3, 2, 3), [black, images[0], black, black], depth_frames=2)
    compare(found, [images[i] for i in (1, 0, 2, 3)], golden[2], 2)
    found = engine.look((2, 3, 4), [black, black, images[4]], depth_frames=2)
    compare(found, images[2:5], golden[2], 2)


def test_another_picture_size_forgets_and_goes_on(engine, golden):
    engine.reset()
    images = pictures(1)
    engine.look((0,), images, depth_frames=1)
    narrow = [image[:42] for image in images]
    found = engine.look((0,), narrow, depth_frames=1)
    compare(found, narrow, golden[2], 1)


def test_queries_are_padded_and_unpadded(engine):
    engine.reset()
    images = pictures(3)
    found = engine.look((0, 1, 2), images, depth_frames=2, queries=QUERIES)
    fewer = engine.look((0, 1, 2), images, depth_frames=2, queries=QUERIES[:2])
    assert found.tracks.shape == (3, 3, 2) and fewer.tracks.shape == (3, 2, 2)
    np.testing.assert_array_equal(found.tracks[0], QUERIES)


def test_in_the_background_smaller_windows_serve_while_a_longer_one_compiles(golden, engine):
    config, weights, _ = golden
    live = Engine(
        "golden", config, weights, device=jax.devices()[0], dtype=np.dtype("float32"),
        default_width=56, random=False, background=True,
    )  # fmt: skip
    images = pictures(2)
    with pytest.raises(Compiling):
        live.look((0, 1), images, depth_frames=1)
    live.warm(SIZE, [1, 2][:1], depth_frames=1)
    found = live.look((0, 1), images, depth_frames=1, queries=QUERIES)
    assert found.pose_encoding.shape == (1, 9) and found.tracks is None
    live.programs.stop()


def test_the_second_start_needs_no_tracing(golden, tmp_path, monkeypatch):
    """A traced program is kept beside the compiled one, and a damaged file is made anew."""
    from vggt_ros.programs import Programs

    config = golden[0]

    def programs():
        return Programs(config, np.dtype("float32"), jax.devices()[0], tmp_path)

    shape = Encode((28, 28), 1)
    programs().get(shape)
    (kept,) = tmp_path.glob("*.export")
    kept.write_bytes(kept.read_bytes()[:100])
    programs().get(shape)
    monkeypatch.setattr(Programs, "_traced", None)
    programs().get(shape)


def test_a_program_says_what_it_is_in_words():
    assert str(See((28, 42), 4, 3, 1, 16)) == "window of 3 42x28, 16 tracks"
    assert str(Encode((28, 42), 4)) == "encoder 42x28"


def test_queries_are_padded_to_few_sizes():
    assert [query_room(n) for n in (0, 1, 16, 17, 1024)] == [0, 16, 16, 64, 1024]
    with pytest.raises(UserError, match="at most 1024"):
        query_room(1025)


def test_the_device_has_run_a_kernel_before_it_is_trusted(monkeypatch):
    assert choose_device("auto").platform in ("cpu", "gpu", "tpu")
    with pytest.raises(UserError, match="device auto or cpu"):
        choose_device("abacus")
    monkeypatch.setattr(jax.lax, "conv", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="cannot run a kernel"):
        choose_device("cpu")


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
