# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as people keep them: names are found, what is missing matters when it is needed."""

import argparse
import json
import os
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden_model import CONFIG, GOLDEN, assert_equal_weights, official, weights
from safetensors.numpy import save_file

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.foreign_names import official_names
from vggt_ros.model.tensor_files import TensorFiles
from vggt_ros.model.vggt import HEADS, select_heads
from vggt_ros.model.weights import balance, flatten, table
from vggt_ros.tools.weights import convert

KNOWN = {entry.name for entry in table(CONFIG)}


@pytest.fixture
def file(tmp_path):
    """Writes tensors as a file with the configuration beside it."""

    def write(tensors, name="model.safetensors") -> Path:
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()},
                  tmp_path / name)  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({"config": CONFIG.to_dict()}))
        return tmp_path / name

    return write


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.", "model.module.", "net._m."])
def test_a_common_prefix_is_found(file, prefix):
    named = {prefix + name: tensor for name, tensor in official().items()}
    _, tree, report = open_weights(file(named))
    assert_equal_weights(tree, flatten(weights()))
    assert report.balanced and len(report.loaded) == 547
    assert f"names without {prefix!r}" in str(report)


def test_of_several_states_the_network_is_taken():
    """An average beside the weights, and an optimiser's moments, which has the same names."""
    named = {f"model.{name}": tensor for name, tensor in official().items()}
    named |= {f"ema_model.{name}": tensor + 1 for name, tensor in official().items()}
    for moment in ("exp_avg", "exp_avg_sq"):
        named |= {f"optim.{name}.{moment}": tensor for name, tensor in official().items()}
    found = official_names(named, KNOWN)
    assert found.tensors.keys() == official().keys()
    assert all(found.tensors[name] is tensor for name, tensor in official().items())
    assert f"{3 * 547:,} tensors outside 'model.'" in found.notes[1]


def test_official_names_stay_as_they_are():
    assert official_names(official(), KNOWN) == (dict(official()), ())


def test_two_names_of_one_weight_are_one_weight():
    twice = dict(official())
    for name, tensor in official().items():
        twice[name.replace("global_blocks", "view_blocks")] = tensor
        twice[name.replace("frame_blocks", "time_blocks")] = tensor.copy()
    found = official_names(twice, KNOWN)
    assert found.tensors.keys() == official().keys() and "two names" in found.notes[1]
    assert found.notes[0].startswith("144 names are VGGT_MV's: view_blocks are global_blocks")
    alone = {name.replace("global_blocks", "view_blocks"): t for name, t in official().items()}
    assert official_names(alone, KNOWN).tensors.keys() == official().keys()
    twice["aggregator.time_blocks.1.ls1.gamma"] = twice["aggregator.time_blocks.1.ls1.gamma"] + 1
    with pytest.raises(UserError, match=r"frame_blocks.1.ls1.gamma has another value"):
        official_names(twice, KNOWN)


def test_blocks_of_pi3_alternate_and_the_rest_is_reported(file):
    pi3 = {}
    for name, tensor in official().items():
        kind, _, rest = name.removeprefix("aggregator.").partition("_blocks.")
        if kind in ("frame", "global"):
            index, _, leaf = rest.partition(".")
            pi3[f"decoder.{2 * int(index) + (kind == 'global')}.{leaf}"] = tensor
    pi3["encoder.register_token"] = official()["aggregator.register_token"]
    pi3["encoder.mask_token"] = np.zeros((1, 48), np.float32)
    pi3["point_decoder.projects.weight"] = np.zeros((4, 4), np.float32)
    found = official_names(pi3, KNOWN)
    loaded = {name: tensor for name, tensor in found.tensors.items() if name in KNOWN}
    assert len(loaded) == len(pi3) - 2
    assert all(np.array_equal(tensor, official()[name]) for name, tensor in loaded.items())
    report = balance(CONFIG, {name: t.shape for name, t in found.tensors.items()}, ())
    assert report.unexpected == ("encoder.mask_token", "point_decoder.projects.weight")
    source = file(pi3)
    with pytest.raises(UserError, match="missing .e.g. encoder|missing .e.g. aggregator"):
        open_weights(source, heads=("camera", "depth"))
    _, tree, report = open_weights(source, heads=("camera", "depth"), partial=True)
    assert len(report.loaded) == len(loaded) and report.missing
    flat, expected = flatten(tree), flatten(weights())
    path = ("aggregator", "stages", 1, "frame_blocks", "attn", "qkv", "kernel")
    assert np.array_equal(flat[path], expected[path])
    assert flat.keys() == flatten(select_heads(weights(), ("camera", "depth"))).keys()


# ---- what is missing --------------------------------------------------------------------------


def test_an_official_file_without_the_track_head_serves_the_others():
    listed = json.loads((GOLDEN / "vggt_1b_params.json").read_text())["state_dict"]
    shapes = {name: tuple(x["shape"]) for name, x in listed.items()}
    without = {name: shape for name, shape in shapes.items() if not name.startswith("track_head")}
    assert len(without) == 1_403
    heads = checkpoint.heads_of(TensorFiles(dict(without), {}))
    assert heads == ("camera", "depth", "points")
    report = balance(VGGT_1B, without, heads)
    assert report.balanced and report.complete and len(report.absent) == 394
    assert "394 missing, which is fine unless asked for: no track_head here" in str(report)
    assert len(balance(VGGT_1B, without, HEADS).missing) == 394


def test_a_missing_head_matters_when_it_is_asked_for(file):
    source = file({n: t for n, t in official().items() if not n.startswith("track_head")})
    assert "track_head" not in open_weights(source)[1]
    asked = ("camera", "depth", "tracks")
    with pytest.raises(UserError, match="186 missing .e.g. track_head.*there is no track_head"):
        open_weights(source, heads=asked)
    assert "camera_head" in open_weights(source, heads=asked, optional=("tracks",))[1]
    damaged = {n: t for n, t in official().items() if not n.startswith("track_head.tracker.corr")}
    with pytest.raises(UserError, match="missing .e.g. track_head.tracker.corr_mlp"):
        open_weights(file(damaged), heads=asked, optional=("tracks",))


def test_modules_of_another_network_are_left_out_and_reported(file, capsys):
    source = file({**official(), "segmentation.weight": np.zeros((2, 2), np.float32)})
    report = open_weights(source)[2]
    assert report.complete and report.foreign == ("segmentation.weight",)
    assert "left out: modules that this network does not have: segmentation.weight" in str(report)
    deeper = {**official(), "camera_head.trunk.4.ls1.gamma": np.zeros(96, np.float32)}
    with pytest.raises(UserError, match="1 without a place .e.g. camera_head.trunk.4"):
        open_weights(file(deeper))


def test_less_than_half_is_refused_in_words_unless_asked_for(file, tmp_path, capsys):
    part = dict(list(official().items())[:200])
    part |= {f"aggregator.other.{i}": np.zeros(1, np.float32) for i in range(300)}
    source = file(part)
    with pytest.raises(UserError, match="only 40% of them do"):
        open_weights(source)
    with pytest.raises(UserError, match="only 40% of them do"):
        convert(str(source), tmp_path / "start.safetensors")
    assert "missing, and needed" in capsys.readouterr().out
    convert(str(source), tmp_path / "start.safetensors", partial=True)
    config, tree, report = open_weights(tmp_path / "start.safetensors")
    assert config == CONFIG and report.balanced and set(tree) == set(weights())
    for heads in ((), HEADS):
        with pytest.raises(UserError, match="none of these weights fits"):
            open_weights(file({"x": np.zeros(3, np.float32)}), heads=heads, partial=True)


def test_a_whole_network_among_more_of_others_is_refused_unless_asked_for(file, tmp_path):
    others = {f"policy.{i}": np.zeros(1, np.float32) for i in range(600)}
    source = file({**official(), **others})
    way_out = r"only 48% of them do: 600 without a place .*`vggt weights --partial --to FILE`"
    with pytest.raises(UserError, match=way_out):
        open_weights(source)
    convert(str(source), tmp_path / "own.safetensors", partial=True)
    assert_equal_weights(open_weights(tmp_path / "own.safetensors")[1], flatten(weights()))


def test_parts_of_a_layout_that_is_not_named_say_which_it_is(file):
    dual = {}
    for name, tensor in official().items():
        for kind in ("frame", "global") if "aggregator." in name else ():
            if f".{kind}_blocks." in name:
                for stream in ("pose", "geo"):
                    dual[name.replace(f".{kind}_", f".{stream}_{kind}_")] = tensor
                break
        else:
            dual[name] = tensor
    with pytest.raises(UserError, match="a part of layout dual_stream: name that layout"):
        open_weights(file(dual))
    report = open_weights(file(dual), replace(CONFIG, layout="dual_stream"))[2]
    assert report.complete and len(report.loaded) == len(dual) and not report.copied
    memory = {**official(), "aggregator.memory_tokens": np.zeros((1, 32, 48), np.float32)}
    with pytest.raises(UserError, match="layout sparse_global, strategy memory_bank: name that"):
        open_weights(file(memory))
    named = replace(CONFIG, layout="sparse_global", strategy="memory_bank")
    assert open_weights(file(memory), named)[2].balanced


def test_a_report_has_a_table_and_a_line_for_each_kind():
    shapes = {name: tensor.shape for name, tensor in official().items()}
    del shapes["aggregator.camera_token"]
    shapes["camera_head.token_norm.bias"] = (7,)
    shapes["aggregator.extra"] = (1,)
    lines = str(balance(CONFIG, shapes, ("camera",))).splitlines()
    assert lines[0].split() == ["module", "loaded", "missing", "unexpected", "wrong", "shape",
                                "switched", "off"]  # fmt: skip
    assert next(line for line in lines if line.startswith("camera_head")).split()[1:] == [
        "40", "0", "0", "1", "0"
    ]  # fmt: skip
    assert "1 missing, and needed: aggregator.camera_token" in lines
    assert "1 of another shape: camera_head.token_norm.bias (7,), needed (96,)" in lines
    assert "1 unexpected, in modules of this network: aggregator.extra" in lines


# ---- PyTorch ----------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading .pt needs the extra [convert]")


def test_pytorch_files_are_read_as_plain_tensors(torch, tmp_path):
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in official().items()}
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    wrapped = {f"module.{name}": tensor for name, tensor in parameters.items()}
    beside = {
        "args": argparse.Namespace(lr=1e-4, out=Path("/somewhere")),
        "config": types.SimpleNamespace(name="x"),
        "epoch": np.float64(3.5), "best": np.int64(4), "history": np.arange(3.0),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
    }  # fmt: skip
    for saved in (state, parameters, wrapped, {"model": state}, {"state_dict": wrapped, **beside}):
        torch.save(saved, tmp_path / "model.pt")
        found = open_weights(tmp_path / "model.pt", CONFIG)[1]
        assert_equal_weights(found, flatten(weights()))


def test_pytorch_files_that_could_execute_code_are_refused_with_the_way_out(torch, tmp_path):
    torch.save({"model": os.getcwd}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil.pt holds a \S*getcwd beside.*model.state_dict"):
        open_weights(tmp_path / "evil.pt", CONFIG)
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with pytest.raises(UserError, match="module.pt holds a .*Linear") as fault:
        open_weights(tmp_path / "module.pt", CONFIG)
    assert "\n" not in str(fault.value)
    whole = (tmp_path / "module.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut.pt is truncated"):
        open_weights(tmp_path / "cut.pt", CONFIG)
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(UserError, match="does not hold a dictionary of tensors"):
        open_weights(tmp_path / "none.pt", CONFIG)
