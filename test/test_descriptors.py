# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a frame looks like, and what tells networks apart: of the engine, and of the fakes."""

from dataclasses import replace
from threading import Event

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rig import compiled, golden, images_of, opened
from fakes.oracle import NONE, Oracle
from fakes.planar_engine import PlanarEngine, image
from fakes.room import BASE_FROM_CAMERA, drive, in_room, numbered_image, turn

from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.engine import Engine
from vggt_ros.engine.fingerprint import fingerprint
from vggt_ros.engine.interface import Engine as Interface
from vggt_ros.model.config import TINY
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import abstract_model
from vggt_ros.ros.harness.instant_engine import InstantEngine
from vggt_ros.tools.app_sessions import StoppableEngine
from vggt_ros.tools.runs.recording import RecordedEngine


@pytest.fixture(scope="module")
def engine():
    return opened(compiled())


@pytest.mark.slow
def test_a_descriptor_is_the_mean_of_the_encoder_s_tokens(engine):
    """Compared with the encoder of the whole network, not with what the engine has cached."""
    from flax import nnx

    images = images_of(4)
    engine.reset()
    engine.infer((0, 1, 2), images[:3], depth_frames=1)
    engine.infer((1, 2, 3), images[1:], depth_frames=1)
    config, weights, _ = golden()
    graph = nnx.split(abstract_model(config, ("camera", "depth", "tracks")))[0]
    model = nnx.merge(graph, weights)
    assert engine.describe(0) is None and engine.describe(99) is None
    for key in (1, 2, 3):
        tokens = model.encode(jnp.float32(images[key])[None, None] / 255)[0, 0]
        mean = np.asarray(tokens).mean(0)
        found = engine.describe(key)
        assert found is not None and found.dtype == np.float32
        assert found.shape == (config.aggregator.embed_dim,)
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_the_same_picture_looks_the_same_in_any_window(engine):
    images = images_of(3)
    engine.reset()
    engine.infer((0,), images[:1], depth_frames=1)
    alone = engine.describe(0)
    engine.infer((5, 6, 7), [images[1], images[0], images[2]], depth_frames=1)
    np.testing.assert_allclose(engine.describe(6), alone, atol=1e-6)
    assert np.abs(engine.describe(7) - alone).max() > 1e-3
    engine.reset()
    assert engine.describe(6) is None


def placed(weights, *, dtype="float32", unrolled=False, config=TINY) -> str:
    device = jax.devices()[0]
    compiler = Compiler(config, np.dtype(jnp.dtype(dtype)), device, None, unrolled=unrolled)
    return fingerprint(config, compiler.place_weights(weights))


def test_a_fingerprint_names_weights_and_configuration():
    """Whatever the arithmetic, and however the programs take the weights."""
    weights = random_weights(TINY)
    first = placed(weights)
    assert len(first) == 32 and int(first, 16)
    assert placed(random_weights(TINY)) == first
    assert placed(weights, unrolled=True) == first
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    assert placed(halves, dtype="bfloat16", unrolled=True) == first
    assert placed(random_weights(TINY, seed=1)) != first
    other = replace(TINY, track_head=replace(TINY.track_head, iters=3))
    assert placed(weights, config=other) != first


def test_weights_that_were_trained_on_are_another_network():
    """Each by a thousandth, as of a short training: the sample is large enough to see that."""
    weights, random = random_weights(TINY), np.random.default_rng(0)
    trained = jax.tree.map(lambda x: x * (1 + 1e-3 * random.standard_normal(x.shape)), weights)
    trained = jax.tree.map(lambda x, old: x.astype(old.dtype), trained, weights)
    assert placed(trained) != placed(weights)


def test_the_engine_s_fingerprint_does_not_depend_on_its_name():
    def of(name: str) -> str:
        return Engine(
            name, *golden()[:2], device=jax.devices()[0], dtype=np.dtype("float32"),
            default_width=56, random=False,
        ).fingerprint  # fmt: skip

    assert (
        of("golden")
        == of("/home/robot/golden.safetensors")
        == placed(golden()[1], config=golden()[0])
    )


# ---- the fakes ----------------------------------------------------------------------------------


def looks(world_from_camera: np.ndarray, **faults) -> list[np.ndarray]:
    """Descriptors of the oracle's images, one window for all."""
    oracle = Oracle(world_from_camera, replace(NONE, **faults))
    count = len(world_from_camera)
    oracle.infer(tuple(range(count)), [numbered_image(i) for i in range(count)], depth_frames=1)
    found = [oracle.describe(i) for i in range(count)]
    return [each for each in found if each is not None]


def test_the_oracle_s_views_look_alike_where_they_are_close():
    camera = drive("stand", 1)[0] @ BASE_FROM_CAMERA
    near, far, turned = camera.copy(), camera.copy(), camera.copy()
    near[0, 3] += 0.1
    far[0, 3] += 1.0
    turned[:3, :3] = turned[:3, :3] @ turn(np.array([0.0, np.deg2rad(30.0), 0.0]))
    rooms = [in_room(camera, room) for room in (1, 2)]
    first, *others = looks(np.stack([camera, near, far, turned, *rooms]))
    alike = [float(first @ other) for other in others]
    assert alike[0] > 0.95 and alike[4] > 0.999
    assert max(alike[1:4]) < 0.7


def test_a_broken_image_of_the_oracle_looks_like_nothing_before():
    cameras = np.repeat(drive("stand", 1) @ BASE_FROM_CAMERA, 4, axis=0)
    first, *others = looks(cameras, broken={1: "other scene", 2: "nonsense"})
    alike = [float(first @ other) for other in others]
    assert max(alike[:2]) < 0.3 and alike[2] > 0.999


def test_fakes_and_what_wraps_a_network_say_its_layout(tmp_path):
    planar = PlanarEngine()
    for each in (
        planar, Oracle(drive("room", 1)), InstantEngine(56), RecordedEngine(planar, tmp_path),
        StoppableEngine(planar, Event()),
    ):  # fmt: skip
        assert isinstance(each, Interface) and each.layout == "joint"


def test_an_answer_by_views_is_not_one_to_the_same_images_as_a_sequence(tmp_path):
    planar = PlanarEngine()
    for views, asked in ((2, 1), (2, 1), (0, 2)):
        recorded = RecordedEngine(planar, tmp_path)
        recorded.infer((0, 1), [image(0), image(1)], depth_frames=1, views=views)
        assert len(planar.inferences) == asked


def test_fakes_know_the_frames_of_the_last_inference_only():
    planar = PlanarEngine(max_frames=2)
    oracle = Oracle(drive("room", 8) @ BASE_FROM_CAMERA, NONE)
    for fake, pictures in ((planar, image), (oracle, numbered_image)):
        assert isinstance(fake, Interface)
        for ids in ((0, 1, 2), (1, ~2, 2, 3)):
            fake.infer(ids, [pictures(max(i, 7 * (i < 0))) for i in ids], depth_frames=1)
        found = [fake.describe(i) for i in (1, ~2, 2, 3)]
        assert fake.describe(0) is None
        np.testing.assert_allclose([np.linalg.norm(each) for each in found], 1.0, atol=1e-6)
        assert found[0] @ found[2] > found[0] @ found[3]  # a step is more alike than two
        fake.reset()
        assert fake.describe(3) is None
