# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt verify` and `vggt weights`: correct networks pass, faults are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.tensor_files import open_files
from vggt_ros.tools.verify import compare, verify
from vggt_ros.tools.weights import convert

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden"
CONFIG = GOLDEN / "config.json"
PARTS = tuple(
    GOLDEN / f"weights_{name}.safetensors" for name in ("aggregator", "camera_dpt", "track")
)
CASE = GOLDEN / "mini_single.safetensors"


def rows(text):
    return {line.split()[0]: line.split()[-1] for line in text.splitlines() if " " in line}


def test_every_tensor_of_a_case_is_compared_and_within_tolerance(capsys):
    assert verify(CONFIG, PARTS, CASE, GOLDEN / "tolerance.json") == 0
    shown = rows(capsys.readouterr().out)
    names = {name for name in load_file(CASE) if not name.startswith("in.")}
    assert {name for name in names if shown.get(name) == "yes"} == names


def test_names_and_shapes_balance_without_a_case(capsys, tmp_path):
    assert verify(CONFIG, PARTS) == 0
    assert "547" in capsys.readouterr().out
    assert verify(CONFIG, PARTS[:2]) == 0  # heads are optional
    assert "186 missing, which is fine unless asked for: no track_head" in capsys.readouterr().out
    assert verify(CONFIG, PARTS[1:]) == 1
    assert "missing, and needed: aggregator." in capsys.readouterr().out
    config = json.loads(CONFIG.read_text())
    config["config"]["camera_head"]["trunk_depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert verify(tmp_path / "config.json", PARTS) == 1
    assert "camera_head.trunk.2." in capsys.readouterr().out


def test_a_tensor_fails_by_value_by_shape_and_by_nan():
    expected = np.ones((2, 3), np.float32)
    assert compare("x", expected, expected).ok
    assert compare("x", expected + 2e-5, expected).ok
    assert not compare("x", expected + 1e-4, expected).ok
    assert compare("x", expected + 1e-4, expected, 1e-3).ok
    assert not compare("x", expected[:1], expected).ok
    assert not compare("x", np.where(expected > 0, np.nan, 0), expected).ok


def test_default_tolerances_are_near_the_measured_ones():
    """The defaults are at least the measured ones of tolerance.json for all outputs."""
    for case, tensors in json.loads((GOLDEN / "tolerance.json").read_text()).items():
        for name, entry in tensors.items():
            if name.startswith("out."):
                largest = np.array([max(entry["max_abs_value"], 1e-9)])
                allowed = compare(name, largest, largest).tolerance
                assert allowed >= 0.99 * entry["suggested_atol"], (case, name)
                if name not in ("out.track", "out.vis", "out.conf"):  # these grow with motion
                    assert allowed <= 20 * entry["suggested_atol"], (case, name)


def test_a_file_that_is_not_a_case_is_refused(tmp_path):
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no in.images"):
        verify(CONFIG, PARTS, tmp_path / "none.safetensors")
    save_file({"in.images": np.zeros((1, 2, 3, 28, 30), np.float32)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="multiples of 14"):
        verify(CONFIG, PARTS, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="has no case none"):
        verify(CONFIG, PARTS, tmp_path / "none.safetensors", GOLDEN / "tolerance.json")
    with pytest.raises(UserError, match="is not valid JSON"):
        verify(CASE, PARTS)


# ---- vggt weights -----------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path):
    tensors = {name: tensor for part in PARTS for name, tensor in load_file(part).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_without_an_output_a_checkpoint_is_only_reported(official, capsys):
    convert(str(official), config=CONFIG)
    out = capsys.readouterr().out
    assert "camera_head" in out and "547" in out
    assert list(official.parent.iterdir()) == [official]
    with pytest.raises(UserError, match="model.safetensors: these weights do not fit"):
        convert(str(official))


def test_a_converted_file_is_complete(official, tmp_path, capsys):
    own = tmp_path / "own.safetensors"
    convert(str(official), own, "bfloat16", ("camera", "depth"), CONFIG)
    config, tree, _ = open_weights(own, dtype="bfloat16")
    assert config.aggregator.embed_dim == 48
    assert set(tree) == {"encoder", "aggregator", "camera_head", "depth_head"}
    assert {t.dtype.name for t in open_files([own]).tensors.values()} == {"bfloat16", "float32"}
    convert(str(own))
    assert "verify" not in capsys.readouterr().err
    assert verify(CONFIG, (own,)) == 0
    with pytest.raises(UserError, match="end in .safetensors or .npz"):
        convert(str(official), tmp_path / "own.bin", config=CONFIG)
    with pytest.raises(UserError, match="no directory"):
        convert(str(official), tmp_path / "absent" / "own.safetensors", config=CONFIG)


def test_a_checkpoint_is_written_in_another_layout(official, tmp_path, capsys):
    own = tmp_path / "dual.safetensors"
    convert(str(official), own, config=CONFIG, heads=("camera",), layout="dual_stream")
    shown = capsys.readouterr().out
    assert "new parts that start as copies: " in shown and "without an effect: " in shown
    config, tree, report = open_weights(own)
    assert config.layout == "dual_stream" and report.balanced
    stage = tree["aggregator"]["stages"][0]
    assert set(stage) == {f"{s}_{k}_blocks" for s in ("pose", "geo") for k in ("frame", "global")}
    with pytest.raises(UserError, match="missing .e.g. aggregator/stages/0/frame_blocks"):
        convert(str(own), tmp_path / "back.safetensors", layout="joint")
    chosen = {"layout": "sparse_global", "strategy": "memory_bank"}
    convert(str(official), own, config=CONFIG, heads=(), **chosen)
    assert open_weights(own)[0].strategy == "memory_bank"
    convert(str(official), own, config=CONFIG, heads=(), layout="view_time", order=("time", "view"))
    assert open_weights(own)[0].order == ("time", "view")
    with pytest.raises(UserError, match="order belongs to layout view_time, and this is joint"):
        convert(str(official), config=CONFIG, order=("time", "view"))
    with pytest.raises(UserError, match="preset tiny has random weights, and no file"):
        convert("tiny", layout="view_time")


def by_cameras(case, axes, rename=lambda name: name):
    """A recorded case of frames as one of instants and views, which are the same images."""
    recorded = load_file(case)
    frames = recorded["in.images"].shape[:2]
    made = {}
    for name, tensor in recorded.items():
        if name.startswith("agg.pos") or name.endswith("attn_out"):
            continue
        if tensor.shape[:2] == frames and name != "in.query_points":
            tensor = tensor.reshape(frames[0], *axes, *tensor.shape[2:])
        elif name == "agg.tokens_in":
            tensor = tensor.reshape(frames[0], *axes, *tensor.shape[1:])
        made[rename(name)] = tensor
    return made


@pytest.mark.parametrize(
    ("settings", "case", "axes"),
    [
        ({"layout": "joint"}, "mini_rect", (2, 1)),
        ({"layout": "joint"}, "mini_square", (1, 3)),
        ({"layout": "view_time", "order": ["time", "view"]}, "mini_rect", (1, 2)),
        ({"layout": "sparse_global", "strategy": "landmark", "landmarks": 99}, "mini_rect", (2, 1)),
        ({"layout": "dual_stream"}, "mini_square", (3, 1)),
    ],
)
def test_layouts_that_are_the_official_network_pass_on_its_own_case(
    settings, case, axes, tmp_path, capsys
):
    """Every stage with the axes of instants and views, as cases of rigs are recorded."""
    kinds = {"time": "frame", "view": "global"} if settings["layout"] == "view_time" else {}

    def rename(name):
        for ours, official in kinds.items():
            name = name.replace(f"agg.{official}.", f"agg.{ours}.")
        return name

    made = by_cameras(GOLDEN / f"{case}.safetensors", axes, rename)
    save_file(made, tmp_path / "rig.safetensors")
    dimensions = json.loads(CONFIG.read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps({"config": dimensions, **settings}))
    assert verify(tmp_path / "config.json", PARTS, tmp_path / "rig.safetensors") == 0
    shown = rows(capsys.readouterr().out)
    compared = {name for name in made if shown.get(name) == "yes"}
    left_out = {n for n in made if n.startswith(("agg.frame.", "agg.global."))}
    assert compared | (left_out if settings["layout"] == "dual_stream" else set()) == {
        name for name in made if not name.startswith("in.")
    }
