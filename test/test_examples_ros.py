# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scripts in examples/ that talk to the node, beside a node whose engine is exact."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
from fakes.planar_engine import DEPTH, TIMEOUT
from node_rig import Rig

pytestmark = pytest.mark.ros


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., "Queue[str]"]]:
    """Start a script; its lines come in a queue."""
    running = []

    def start(name: str, *arguments: str) -> "Queue[str]":
        command = [sys.executable, str(root / "examples" / name), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines: Queue[str] = Queue()
        assert process.stdout is not None
        Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()
        running.append(process)
        return lines

    yield start
    for process in running:
        end(process)
        process.stdout.close()


def end(process: subprocess.Popen) -> None:
    """Ask the script to end, again where rclpy missed it.

    rclpy 7.1 wakes `spin` before it ends the context; a `spin` that looks in between waits for its
    next message for ever (about one stop in 150 on a busy machine). A second signal wakes it.
    """
    patience = time.monotonic() + TIMEOUT
    while process.poll() is None:
        assert time.monotonic() < patience, "the script ignores SIGTERM"
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass


def first_line(rig: Rig, lines: "Queue[str]") -> str:
    """Publish images until the script prints; what it prints first."""
    for i in range(int(10 * TIMEOUT)):
        rig.infer(i)
        try:
            return lines.get(timeout=0.1)
        except Empty:
            pass
    raise AssertionError("the script printed nothing")


def test_a_subscriber_prints_a_point_and_the_pose_of_the_same_stamp(rig, start):
    rig.start(min_confidence=1.0)
    line = first_line(rig, start("3_subscribe_to_depth_and_pose.py"))
    point, pose = line.split(", ")
    assert point.split()[3] == f"{DEPTH:.2f}" and pose.endswith("in vggt_world\n")


def test_points_that_are_asked_for_come_back_tracked(rig, start):
    rig.start(min_confidence=1.0)
    line = first_line(rig, start("4_track_points.py", "30", "20"))
    assert line.startswith("point 0: ") and line.endswith("visible 100%\n")
