# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights: the same from every kind of source, and one clear sentence for every fault."""

import json
import os
from pathlib import Path

import httpx2
import huggingface_hub
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint, weights
from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.tensor_files import TensorFiles, open_files, write_safetensors
from vggt_ros.model.vggt import HEADS

GOLDEN = Path(__file__).parent / "golden"
CONFIG = checkpoint.Config.from_dict(json.loads((GOLDEN / "config.json").read_text())["config"])
PARTS = [GOLDEN / f"weights_{name}.safetensors" for name in ("aggregator", "camera_dpt", "track")]


@pytest.fixture(scope="module")
def tensors():
    return {name: tensor for part in PARTS for name, tensor in load_file(part).items()}


@pytest.fixture(scope="module")
def tree(tensors):
    """Our weights."""
    return weights.read(CONFIG, tensors)[0]


@pytest.fixture(scope="module")
def expected(tree):
    """Our weights by path."""
    return weights.flatten(tree)


@pytest.fixture
def official(tmp_path, tensors):
    """A whole official file with its config.json beside it."""
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"config": CONFIG.to_dict()}))
    return tmp_path / "model.safetensors"


def same(tree, expected):
    found = weights.flatten(tree)
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        assert leaf.dtype == expected[path].dtype
        np.testing.assert_array_equal(leaf, expected[path])


# ---- sources ----------------------------------------------------------------------------------


def test_a_file_and_its_directory_are_the_same_source(official, expected):
    for source in (official, str(official), official.parent):
        config, tree, report = open_weights(source)
        assert config == CONFIG
        assert report.balanced
        same(tree, expected)


def test_the_network_is_known_without_reading_a_tensor(official, tmp_path, tree, monkeypatch):
    partial = tmp_path / "partial.safetensors"
    save(partial, CONFIG, {key: leaf for key, leaf in tree.items() if key != "tracks"})
    monkeypatch.setattr(checkpoint, "load", None)
    assert checkpoint.open_config(official, HEADS) == CONFIG
    assert checkpoint.open_config(partial, ("camera", "depth")) == CONFIG
    with pytest.raises(UserError, match="partial.safetensors: these weights do not fit"):
        checkpoint.open_config(partial, ("camera", "depth", "tracks"))


def test_shards_are_one_source_by_their_index(tmp_path, tensors, expected):
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    where = {name: file for file, part in shards.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    same(open_weights(index, CONFIG)[1], expected)
    same(open_weights(tmp_path, CONFIG)[1], expected)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match="b.safetensors does not exist"):
        open_weights(index, CONFIG)


def test_our_own_file_gives_the_same_weights_and_knows_its_config(tmp_path, tree, expected):
    save(tmp_path / "own.safetensors", CONFIG, tree)
    config, found, report = open_weights(tmp_path / "own.safetensors")
    assert config == CONFIG
    assert report.balanced and len(report.loaded) == len(expected)
    same(found, expected)
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


def test_only_encoder_and_tower_are_rounded(official, expected):
    _, tree, _ = open_weights(official, dtype=jnp.bfloat16)
    rounded = set()
    for path, leaf in weights.flatten(tree).items():
        np.testing.assert_array_equal(leaf, expected[path].astype(leaf.dtype))
        if leaf.dtype != jnp.float32:
            rounded.add(path[0])
    assert rounded == {"encoder", "tower"}


def test_heads_that_are_off_are_not_read_and_said(official, tensors):
    _, tree, report = open_weights(official, heads=("camera", "depth"))
    assert {"points", "tracks"}.isdisjoint(tree)
    off = {name for name in tensors if name.startswith(("point_head", "track_head"))}
    assert set(report.switched_off) == off
    assert report.balanced


def test_a_file_without_a_head_serves_who_does_not_ask_for_it(tmp_path, tree):
    part = {name: tree[name] for name in ("encoder", "tower", "camera", "depth")}
    save(tmp_path / "own.safetensors", CONFIG, part)
    assert open_weights(tmp_path / "own.safetensors")[1].keys() == part.keys()
    with pytest.raises(UserError, match="missing .e.g. points/"):
        open_weights(tmp_path / "own.safetensors", heads=HEADS)


def test_pytorch_files_are_read_as_plain_tensors(tmp_path, tensors, expected):
    torch = pytest.importorskip("torch", reason="reading .pt needs the extra [convert]")
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
    torch.save(state, tmp_path / "model.pt")
    same(open_weights(tmp_path / "model.pt", CONFIG)[1], expected)
    torch.save({"model": state}, tmp_path / "nested.pt")
    same(open_weights(tmp_path / "nested.pt", CONFIG)[1], expected)
    torch.save({"model": os.getcwd}, tmp_path / "evil.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("evil.pt", "cut.pt"):
        with pytest.raises(UserError, match=name):
            open_weights(tmp_path / name, CONFIG)


def test_the_released_checkpoint_balances_without_a_rest():
    names = json.loads((GOLDEN / "vggt_1b_params.json").read_text())["state_dict"]
    report = weights.balance(VGGT_1B, {k: tuple(v["shape"]) for k, v in names.items()})
    assert report.balanced
    assert len(report.loaded) == 1797


def test_the_fixed_tracker_has_the_position_embedding_on():
    files = TensorFiles({}, {})
    fixed = checkpoint.config_of(files, Path("/nowhere/model_tracker_fixed_e20.pt"))
    assert fixed.track_head.pos_embed
    assert not checkpoint.config_of(files, Path("/nowhere/model.pt")).track_head.pos_embed


# ---- faults of files --------------------------------------------------------------------------


def test_a_truncated_file_is_told_from_a_foreign_one(official):
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


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_by_name(official, tensors, tree, fault):
    name = "camera_head.pose_branch.fc1.weight"
    broken = tensors[name].copy()
    broken[3, 4] = fault
    save_file(tensors | {name: broken}, official)
    with pytest.raises(UserError, match=f"{name} holds NaN or infinity"):
        open_weights(official)
    camera = tree["camera"] | {"empty_pose_tokens": np.full((1, 1, 9), fault, np.float32)}
    save(official, CONFIG, tree | {"camera": camera})
    with pytest.raises(UserError, match="camera/empty_pose_tokens holds NaN"):
        open_weights(official)


def test_missing_and_unexpected_tensors_are_counted(official, tensors):
    fewer = {name: t for name, t in tensors.items() if name != "aggregator.camera_token"}
    save_file(fewer | {"surprise": np.zeros(3, np.float32)}, official)
    with pytest.raises(UserError, match="1 missing .*camera_token.*1 without a place .*surprise"):
        open_weights(official)


def test_a_file_from_the_future_is_refused(tmp_path):
    metadata = {"format": "vggt_ros", "version": "99"}
    write_safetensors(tmp_path / "own.safetensors", {"x": np.zeros(3)}, metadata)
    with pytest.raises(UserError, match="version 99"):
        open_weights(tmp_path / "own.safetensors")


def test_what_is_not_there_is_said(tmp_path):
    for source in (tmp_path / "absent.safetensors", "owner/absent.pt", "neither", tmp_path / "a/b"):
        with pytest.raises(UserError, match="does not exist"):
            open_weights(source)
    with pytest.raises(UserError, match="holds no .safetensors"):
        open_weights(tmp_path)
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="is no weight file"):
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


# ---- the hub ----------------------------------------------------------------------------------

RESPONSE = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co/x/y"))


class Hub:
    """hf_hub_download of a hub with these files; absent names raise what the client raises."""

    def __init__(self, files=(), fault=None):
        self.files, self.fault, self.asked = dict(files), fault, []

    def __call__(self, repository, name, *, local_files_only=False):
        self.asked.append(name)
        if self.fault:
            raise self.fault
        if name not in self.files:
            raise errors.RemoteEntryNotFoundError(f"no {name}", response=RESPONSE)
        return str(self.files[name])


def on_hub(monkeypatch, *args, **kwargs):
    hub = Hub(*args, **kwargs)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    return hub


def test_a_repository_is_a_source(monkeypatch, official, expected):
    hub = on_hub(monkeypatch, {"model.safetensors": official})
    same(open_weights("facebook/VGGT-1B")[1], expected)
    assert hub.asked == ["model.safetensors"]


def test_shards_are_downloaded_with_their_index(monkeypatch, tmp_path, tensors, expected):
    save_file(tensors, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "one.safetensors")}))
    hub = on_hub(monkeypatch, {path.name: path for path in tmp_path.iterdir()})
    same(open_weights("someone/sharded", CONFIG)[1], expected)
    assert hub.asked[-1] == "one.safetensors"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (errors.GatedRepoError("gated", response=RESPONSE), "gated: accept its licence.*HF_TOKEN"),
        (errors.RepositoryNotFoundError("none", response=RESPONSE), "knows no repository"),
        (errors.HfHubHTTPError("500 server error", response=RESPONSE), "500 server error"),
        (PermissionError(13, "Permission denied", "/some/cache"), "set HF_HOME"),
        (OSError(28, "No space left on device"), "No space left"),
        (httpx2.ReadTimeout("timed out"), "timed out"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_fault_of_the_hub_is_one_sentence(monkeypatch, fault, words):
    on_hub(monkeypatch, fault=fault)
    with pytest.raises(UserError, match=words) as error:
        open_weights("facebook/VGGT-1B-Commercial")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_the_cache_is_searched_then_the_way_out_said(
    monkeypatch, offline, official, expected
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    hub = on_hub(monkeypatch, fault=errors.LocalEntryNotFoundError("not cached"))
    words = "HF_HUB_OFFLINE is set" if offline else "cannot be reached"
    with pytest.raises(UserError, match=f"facebook/VGGT-1B is not in .*{words}"):
        open_weights("facebook/VGGT-1B")
    assert hub.asked == list(checkpoint.hub.FILES)


def test_the_real_client_offline_says_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="facebook/VGGT-1B is not in .*HF_HUB_OFFLINE is set"):
        open_weights("facebook/VGGT-1B")


def test_a_repository_without_weights_is_no_checkpoint(monkeypatch):
    on_hub(monkeypatch, {"README.md": "x"})
    with pytest.raises(UserError, match="holds none of model.safetensors"):
        open_weights("someone/else")
