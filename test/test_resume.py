# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Long commands that are interrupted by Ctrl-C, in a process of their own, and run once more."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.planar_engine import write_frames

from vggt_ros.tools.cli import call
from vggt_ros.tools.runs.format import open_run

# `vggt ARGUMENTS` with an exact network, which is interrupted at its n-th inference.
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import vggt_ros.engine.engine
from fakes.planar_engine import planar_engine_of_a_run
from vggt_ros.tools import cli

engine, at = planar_engine_of_a_run(), {at}
engine.vary_scale = False  # whose units would depend on how often this process asks
infer = engine.infer
def interrupted(*args, **options):
    result = infer(*args, **options)
    if len(engine.inferences) == at:
        os.kill(os.getpid(), {signal})
    return result
engine.infer = interrupted
vggt_ros.engine.engine.open_engine = lambda *_, **__: engine
sys.argv = ["vggt", *{arguments!r}]
try:
    cli.main()
finally:
    print("asked the network", len(engine.inferences), "times")
"""


def vggt(*arguments: object, at: int = -1, signal: str = "signal.SIGINT"):
    """The finished process."""
    program = PROGRAM.format(
        tests=str(Path(__file__).parent), at=at, signal=signal, arguments=[*map(str, arguments)]
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten images."""
    return write_frames(tmp_path / "images", 10)


def assert_same_run(found: Path, expected: Path) -> None:
    for name in ("trajectory.tum", "points.ply"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    one, other = open_run(found), open_run(expected)
    assert len(one.files) == len(other.files) == 10
    for a, b in zip(one.frames(), other.frames(), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    for key in ("segments", "map", "looks", "scale", "uncertain_frames", "interrupted"):
        assert one.summary[key] == other.summary[key], key


@pytest.mark.slow
def test_ctrl_c_leaves_a_readable_run_and_the_same_command_goes_on(folder, tmp_path):
    """Also after a kill, which leaves no time to write anything."""
    options = ["--no-picture", "--scale-source", "height", "--camera-height", "1.5"]
    whole = vggt("run", folder, "--out", tmp_path / "whole", *options)
    assert "asked the network 10 times" in whole.stdout, whole.stderr
    command = ["run", folder, "--out", tmp_path / "out", *options]
    first = vggt(*command, at=4)
    assert first.returncode == 130 and "vggt: interrupted" in first.stderr, first.stderr
    cut = open_run(tmp_path / "out")
    assert cut.summary["interrupted"] and 3 <= len(cut.files) <= 4
    assert len(cut.cloud().points) > 0
    assert (
        call(["export", str(tmp_path / "out"), "--to", "kitti", "--out", str(tmp_path / "k")]) == 0
    )
    killed = vggt(*command, at=3, signal="signal.SIGKILL")
    assert killed.returncode == -9
    assert open_run(tmp_path / "out").summary["interrupted"]
    last = vggt(*command)
    assert last.returncode == 0, last.stderr
    assert "inferences of the interrupted run are reused" in last.stderr
    asked = int(last.stdout.split()[-2])
    assert 3 <= asked <= 6, last.stdout  # of ten; the others were recorded
    assert_same_run(tmp_path / "out", tmp_path / "whole")
    assert not (tmp_path / "out" / ".record").exists()


@pytest.mark.slow
def test_another_question_is_not_answered_from_the_record(folder, tmp_path):
    vggt("run", folder, "--out", tmp_path / "out", "--no-picture", at=5)
    record = tmp_path / "out" / ".record"
    assert len(list(record.glob("[0-9]*.npz"))) >= 4
    other = vggt("run", folder, "--out", tmp_path / "out", "--no-picture", "--window-size", "2")
    assert other.returncode == 0 and open_run(tmp_path / "out").summary["looks"] == 10
    assert int(other.stdout.split()[-2]) >= 8  # windows of one and two frames are the same
    vggt("run", folder, "--out", tmp_path / "out", "--no-picture", at=5)
    anew = vggt("run", folder, "--out", tmp_path / "out", "--no-picture", "--no-resume")
    assert "asked the network 10 times" in anew.stdout and not record.exists()


@pytest.mark.slow
def test_an_interrupted_export_leaves_the_older_one(folder, tmp_path):
    assert vggt("run", folder, "--out", tmp_path / "run", "--no-picture").returncode == 0
    for kind in ("nerfstudio", "rosbag2"):
        out = tmp_path / kind
        arguments = ["export", str(tmp_path / "run"), "--to", kind, "--out", str(out)]
        assert call(arguments) == 0
        before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        program = f"""
import os, signal, sys
from vggt_ros.tools import cli
from vggt_ros.tools.runs.format import Run
frame, count = Run.frame, 0
def interrupted(self, index):
    global count
    count += 1
    if count == 15:
        os.kill(os.getpid(), signal.SIGINT)
    return frame(self, index)
Run.frame = interrupted
sys.argv = ["vggt", *{arguments!r}]
cli.main()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 130, done.stderr
        after = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert after == before and not list(tmp_path.glob(f".{kind}*"))
        assert call(arguments) == 0
