# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the bundled network: on synthetic rooms, and on the clip through the pipeline.

Bounds are the figures of docs/small.md and a margin for other processors; new weights tighten them.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_ros.model.checkpoint import config_of, heads_of
from vggt_ros.model.tensor_files import open_files
from vggt_ros.model.vggt import PRESETS, SHIPPED
from vggt_ros.tools.cli import call
from vggt_ros.train.score import HEADS

CLIP = Path(__file__).parents[1] / "vggt_ros/assets/clip"
# The command line as a user starts it, but with annotations enforced as in all tests.
VGGT = """
from jaxtyping import install_import_hook
install_import_hook("vggt_ros", "beartype.beartype")
from vggt_ros.tools.cli import main
main()
"""


@pytest.fixture
def vggt(root, optimised):
    """Runs a command of `vggt` in a process of its own: this network needs optimised programs."""

    def run(line: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", VGGT, *line.split()]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


def test_the_bundled_file_is_small_and_is_the_preset():
    files = open_files([SHIPPED])
    assert SHIPPED.stat().st_size <= 30e6
    assert config_of(files, SHIPPED) == PRESETS["small"].config and heads_of(files) == HEADS


@pytest.mark.slow
def test_it_is_accurate_on_held_out_rooms(vggt, tmp_path):
    done = vggt(f"eval small rooms --windows 6 --lengths 4 --out {tmp_path}")
    rows = json.loads((tmp_path / "errors.json").read_text())
    assert "AbsRel" in done.stdout
    (ours,), (nothing,) = rows["small"], rows["nothing"]
    assert ours["abs_rel"] < 0.11 < nothing["abs_rel"]
    assert ours["delta"] > nothing["delta"] + 17
    assert all(np.subtract(ours["auc"], nothing["auc"]) > (17, 18, 20))
    assert ours["tracks"] > 85 > nothing["tracks"]


@pytest.mark.slow
def test_it_reconstructs_the_bundled_clip(vggt, tmp_path):
    for stamp, depth in true_depths():
        Image.fromarray(depth).save(tmp_path / f"{stamp}.png")
    out = tmp_path / "run"
    done = vggt(f"run {CLIP / 'bag'} --out {out} --no-picture --cache-dir None")
    assert "small was trained on synthetic rooms only" in done.stderr
    line = f"eval {out} {CLIP / 'trajectory.tum'} --depth {tmp_path} --depth-unit 1000"
    assert call(line.split()) == 0
    errors = json.loads((out / "errors.json").read_text())
    assert errors["frames"] == 48
    assert errors["ate_sim3_percent"] < 6  # static cameras: 23
    assert errors["rpe_degrees"] < 1.7  # frames of refused windows are where they are predicted
    assert errors["depth"]["scaled_abs_rel"] < 0.12 and errors["depth"]["scaled_delta"] > 0.88


def true_depths() -> list[tuple[str, np.ndarray]]:
    """The clip's true depth in millimetres, every second pixel, by stamp in seconds."""
    with np.load(CLIP / "depth.npz") as file:
        depth = np.cumsum(file["rows"], axis=2, dtype=np.uint16)
    lines = (CLIP / "trajectory.tum").read_text().splitlines()
    stamps = [line.split()[0] for line in lines if not line.startswith("#")]
    return list(zip(stamps, depth, strict=True))


def test_scoring_needs_trained_weights_and_valid_sizes(capsys):
    for arguments, words in (
        ("tiny rooms", "random weights"),
        ("small rooms --width 100", "multiples of 14"),
        ("small rooms --windows 0", "at least one"),
        ("small rooms --lengths 1", "2 frames"),
    ):
        assert call(f"eval {arguments}".split()) == 1
        assert words in capsys.readouterr().err
