# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt demo`: its monitor with a fake listener, and the whole demo."""

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_ros.errors import UserError
from vggt_ros.ros.harness.listener import OUTPUTS, Received
from vggt_ros.tools import demo
from vggt_ros.tools.runs.format import RunFrame

pytestmark = [pytest.mark.ros, pytest.mark.slow]


class SilentListener:
    """A listener that reports messages on all topics but one."""

    def __init__(self, silent: str):
        self.silent = silent

    def received(self) -> Received:
        counts = {topic: int(topic != self.silent) for topic in OUTPUTS}
        diagnostics = {"state": "ready", "weights": "random"}
        return Received(9, counts, 100, 0.1, (320, 240), diagnostics, None, "tf: off")

    def path(self) -> dict:
        return {}

    def query(self, uv: Any) -> None:
        pass

    def reset(self, timeout_s: float) -> bool:
        return self.silent != "~/reset"


@pytest.mark.parametrize("silent", ["~/tracks", "/tf", "~/reset"])
def test_a_topic_without_messages_fails_the_demo(silent, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "OUTPUT_TIMEOUT", 0.0)
    monkeypatch.setattr(demo, "REPORT_PERIOD", 0.1)
    monitor = demo.Monitor(SilentListener(silent), deque(), None, "tiny")  # pyright: ignore[reportArgumentType]
    monitor.run(0.5, lambda: "")
    assert monitor.finish(tmp_path) == 1
    output = capsys.readouterr()
    assert f"no message on {silent}" in output.err
    assert "9 images in   1 inferences" in output.out and "NOISE" in output.out
    assert output.out.count("tf: off") == 1, "once, until it changes"
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_picture_shows_frames_where_the_map_has_them_at_the_end():
    """A loop moved two of them since they came; the third was refused, and is not in the path."""
    grid = (6, 8)
    k = np.array([[8.0, 0.0, 3.5], [0.0, 8.0, 2.5], [0.0, 0.0, 1.0]])
    frames = [
        RunFrame(
            np.full(grid, depth, np.float32), np.ones(grid, np.float32), k, np.eye(4), stamp,
            np.zeros((*grid, 3), np.uint8),
        )
        for stamp, depth in ((1, 2.0), (2, 2.1), (3, 5.0))
    ]  # fmt: skip
    now = np.eye(4)
    now[:3, 3] = [0.0, 0.0, 0.5]
    shown = demo.mapped(frames, {1: now, 2: now})
    assert [frame.stamp_ns for frame in shown] == [1, 2]
    for frame in shown:
        np.testing.assert_array_equal(frame.world_from_camera, now)
        np.testing.assert_allclose(frame.depth, np.sqrt(2.0 * 2.1), rtol=1e-3)  # one wall
    assert demo.mapped(frames, {}) == []


def test_an_ended_node_ends_the_demo():
    monitor = demo.Monitor(SilentListener(""), deque(), None, "tiny")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="the node ended"):
        monitor.run(5.0, lambda: "the node ended")


@pytest.mark.timeout(900)
def test_the_demo_has_messages_on_all_topics_of_the_node(tmp_path: Path):
    command = [sys.executable, "-m", "vggt_ros.tools.cli", "demo", "--headless", "--seconds", "2"]
    # At a quarter of the speed, so that playing the clip does not slow the compilation down.
    command += ["--window-size", "2", "--rate", "0.25", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["silent"] == [] and summary["looks"] > 0 and summary["reset_answered"]
    assert (tmp_path / "picture.png").exists()
