# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The small reference network as an engine, its full pass to compare with, and a gated compiler."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.errors import JaxRuntimeError
from safetensors.numpy import load_file

from vggt_ros.engine.compiler import HEADS, Compiler
from vggt_ros.engine.engine import Engine
from vggt_ros.engine.programs import Programs
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import abstract_model, select_heads
from vggt_ros.model.weights import read

GOLDEN = Path(__file__).parent / "golden"
SIZE = (56, 56)
# Rounding of other batch sizes, over the depths of the reference's own float32 noise
# (golden/tolerance.json: pose 1e-5, depth and confidence 7e-5; tracks after four iterations 5e-3).
POSE, DENSE, TRACK = 1e-5, 7e-5, 5e-3


def tensors() -> dict[str, np.ndarray]:
    """The network's tensors by their official names."""
    files = sorted(GOLDEN.glob("weights_*.safetensors"))
    return {name: x for file in files for name, x in load_file(file).items()}


@cache
def golden():
    """Configuration, weights, and the full pass of a window."""
    config = Config.from_dict(json.loads((GOLDEN / "config.json").read_text())["config"])
    weights, _ = read(config, tensors(), HEADS)
    graph = nnx.split(abstract_model(config, HEADS))[0]

    @jax.jit
    def full(images, queries, query_frame=0):
        frames = images[None].astype(jnp.float32) / 255
        return nnx.merge(graph, weights)(frames, queries[None], query_frame=query_frame)

    return config, weights, full


@cache
def compiled():
    """Compiles each shape once for all tests of a process."""
    return cache(Compiler(golden()[0], np.dtype("float32"), jax.devices()[0], None))


def opened(compile, *, background=False, heads=HEADS) -> Engine:
    """An engine of the golden network whose programs `compile` makes."""
    config, weights, _ = golden()
    weights = select_heads(weights, heads)
    engine = Engine(
        "golden", config, weights, device=jax.devices()[0], dtype=np.dtype("float32"),
        default_width=56, random=False, background=background,
    )  # fmt: skip
    engine.selection.programs = Programs(compile)
    return engine


def images_of(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    base = random.integers(0, 255, (8, 8, 3))
    smooth = np.kron(base, np.ones((7, 7, 1))).astype(np.uint8)
    return [np.roll(smooth, 3 * i, axis=1) // (1 + i % 2) for i in range(count)]


QUERIES = np.array([[10, 12], [40, 33], [55, 0]], np.float32)


def compare(found, window, depth_frames):
    """The result of a window against the full pass over it."""
    out = golden()[2](np.stack(window), QUERIES)
    np.testing.assert_allclose(found.pose_encoding, out.pose_encoding[0], atol=POSE)
    np.testing.assert_allclose(found.depth, out.depth[0, -depth_frames:], atol=DENSE)
    np.testing.assert_allclose(
        found.confidence, out.depth_confidence[0, -depth_frames:], atol=DENSE
    )
    if found.tracks is not None:
        np.testing.assert_allclose(found.tracks, out.tracks[0], atol=TRACK)
        np.testing.assert_allclose(found.visibility, out.visibility[0], atol=2e-2)


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


def until(met):
    end = time.monotonic() + 600  # seconds; only ever waited for by a test that fails
    while not met():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def gated_engines() -> Iterator[Callable[..., tuple[Engine, Gated]]]:
    """Makes engines whose compiler can be held up and broken, in the background or not."""
    made: list[tuple[Engine, Gated]] = []

    def make(*, background: bool) -> tuple[Engine, Gated]:
        gate = Gated(compiled())
        made.append((opened(gate, background=background), gate))
        return made[-1]

    yield make
    for engine, gate in made:
        gate.open.set()
        assert engine.close(60.0)
