# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The streaming engine against the full forward pass of the same window, whatever came before."""

import json
import time
from functools import cache
from pathlib import Path
from threading import Event

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.errors import JaxRuntimeError
from safetensors.numpy import load_file

from vggt_ros.engine.compiler import HEADS, Compiler
from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled, readable_faults
from vggt_ros.engine.engine import Engine
from vggt_ros.engine.interface import Compiling, DeviceLost, OutOfMemory
from vggt_ros.engine.programs import Programs
from vggt_ros.engine.shapes import Encode, See, needed, query_room
from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import abstract_model
from vggt_ros.model.weights import read

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
def compiled(golden):
    """Compiles each shape once for all tests."""
    return cache(Compiler(golden[0], np.dtype("float32"), jax.devices()[0], None))


def opened(golden, compiled, *, background=False) -> Engine:
    config, weights, _ = golden
    engine = Engine(
        "golden", config, weights, device=jax.devices()[0], dtype=np.dtype("float32"),
        default_width=56, random=False, background=background,
    )  # fmt: skip
    engine.programs = Programs(compiled)
    return engine


@pytest.fixture(scope="module")
def engine(golden, compiled):
    return opened(golden, compiled)


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


def test_layers_written_out_say_the_same(golden, monkeypatch, tmp_path):
    """As programs for an accelerator have them; kept and loaded like the others."""
    monkeypatch.setattr("vggt_ros.engine.compiler.writes_out", lambda device: True)
    images = pictures(3)
    for start in range(2):
        if start == 1:  # nothing may be traced again
            monkeypatch.setattr(Compiler, "_traced", None)
        engine = Engine(
            "golden", golden[0], golden[1], device=jax.devices()[0], dtype=np.dtype("float32"),
            default_width=56, random=False, cache_dir=tmp_path,
        )  # fmt: skip
        compare(engine.look((0, 1, 2), images, depth_frames=1), images, golden[2], 1)
        compare(
            engine.look((0, 1, 2), images, depth_frames=1, queries=QUERIES), images, golden[2], 1
        )


def test_no_loop_is_left_of_layers_written_out(golden):
    def loops(written_out: bool) -> int:
        compiler = Compiler(
            golden[0], np.dtype("float32"), jax.devices()[0], None, written_out=written_out
        )
        function, arguments = compiler._traced(See(SIZE, 3, 3, 1, 0))
        return jax.jit(function).lower(*arguments).as_text().count("stablehlo.while")

    # One stack of the golden network is deeper than one layer; the camera's iterations stay.
    assert loops(written_out=True) == loops(written_out=False) - 1


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


class Gated:
    """The engine's own compiler behind a gate: a shape is compiled once it was let through.

    Those in `broken` raise instead, and so do compiled programs of those in `broken_when_run`.
    """

    def __init__(self, compile):
        self.compile = compile
        self.asked: list = []
        self.open = Event()
        self.open.set()
        self.free = 0  # so many programs pass whether it is open or not
        self.broken: dict = {}
        self.broken_when_run: dict = {}

    def __call__(self, shape):
        self.asked.append(shape)
        assert len(self.asked) <= self.free or self.open.wait(60)
        if shape in self.broken:
            raise JaxRuntimeError(self.broken[shape])
        program = self.compile(shape)

        def run(*inputs):
            if shape in self.broken_when_run:
                raise JaxRuntimeError(self.broken_when_run[shape])
            return program(*inputs)

        return run


FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12345678 bytes."


@pytest.fixture
def gated(golden, compiled):
    """An engine whose compiler can be held up and broken, in the background or not."""

    def make(*, background):
        gate = Gated(compiled)
        engine = opened(golden, gate, background=background)
        made.append((engine, gate))
        return engine, gate

    made: list = []
    yield make
    for engine, gate in made:
        gate.open.set()
        assert engine.close(60.0)


def until(met):
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_one_frame_serves_while_the_full_window_is_compiled_and_the_rest_comes_last(gated, golden):
    live, gate = gated(background=True)
    images = pictures(3)
    gate.open.clear()
    gate.free = 2  # the encoder, and a window of one
    with pytest.raises(Compiling, match="56x56"):
        live.prepare(SIZE, 3, depth_frames=2)
    until(lambda: live.programs.held(See(SIZE, 3, 1, 1, 0)))
    until(lambda: len(gate.asked) == 3)
    live.prepare(SIZE, 3, depth_frames=2)
    found = live.look((0, 1, 2), images, depth_frames=2, queries=QUERIES, query_frame=2)
    assert found.tracks is None
    compare(found, images[2:], golden[2], 1)
    assert live.compiling[0] == "window of 3 56x56"
    gate.open.set()
    until(lambda: not live.compiling)
    tracks = See(SIZE, 3, 3, 2, 16)
    sizes = [(s.frames, s.queries) for s in gate.asked[1:]]
    assert sizes == [(1, 0), (3, 0), (3, 16), (2, 0)], "who waits for tracks goes first"
    compare(live.look((0, 1, 2), images, depth_frames=2), images, golden[2], 2)
    assert live.programs.held(tracks)
    assert live.look((0, 1, 2), images, depth_frames=2, queries=QUERIES).tracks is not None


def test_another_size_is_compiled_before_what_the_first_still_lacks(gated):
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
    assert live.compiling == ("encoder 56x56",), "and begins nothing more"


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("when", ["broken", "broken_when_run"])
def test_a_window_that_does_not_fit_into_memory_gives_way_to_the_next_smaller(
    gated, golden, when, background
):
    live, gate = gated(background=background)
    getattr(gate, when)[See(SIZE, 3, 3, 2, 0)] = FULL
    images = pictures(4)
    live.warm(SIZE, [1, 2], depth_frames=2)
    live._slots = 3
    shapes = needed(SIZE, [1, 2, 3], depth_frames=2)
    if background:
        live.programs.want(shapes)
        until(lambda: not live.compiling)
    found = live.look((0, 1, 2), images[:3], depth_frames=2)
    compare(found, images[1:3], golden[2], 2)
    said = found.notice
    assert "out of memory" in said and "window of 3 56x56 in float32" in said
    assert "lower window_size or network_width, or set dtype to bfloat16" in said
    assert "window of 2 56x56 serves" in said
    asked = len(gate.asked)
    found = live.look((1, 2, 3), images[1:], depth_frames=2)
    compare(found, images[2:], golden[2], 2)
    assert not found.notice and len(gate.asked) == asked, "it is remembered, and said once"


def test_tracks_that_do_not_fit_are_left_out(gated, golden):
    live, gate = gated(background=False)
    gate.broken_when_run[See(SIZE, 2, 2, 1, 16)] = FULL
    images = pictures(2)
    found = live.look((0, 1), images, depth_frames=1, queries=QUERIES)
    assert found.tracks is None and "2 56x56, 16 tracks" in found.notice
    compare(found, images, golden[2], 1)


def test_memory_that_is_free_again_is_used(gated, golden):
    """One frame is the least, so it is tried every time."""
    live, gate = gated(background=False)
    one = See(SIZE, 1, 1, 1, 0)
    gate.broken_when_run[one] = FULL
    images = pictures(1)
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="window of 1 56x56 in float32; lower window_size"):
            live.look((0,), images, depth_frames=1)
    del gate.broken_when_run[one]
    compare(live.look((0,), images, depth_frames=1), images, golden[2], 1)


def test_frames_are_read_again_after_an_encoder_that_failed(gated, golden):
    """It had been given the memory; the whole window is encoded anew."""
    live, gate = gated(background=False)
    images = pictures(3)
    live.look((0, 1), images[:2], depth_frames=1)
    live.look((0, 1, 2), images, depth_frames=1)
    for array in live._memory.arrays:  # what donating does
        array.delete()
    gate.broken_when_run[Encode(SIZE, 3)] = FULL
    with pytest.raises(OutOfMemory, match="encoder 56x56"):
        live.look((3, 1, 2), [images[0], *images[1:]], depth_frames=1)
    gate.broken_when_run.clear()
    compare(live.look((1, 2), images[1:], depth_frames=1), images[1:], golden[2], 1)


def test_any_other_error_of_the_runtime_means_a_lost_device(gated):
    live, gate = gated(background=False)
    gate.broken_when_run[See(SIZE, 1, 1, 1, 0)] = "INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS\nat 0x0"
    with pytest.raises(DeviceLost, match="cpu failed at window of 1 .*ILLEGAL_ADDRESS; start"):
        live.look((0,), pictures(1), depth_frames=1)


def test_a_window_that_cannot_be_compiled_gives_way_and_the_least_one_does_not(gated, golden):
    live, gate = gated(background=False)
    images = pictures(2)
    gate.broken[See(SIZE, 2, 2, 1, 0)] = "INTERNAL: no algorithm worked"
    found = live.look((0, 1), images, depth_frames=1)
    assert "no algorithm worked" in found.notice and "window of 1 56x56 serves" in found.notice
    compare(found, images[1:], golden[2], 1)
    live, gate = gated(background=False)
    gate.broken[See(SIZE, 1, 1, 1, 0)] = "INTERNAL: no algorithm worked"
    with pytest.raises(DeviceLost, match="no algorithm worked"):
        live.look((0,), images[:1], depth_frames=1)


def test_what_the_runtime_itself_says_of_too_much_is_understood():
    beyond = 2**55  # bytes; no processor can even address them
    with pytest.raises(OutOfMemory, match="no room for everything in bfloat16; lower window_size"):
        with readable_faults("everything", jax.devices("cpu")[0], np.dtype(jnp.bfloat16)):
            jnp.zeros(beyond, jnp.uint8).block_until_ready()


def test_weights_that_do_not_fit_say_so(golden, monkeypatch):
    def full(*_):
        raise JaxRuntimeError(FULL)

    monkeypatch.setattr(jax, "device_put", full)
    with pytest.raises(OutOfMemory, match="no room for the weights of golden in float32"):
        Engine(
            "golden", *golden[:2], device=jax.devices()[0], dtype=np.dtype("float32"),
            default_width=56, random=False,
        )  # fmt: skip


def test_the_second_start_needs_no_tracing(golden, tmp_path, monkeypatch):
    """A traced program is kept beside the compiled one, and a damaged file is made anew."""

    def compiler():
        return Compiler(golden[0], np.dtype("float32"), jax.devices()[0], tmp_path)

    shape = Encode((28, 28), 1)
    compiler()(shape)
    (kept,) = tmp_path.glob("*.export")
    kept.write_bytes(kept.read_bytes()[:100])
    compiler()(shape)
    monkeypatch.setattr(Compiler, "_traced", None)
    compiler()(shape)


def test_a_program_says_what_it_is_in_words():
    assert str(See((28, 42), 4, 3, 1, 16)) == "window of 3 42x28, 16 tracks"
    assert str(Encode((28, 42), 4)) == "encoder 42x28"


def test_what_a_robot_needs_is_listed_in_the_order_of_its_use():
    shapes = needed(SIZE, range(1, 5), depth_frames=2, queries={0, 20}, guests=1)
    assert shapes[0] == Encode(SIZE, 5)
    assert all(shape.slots == 5 for shape in shapes)
    assert [(s.frames, s.depth_frames, s.queries) for s in shapes[1:] if isinstance(s, See)] == [
        (1, 1, 0), (4, 2, 0), (3, 2, 0), (2, 2, 0),
        (1, 1, 64), (4, 2, 64), (3, 2, 64), (2, 2, 64),
        (5, 2, 0),
    ]  # fmt: skip


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
