# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network that comes with the package sees: drawn rooms, and the clip through the pipeline.

Bounds are what docs/small.md states and a margin for other processors; new weights tighten them.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vggt_ros.engine.compiler import HEADS
from vggt_ros.model.checkpoint import config_of, heads_of
from vggt_ros.model.tensor_files import open_files
from vggt_ros.model.vggt import PRESETS, SHIPPED
from vggt_ros.tools.cli import call

CLIP = Path(__file__).parents[1] / "vggt_ros/assets/clip"


def test_the_shipped_file_is_small_and_is_the_preset():
    files = open_files([SHIPPED])
    assert SHIPPED.stat().st_size <= 30e6
    assert config_of(files, SHIPPED) == PRESETS["small"].config and heads_of(files) == HEADS


def test_it_sees_rooms_that_it_was_never_shown(capsys, tmp_path):
    line = f"eval small rooms --windows 6 --lengths 4 --out {tmp_path}"
    assert call(line.split()) == 0
    rows = json.loads((tmp_path / "errors.json").read_text())
    assert "AbsRel" in capsys.readouterr().out
    (ours,), (nothing,) = rows["small"], rows["nothing"]
    assert ours["abs_rel"] < 0.11 < nothing["abs_rel"]
    assert ours["delta"] > nothing["delta"] + 17
    assert all(np.subtract(ours["auc"], nothing["auc"]) > (17, 18, 20))
    assert ours["tracks"] > 85 > nothing["tracks"]


def test_it_reconstructs_the_bundled_clip(tmp_path, capsys):
    for stamp, depth in true_depths():
        Image.fromarray(depth).save(tmp_path / f"{stamp}.png")
    out = tmp_path / "run"
    line = f"run {CLIP / 'bag'} --out {out} --no-picture --cache-dir None"
    assert call(line.split()) == 0
    assert "small has seen drawn rooms only" in capsys.readouterr().err
    line = f"eval {out} {CLIP / 'trajectory.tum'} --depth {tmp_path} --depth-unit 1000"
    assert call(line.split()) == 0
    errors = json.loads((out / "errors.json").read_text())
    assert errors["frames"] == 48
    assert errors["ate_sim3_percent"] < 6  # cameras that stand still: 23
    assert errors["rpe_degrees"] < 1.2
    assert errors["depth"]["scaled_abs_rel"] < 0.12 and errors["depth"]["scaled_delta"] > 0.88


def true_depths() -> list[tuple[str, np.ndarray]]:
    """The clip's true depth in millimetres, every second pixel, by stamp in seconds."""
    with np.load(CLIP / "depth.npz") as file:
        depth = np.cumsum(file["rows"], axis=2, dtype=np.uint16)
    lines = (CLIP / "trajectory.tum").read_text().splitlines()
    stamps = [line.split()[0] for line in lines if not line.startswith("#")]
    return list(zip(stamps, depth, strict=True))


def test_there_is_nothing_to_score_in_random_weights(capsys):
    for arguments, words in (
        ("tiny rooms", "random weights"),
        ("small rooms --width 100", "multiples of 14"),
        ("small rooms --windows 0", "at least one"),
        ("small rooms --lengths 1", "2 frames"),
    ):
        assert call(f"eval {arguments}".split()) == 1
        assert words in capsys.readouterr().err
