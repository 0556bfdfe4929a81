# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weight files: the same weights from every kind of source, one clear message for every fault."""

import json
from pathlib import Path

import golden_model
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden_model import CONFIG, GOLDEN, assert_equal_weights, official_file
from safetensors.numpy import load_file, save_file

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint, weights
from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.tensor_files import TensorFiles, open_files, write_safetensors
from vggt_ros.model.vggt import HEADS, select_heads


@pytest.fixture(scope="module")
def tensors():
    """Official weights by name."""
    return golden_model.official()


@pytest.fixture(scope="module")
def tree():
    """Our weights."""
    return golden_model.weights()


@pytest.fixture(scope="module")
def expected(tree):
    """Our weights by path."""
    return weights.flatten(tree)


@pytest.fixture
def official(tmp_path):
    """A whole official file with its config.json beside it."""
    return official_file(tmp_path)


# ---- sources ----------------------------------------------------------------------------------


def test_a_file_and_its_directory_are_the_same_source(official, expected):
    for source in (official, str(official), official.parent):
        config, tree, report = open_weights(source)
        assert config == CONFIG
        assert report.balanced
        assert_equal_weights(tree, expected)


def test_the_configuration_is_found_without_reading_a_tensor(official, tmp_path, tree, monkeypatch):
    partial = tmp_path / "partial.safetensors"
    save(partial, CONFIG, {key: leaf for key, leaf in tree.items() if key != "track_head"})
    monkeypatch.setattr(checkpoint, "load", None)
    assert checkpoint.open_config(official, HEADS) == (CONFIG, HEADS)
    assert checkpoint.open_config(partial, ("camera", "depth")) == (CONFIG, ("camera", "depth"))
    asked = ("camera", "depth", "tracks")
    assert checkpoint.open_config(partial, asked, ("tracks",)) == (CONFIG, ("camera", "depth"))
    with pytest.raises(UserError, match="partial.safetensors: these weights do not fit"):
        checkpoint.open_config(partial, ("camera", "depth", "tracks"))


def test_an_index_of_shards_is_one_source(tmp_path, tensors, expected):
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    where = {name: file for file, part in shards.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert_equal_weights(open_weights(index, CONFIG)[1], expected)
    assert_equal_weights(open_weights(tmp_path, CONFIG)[1], expected)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match="b.safetensors does not exist"):
        open_weights(index, CONFIG)


def test_our_own_file_has_the_same_weights_and_its_configuration(tmp_path, tree, expected):
    save(tmp_path / "own.safetensors", CONFIG, tree)
    config, found, report = open_weights(tmp_path / "own.safetensors")
    assert config == CONFIG
    assert report.balanced and len(report.loaded) == len(expected)
    assert_equal_weights(found, expected)
    assert load_file(tmp_path / "own.safetensors").keys() == {
        "/".join(map(str, path)) for path in expected
    }


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("used", [jnp.bfloat16, jnp.float32])
def test_our_own_file_may_be_stored_less_precisely_than_it_is_used(
    tmp_path, expected, stored, used
):
    tree = weights.unflatten({path: np.asarray(w, stored) for path, w in expected.items()})
    save(tmp_path / "own.safetensors", CONFIG, tree)
    found = weights.flatten(open_weights(tmp_path / "own.safetensors", dtype=used)[1])
    needed = weights.flatten(weights.abstract(CONFIG, HEADS, used))
    for path, leaf in found.items():
        assert leaf.dtype == needed[path].dtype
        rounded = np.asarray(expected[path], stored).astype(leaf.dtype)
        np.testing.assert_array_equal(leaf, rounded)


def test_only_encoder_and_aggregator_are_rounded(official, expected):
    _, tree, _ = open_weights(official, dtype=jnp.bfloat16)
    rounded = set()
    for path, leaf in weights.flatten(tree).items():
        np.testing.assert_array_equal(leaf, expected[path].astype(leaf.dtype))
        if leaf.dtype != jnp.float32:
            rounded.add(path[0])
    assert rounded == {"encoder", "aggregator"}


def test_heads_that_are_off_are_not_read_and_reported(official, tensors):
    _, tree, report = open_weights(official, heads=("camera", "depth"))
    assert {"point_head", "track_head"}.isdisjoint(tree)
    off = {name for name in tensors if name.startswith(("point_head", "track_head"))}
    assert set(report.switched_off) == off
    assert report.balanced


def test_a_file_without_a_head_is_enough_for_the_others(tmp_path, tree):
    part = select_heads(tree, ("camera", "depth"))
    save(tmp_path / "own.safetensors", CONFIG, part)
    assert open_weights(tmp_path / "own.safetensors")[1].keys() == part.keys()
    with pytest.raises(UserError, match="missing .e.g. point_head/"):
        open_weights(tmp_path / "own.safetensors", heads=HEADS)


def test_the_released_checkpoint_balances():
    names = json.loads((GOLDEN / "vggt_1b_params.json").read_text())["state_dict"]
    report = weights.balance(VGGT_1B, {k: tuple(v["shape"]) for k, v in names.items()})
    assert report.balanced
    assert len(report.loaded) == 1797


def test_the_fixed_tracker_has_a_position_embedding():
    files = TensorFiles({}, {})
    fixed = checkpoint.config_of(files, Path("/nowhere/model_tracker_fixed_e20.pt"))
    assert fixed.track_head.pos_embed
    assert not checkpoint.config_of(files, Path("/nowhere/model.pt")).track_head.pos_embed


# ---- faults of files --------------------------------------------------------------------------


def test_truncated_and_foreign_files_have_different_messages(official):
    whole = official.read_bytes()
    for length in (4, 1000, len(whole) // 2, len(whole) - 1):
        official.write_bytes(whole[:length])
        with pytest.raises(UserError, match="model.safetensors is truncated"):
            open_weights(official)
    official.write_bytes(b"\x10" + bytes(7) + b"no json at all!!" + bytes(99))
    with pytest.raises(UserError, match="broken safetensors header"):
        open_weights(official)


def test_weights_of_another_architecture_are_refused_with_an_example(official):
    with pytest.raises(UserError, match=r"model.safetensors: .*another shape \(e.g. .*needed"):
        open_weights(official, VGGT_1B)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(official, tensors, tree, value):
    name = "camera_head.pose_branch.fc1.weight"
    broken = tensors[name].copy()
    broken[3, 4] = value
    save_file(tensors | {name: broken}, official)
    with pytest.raises(UserError, match=f"{name} holds NaN or infinity"):
        open_weights(official)
    camera = tree["camera_head"] | {"empty_pose_tokens": np.full((1, 1, 9), value, np.float32)}
    save(official, CONFIG, tree | {"camera_head": camera})
    with pytest.raises(UserError, match="camera_head/empty_pose_tokens holds NaN"):
        open_weights(official)


def test_missing_and_unexpected_tensors_are_counted(official, tensors):
    fewer = {name: t for name, t in tensors.items() if name != "aggregator.camera_token"}
    save_file(fewer | {"unknown": np.zeros(3, np.float32)}, official)
    with pytest.raises(UserError, match="1 missing .*camera_token.*1 without a place .*unknown"):
        open_weights(official)


def test_a_file_of_a_future_version_is_refused(tmp_path):
    metadata = {"format": "vggt_ros", "version": "99"}
    write_safetensors(tmp_path / "own.safetensors", {"x": np.zeros(3)}, metadata)
    with pytest.raises(UserError, match="version 99"):
        open_weights(tmp_path / "own.safetensors")


def test_sources_that_do_not_exist_are_refused(tmp_path):
    for source in (tmp_path / "absent.safetensors", "owner/absent.pt", "neither", tmp_path / "a/b"):
        with pytest.raises(UserError, match="does not exist"):
            open_weights(source)
    with pytest.raises(UserError, match="holds no .safetensors"):
        open_weights(tmp_path)
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="is not a weight file"):
        open_weights(tmp_path / "weights.onnx")
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / name)
    with pytest.raises(UserError, match="name one of them"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match="an earlier file holds too"):
        open_files([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    kept = {"x": np.ones(3, np.float32)}
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "no" / "such.safetensors", kept, {})
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "taken.safetensors", kept, {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]
