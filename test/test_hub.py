# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face hub repositories as sources of weights: downloads, the cache, and every fault."""

import json

import httpx2
import huggingface_hub
import pytest
from golden_model import CONFIG, assert_equal_weights, official, official_file, weights
from huggingface_hub import errors
from safetensors.numpy import save_file

from vggt_ros.errors import UserError
from vggt_ros.model import hub
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.weights import flatten

RESPONSE = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co/x/y"))


class FakeHub:
    """`hf_hub_download` of a hub with these files; other names raise what the client raises."""

    def __init__(self, files=(), fault=None):
        self.files, self.fault, self.requested = dict(files), fault, []

    def __call__(self, repository, name, *, cache_dir=None, local_files_only=False, revision=None):
        self.cache_dir = cache_dir
        self.requested.append(name if revision is None else f"{name} of {repository}@{revision}")
        if self.fault:
            raise self.fault
        if name not in self.files:
            raise errors.RemoteEntryNotFoundError(f"no {name}", response=RESPONSE)
        return str(self.files[name])


def on_hub(monkeypatch, *args, **kwargs):
    fake = FakeHub(*args, **kwargs)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    return fake


@pytest.mark.slow
def test_a_repository_is_a_source(monkeypatch, tmp_path):
    fake = on_hub(monkeypatch, {"model.safetensors": official_file(tmp_path)})
    assert_equal_weights(open_weights("facebook/VGGT-1B")[1], flatten(weights()))
    assert fake.requested == ["model.safetensors"]


def test_downloads_are_kept_where_the_caller_says(monkeypatch, tmp_path):
    fake = on_hub(monkeypatch, {"model.safetensors": official_file(tmp_path)})
    open_weights("facebook/VGGT-1B", heads=(), cache_dir=tmp_path / "mine")
    assert fake.cache_dir == tmp_path / "mine"
    on_hub(monkeypatch, fault=errors.LocalEntryNotFoundError("not cached"))
    with pytest.raises(UserError, match=f"is not in {tmp_path / 'mine'}, and"):
        open_weights("facebook/VGGT-1B", cache_dir=tmp_path / "mine")


def test_a_revision_may_follow_the_name(monkeypatch, tmp_path):
    fake = on_hub(monkeypatch, {"model.safetensors": official_file(tmp_path)})
    assert open_weights("facebook/VGGT-1B@refs/pr/7", heads=())[0] == CONFIG
    assert fake.requested == ["model.safetensors of facebook/VGGT-1B@refs/pr/7"]
    fault = errors.RevisionNotFoundError("none", response=RESPONSE)
    on_hub(monkeypatch, fault=fault)
    with pytest.raises(UserError, match="VGGT-1B has no branch, tag or commit 'v9'"):
        open_weights("facebook/VGGT-1B@v9")
    for name in ("facebook/VGGT-1B@", "facebook@v1/VGGT", "owner/name@@v1"):
        assert not hub.is_repository(name)


def test_shards_are_downloaded_with_their_index(monkeypatch, tmp_path):
    save_file(official(), tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(official(), "one.safetensors")}))
    fake = on_hub(monkeypatch, {path.name: path for path in tmp_path.iterdir()})
    assert_equal_weights(open_weights("someone/sharded", CONFIG)[1], flatten(weights()))
    assert fake.requested[-1] == "one.safetensors"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (errors.GatedRepoError("gated", response=RESPONSE), "gated: accept its licence.*HF_TOKEN"),
        (errors.RepositoryNotFoundError("none", response=RESPONSE), "no repository.*hf auth login"),
        (errors.HfHubHTTPError("500 server error", response=RESPONSE), "500 server error"),
        (PermissionError(13, "Permission denied", "/some/cache"), "set HF_HOME"),
        (OSError(28, "No space left on device"), "No space left"),
        (httpx2.ReadTimeout("timed out"), "timed out"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_fault_of_the_hub_is_one_line(monkeypatch, fault, words):
    on_hub(monkeypatch, fault=fault)
    with pytest.raises(UserError, match=words) as error:
        open_weights("facebook/VGGT-1B-Commercial")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_the_cache_is_searched_and_the_message_has_a_remedy(monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    fake = on_hub(monkeypatch, fault=errors.LocalEntryNotFoundError("not cached"))
    words = "HF_HUB_OFFLINE is set" if offline else "cannot be reached"
    with pytest.raises(UserError, match=f"facebook/VGGT-1B is not in .*{words}"):
        open_weights("facebook/VGGT-1B")
    assert fake.requested == list(hub.FILES)


def test_the_real_client_offline_gives_the_same_message(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="facebook/VGGT-1B is not in .*HF_HUB_OFFLINE is set"):
        open_weights("facebook/VGGT-1B")


def test_a_repository_without_weights_is_refused(monkeypatch):
    on_hub(monkeypatch, {"README.md": "x"})
    with pytest.raises(UserError, match="holds none of model.safetensors"):
        open_weights("someone/else")
