# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scripts in examples/ that need no ROS run as they are, on the network that comes along."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_ros.tools.runs.format import read_ply
from vggt_ros.tools.sources.open import CLIP, open_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three images of the bundled clip."""
    path = tmp_path_factory.mktemp("clip")
    for frame, _ in zip(open_source(CLIP), range(3), strict=False):
        Image.fromarray(frame.rgb).save(path / f"{frame.stamp_ns}.png")
    return path


def run(root: Path, name: str, *arguments: str | Path) -> list[str]:
    """A script of examples/ in a process of its own; its lines."""
    command = [sys.executable, str(root / "examples" / name), *map(str, arguments)]
    path = {**os.environ, "PYTHONPATH": str(root)}  # the package need not be installed
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=path
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_network_on_two_images_prints_depth_and_the_second_camera(root, folder):
    first, second = sorted(folder.iterdir())[:2]
    lines = run(root, "1_network_on_two_images.py", first, second)
    assert [line.split(",")[0] for line in lines[:2]] == ["depth (168", "depth (168"]
    pose = np.array(" ".join(lines[3:]).replace("[", "").replace("]", "").split(), float)
    rotation = pose.reshape(3, 4)[:, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=5e-3)


def test_the_pipeline_on_a_folder_prints_a_path_and_writes_a_cloud(root, folder, tmp_path):
    lines = run(root, "2_pipeline_on_a_video.py", folder, tmp_path / "cloud.ply")
    assert sum("camera at" in line for line in lines) == 3
    assert len(read_ply(tmp_path / "cloud.ply").points) == int(lines[-1].split()[0]) > 1000


def test_examples_are_numbered_and_say_how_to_run_them(root):
    scripts = sorted((root / "examples").glob("*.py"))
    assert [script.name[0] for script in scripts] == ["1", "2", "3", "4"]
    for script in scripts:
        assert f"python examples/{script.name}" in script.read_text().split('"""')[1]
