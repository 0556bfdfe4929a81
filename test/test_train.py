# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses and figures by hand; a run that survives a kill, other devices, bad data, bad numbers."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import Aggregator, Camera, Config, Dense, Dino, Track
from vggt_ros.model.vggt import PRESETS, Preset
from vggt_ros.train import co3d, metrics, score
from vggt_ros.train.auxiliary import READOUTS, network
from vggt_ros.train.checkpoints import Keeper, export_official
from vggt_ros.train.config import read_recipe, recipe_from
from vggt_ros.train.data import Batch
from vggt_ros.train.init import fresh_weights
from vggt_ros.train.precompile import Kind, asked, kind_of
from vggt_ros.train.run import Run
from vggt_ros.train.trainer import Trainer, mesh_of

MICRO = Config(
    dino=Dino(depth=1, num_heads=1),
    aggregator=Aggregator(img_size=28, embed_dim=16, depth=4, num_heads=1),
    camera_head=Camera(trunk_depth=1, num_heads=2, num_iterations=2),
    dpt=Dense(features=8, out_channels=(8, 8, 8, 8), intermediate_layer_idx=(0, 1, 2, 3)),
    track_head=Track(
        features=8, iters=1, corr_levels=2, corr_radius=1, hidden_size=16, depth=1, num_heads=2,
        num_virtual_tracks=2, max_scale=28.0,
    ),
)  # fmt: skip
PRESETS["micro"] = Preset(MICRO, 28)


def recipe_of(tmp_path, **changes):
    base = {
        "out": str(tmp_path / "run"), "model": "micro", "heads": ["camera", "depth"], "steps": 6,
        "batch": 2, "buckets": [[2, 28, 28]], "queries": 4, "warmup": 2, "log_every": 1,
        "check_every": 1000, "check_windows": 1, "learning_rate": 1e-2, "layer_scale": 0.3,
        "data": {"kind": "co3d", "root": str(tmp_path / "co3d"), "threads": 1},
    }  # fmt: skip
    return recipe_from(base | changes)


# ---- recipes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1e-3", "did you mean 'learning_rate'"),
        ("loss: {camra: 2}", "did you mean 'camera'"),
        ("steps: many", "steps is a int"),
        ("data: {kind: photos}", "one of scenes, co3d"),
        ("buckets: [[2, 30, 28]]", "multiples of 14"),
        ("data: {kind: co3d}", "needs data.root"),
        ("data: {paces: [4, 1]}", "two positive numbers"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_typo_in_a_recipe_is_refused_with_a_hint(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_recipe(path)


def test_the_shipped_recipes_are_sound(root):
    for path in (root / "vggt_ros/train/recipes").glob("*.yaml"):
        assert read_recipe(path).model in PRESETS


# ---- data in the Co3D layout ------------------------------------------------------------------


@pytest.fixture
def co3d_set(tmp_path):
    """A wall 2 m away, textured; a camera that slides to the right by 0.1 m a frame."""
    root = tmp_path / "co3d"
    folder = root / "wall" / "seq"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (48, 200, 3), np.uint8)
    rows = []
    for i in range(6):
        # 80 px focal length: 0.1 m at 2 m is 4 px
        Image.fromarray(texture[:, 4 * i : 4 * i + 64]).save(folder / f"{i}.png")
        depth = np.full((48, 64), 2.0, np.float16).view(np.uint16)
        Image.fromarray(depth).save(folder / f"{i}.depth.png")
        rows.append({
            "sequence_name": "seq",
            "image": {"path": f"wall/seq/{i}.png"},
            "depth": {"path": f"wall/seq/{i}.depth.png", "scale_adjustment": 1.0},
            "viewpoint": {
                "R": np.eye(3).tolist(), "T": [0.1 * i, 0.0, 0.0],  # PyTorch3D: x to the left
                "focal_length": [80 / 24, 80 / 24], "principal_point": [0.0, 0.0],
                "intrinsics_format": "ndc_isotropic",
            },
        })  # fmt: skip
    (root / "wall" / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    return root


def test_co3d_views_have_our_cameras_and_tracks(co3d_set):
    sequences = co3d.Sequences(co3d_set, 0.05)
    rows = sequences.frames[0]
    views = [co3d.read_view(co3d_set, rows[i], 42, 56) for i in (0, 2)]
    np.testing.assert_allclose(views[1].camera_from_world[:, 3], [-0.2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(views[0].intrinsics[0, 0], 80 * 56 / 64, rtol=1e-5)
    batch = co3d.window_of(views, np.random.default_rng(0), 50)
    shift = batch.tracks[1] - batch.tracks[0]
    np.testing.assert_allclose(shift, np.tile([-8.0 * 56 / 64, 0.0], (50, 1)), atol=1e-3)
    assert batch.visible[0].all() and 0.5 < batch.visible[1].mean() < 1.0
    # unit: the mean distance of points to the first camera
    assert np.linalg.norm(batch.points, axis=-1).mean() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(batch.depth.std(), 0, atol=1e-5)


def test_broken_files_are_named_counted_and_limited(co3d_set, capsys):
    (co3d_set / "wall/seq/3.png").unlink()
    (co3d_set / "wall/seq/4.depth.png").write_bytes(b"no picture")
    sequences = co3d.Sequences(co3d_set, 0.5)
    random = np.random.default_rng(0)
    batch = [sequences.window(random, 2, 28, 28, 4) for _ in range(8)][-1]
    assert batch.images.shape == (2, 28, 28, 3) and sequences.bad > 0
    assert "3.png" in capsys.readouterr().out
    for i in range(6):
        (co3d_set / f"wall/seq/{i}.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match="windows could not be read"):
        sequences.window(random, 2, 28, 28, 4)


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match="frame_annotations"):
        co3d.Sequences(tmp_path, 0.05)


# ---- learning ---------------------------------------------------------------------------------


def batch_of(count, seed=0, frames=2, side=28, queries=4):
    random = np.random.default_rng(seed)
    shape = (count, frames, side, side)
    still = np.zeros((count, frames, 9), np.float32)
    still[..., 6] = still[..., 7] = still[..., 8] = 1
    asked = random.uniform(2, side - 3, (count, queries, 2)).astype(np.float32)
    return Batch(
        images=random.random((*shape, 3), np.float32),
        pose_encoding=still,
        depth=np.full(shape, 1.5, np.float32),
        points=np.ones((*shape, 3), np.float32),
        valid=np.ones(shape, bool),
        queries=asked,
        tracks=np.repeat(asked[:, None], frames, axis=1),
        visible=np.ones((count, frames, queries), bool),
    )


def test_a_check_writes_table_pictures_and_the_best_weights(tmp_path, monkeypatch):
    asked = []

    def rooms(frames, height, width, count, queries=4):
        asked.append(frames)
        return iter([batch_of(1, seed, frames, queries=queries) for seed in range(count)])

    monkeypatch.setattr(score, "held_out", rooms)
    monkeypatch.setattr(metrics, "held_out", rooms)
    (tmp_path / "co3d").mkdir()
    run = Run(recipe_of(tmp_path, check_windows=2), tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    text = run.check(1)
    assert asked == [2, 4, 8, 4]  # drawn once for network and baseline; then for the picture
    rows = [line.split()[:2] for line in text.splitlines()[2:]]
    assert rows == [[side, s] for side in ("network", "nothing") for s in "248"]
    assert text in (tmp_path / "run" / "table.txt").read_text()
    for name in ("curve.png", "picture.png", "best.json", "best.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_a_recipe_that_weighs_matches_learns_from_them(tmp_path):
    trainer = Trainer(recipe_of(tmp_path, heads=["tracks"], loss={"matches": 0.5}), MICRO)
    weights, batch = trainer.start().weights, jax.tree.map(jnp.asarray, batch_of(2))
    total, parts = trainer.loss(weights, batch)
    without, plain = Trainer(recipe_of(tmp_path, heads=["tracks"]), MICRO).loss(weights, batch)
    assert float(total) == pytest.approx(float(without) + 0.5 * float(parts["matches"]), rel=1e-5)
    assert float(parts["matches"]) > 0 and "matches" not in plain


def test_a_recipe_that_weighs_motion_learns_it_and_ships_no_readout(tmp_path):
    terms = {"motion": 0.5, "attention": 0.25}
    trainer = Trainer(recipe_of(tmp_path, heads=["camera"], steps=40, loss=terms), MICRO)
    state, batch = trainer.start(), trainer.placed(batch_of(2))
    total, parts = trainer.loss(state.weights, batch)
    plain = Trainer(recipe_of(tmp_path, heads=["camera"]), MICRO)
    without, _ = plain.loss(network(state.weights), batch)
    helped = 0.5 * float(parts["motion"]) + 0.25 * float(parts["attention"])
    assert float(total) == pytest.approx(float(without) + helped, rel=1e-5)
    for _ in range(30):
        state, report = trainer.step(state, batch)
    assert report.parts["motion"] < 0.8 * parts["motion"]
    assert report.parts["attention"] < 0.8 * parts["attention"]
    (tmp_path / "co3d").mkdir()
    run = Run(recipe_of(tmp_path, heads=["camera"], steps=0, loss=terms), tmp_path / "run")
    run.go()
    weights = open_weights(str(tmp_path / "run" / "last.safetensors"), dtype=jnp.float32)[1]
    assert READOUTS not in weights and jax.tree.structure(weights) == jax.tree.structure(
        plain.start().weights
    )


def test_a_network_learns_one_batch_and_frozen_parts_stay(tmp_path):
    recipe = recipe_of(
        tmp_path, heads=["camera", "depth", "tracks"], steps=50, freeze=["encoder/.*"],
        remat=True,
    )  # fmt: skip
    trainer = Trainer(recipe, MICRO)
    state, batch = trainer.start(), trainer.placed(batch_of(2))
    before: Any = jax.device_get(state.weights)
    reports = []
    for _ in range(25):
        state, report = trainer.step(state, batch)
        reports.append(jax.device_get(report))
    assert reports[-1].loss < 0.6 * reports[1].loss
    assert {"camera", "depth", "tracks", "visibility"} <= reports[0].parts.keys()
    after: Any = jax.device_get(state.weights)
    same = jax.tree.map(np.array_equal, before, after)
    assert all(jax.tree.leaves(same["encoder"])) and not any(
        jax.tree.leaves(same["depth"]["refine"])
    )


def test_frozen_parts_cost_no_backward_pass(tmp_path):
    def products(*freeze):
        trainer = Trainer(recipe_of(tmp_path, freeze=list(freeze)), MICRO)
        slopes = jax.grad(trainer.loss, has_aux=True)
        text = str(jax.make_jaxpr(slopes)(trainer.abstract().weights, batch_of(2)))
        return text.count("dot_general") + text.count("conv_general")

    forward = products(".*")
    assert 0 < forward < products("encoder/.*", "tower/.*") < products("encoder/.*") < products()


def test_a_step_that_is_no_number_is_refused(tmp_path):
    trainer = Trainer(recipe_of(tmp_path), MICRO)
    state = trainer.start()
    before = jax.device_get(state.weights)
    poison = batch_of(2)
    poison.depth[0, 0, 0, 0] = np.nan
    state, report = trainer.step(state, trainer.placed(poison))
    assert bool(report.refused) and int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.weights))


def test_steps_without_tracks_leave_them_alone(tmp_path):
    heads = ["camera", "depth", "tracks"]
    recipe = recipe_of(tmp_path, heads=heads, tracks_share=0.5, warmup=0, weight_decay=0.0)
    run = Run(recipe, tmp_path / "run")
    kinds = [kind_of(recipe, step) for step in range(100)]
    assert 35 < sum(kind.tracks for kind in kinds) < 65
    before: Any = jax.device_get(run.state.weights)
    batch = run.trainer.placed(asked(Kind(0, tracks=False), batch_of(2)))
    state, report = run.trainer.step(run.state, batch)
    assert "tracks" not in report.parts and "depth" in report.parts
    after: Any = jax.device_get(state.weights)
    jax.tree.map(np.testing.assert_array_equal, before["tracks"], after["tracks"])
    assert np.any(before["depth"]["refine"]["kernel"] != after["depth"]["refine"]["kernel"])


def test_a_run_on_drawn_rooms_has_every_program_before_its_first_step(tmp_path, monkeypatch):
    def window(key, frames, *args, **kwargs):  # a room takes the compiler a minute
        one = jax.tree.map(lambda x: jnp.asarray(x[0, :frames]), batch_of(1)._asdict())
        return Batch(**one | {"queries": jnp.asarray(batch_of(1).queries[0])})

    monkeypatch.setattr("vggt_ros.train.trainer.draw_window", window)
    recipe = recipe_of(
        tmp_path, heads=["camera"], steps=3, tracks_share=0.5, check_every=0, data={"rays": 1},
    )  # fmt: skip
    run = Run(recipe, tmp_path / "run")
    kinds = []
    monkeypatch.setattr(
        "vggt_ros.train.run.asked", lambda kind, batch: (kinds.append(kind), asked(kind, batch))[1]
    )
    state = run.go()
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert int(state.step) == len(rows) == 3 and not (tmp_path / "run" / "table.txt").exists()
    assert kinds == [kind_of(recipe, step) for step in range(3)] and len({*kinds}) == 2


EIGHT = """
import sys; sys.path.insert(0, "test")
import jax, numpy as np
from pathlib import Path
from typing import Any
from test_train import MICRO, batch_of, recipe_of
from vggt_ros.train.checkpoints import Keeper
from vggt_ros.train.trainer import Trainer, mesh_of
recipe = recipe_of(Path(sys.argv[1]), batch=8)
found = []
for mesh in (mesh_of(1, jax.devices()[:1]), mesh_of(2)):
    trainer = Trainer(recipe, MICRO, mesh)
    state, losses = trainer.start(), []
    for i in range(3):
        state, report = trainer.step(state, trainer.placed(batch_of(8, i)))
        losses.append(float(report.loss))
    found.append(losses)
np.testing.assert_allclose(*found, rtol=2e-5)
keeper = Keeper(Path(sys.argv[1]) / "states", 1)
keeper.save(state)
fewer = Trainer(recipe, MICRO, mesh_of(1, jax.devices()[:4]))
back = keeper.restore(fewer.abstract())
jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(state))
assert len(jax.tree.leaves(back.weights)[0].sharding.device_set) == 4
print("same on", len(jax.devices()))
"""


def test_eight_devices_learn_what_one_learns_and_four_go_on_from_there(tmp_path, root):
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(tmp_path)], cwd=root, text=True, capture_output=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, check=False,
    )  # fmt: skip
    assert "same on 8" in done.stdout, done.stderr[-3000:]


RUN = """
import sys; sys.path.insert(0, "test")
from pathlib import Path
from typing import Any
from test_train import recipe_of
from vggt_ros.train import run
from vggt_ros.train.checkpoints import Keeper
folder = Path(sys.argv[1])
save = Keeper.save
def save_and_wait(keeper, state):
    save(keeper, state)
    if int(state.step) == 3:
        print("saved 3", flush=True)
Keeper.save = save_and_wait
run.Run.check = lambda run, step: ""
run.Run(recipe_of(folder, save_minutes=0.0, steps=100000), folder / "killed").go()
"""


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, root, co3d_set, monkeypatch):
    monkeypatch.setattr(Run, "check", lambda run, step: "")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout and any("saved 3" in line for line in process.stdout)
    time.sleep(0.05)  # somewhere within a later step, or within its save
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    recipe = recipe_of(tmp_path, steps=100000)
    killed = Run(recipe, tmp_path / "killed")
    reached = int(killed.state.step)
    assert killed.resumed and reached >= 3
    end = reached + 3
    for run in (killed, straight := Run(recipe, tmp_path / "straight")):
        batches = run.batches(int(run.state.step), {})
        while int(run.state.step) < end:
            run.state, _ = run.trainer.step(run.state, next(batches))
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(killed.state), jax.device_get(straight.state)
    )


def test_a_run_stops_in_time_leaves_its_files_and_can_be_read(tmp_path, co3d_set, monkeypatch):
    monkeypatch.setattr(Run, "check", lambda run, step: "")
    recipe = recipe_of(tmp_path, steps=1000)
    folder = tmp_path / "run"
    state = Run(recipe, folder).go(minutes=1e-6)
    assert int(state.step) == 1 and Keeper(folder / "states", 1).newest == 1
    config, weights, report = open_weights(folder / "last.safetensors")
    assert config == MICRO and report.balanced
    original = jax.device_get(state.weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2, rtol=1e-2), original, weights
    )


def test_official_names_hold_the_same_weights(tmp_path):
    recipe = recipe_of(tmp_path, heads=["camera", "depth", "points", "tracks"])
    weights = fresh_weights(MICRO, recipe)
    export_official(tmp_path / "model.safetensors", MICRO, jax.tree.map(jnp.asarray, weights))
    config, back, report = open_weights(tmp_path / "model.safetensors")
    assert config == MICRO and report.balanced
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), back, weights)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    trainer = Trainer(recipe_of(tmp_path), MICRO)
    state = trainer.start()
    keeper = Keeper(tmp_path / "states", 2)
    keeper.save(state)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper._manager, "save", full)
    with pytest.raises(UserError, match="No space left on device.*step 0 is intact"):
        keeper.save(state._replace(step=state.step + 1))
    assert Keeper(tmp_path / "states", 2).newest == 0


def test_devices_and_batches_must_divide(tmp_path):
    with pytest.raises(UserError, match="groups of 3"):
        mesh_of(3, jax.devices()[:1])
    with pytest.raises(UserError, match="is no preset"):
        Run(recipe_of(tmp_path, model="huge"), Path(tmp_path))
