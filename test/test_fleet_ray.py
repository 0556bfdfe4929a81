# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Twenty bags on two workers of Ray: one bag is torn, one worker is killed, the rest is resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tagged_images import EPOCH
from test_bags import bag, camera_info, image

from vggt_ros.tools.runs.batch import STATE
from vggt_ros.tools.runs.format import open_run

pytest.importorskip("ray", reason="several workers need the extra [fleet]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BAGS, FRAMES, TORN = 20, 3, 7
PATIENCE = 900.0  # seconds, of a busy machine


@pytest.fixture
def bags(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(BAGS):
        images = [image(number + i, EPOCH + i * 10**8) for i in range(FRAMES)]
        topics = {"/cam/image_raw": images, "/cam/camera_info": [camera_info()]}
        paths.append(bag(tmp_path / f"bag_{number:02d}", topics))
    torn = next(paths[TORN].glob("*.mcap"))
    torn.write_bytes(torn.read_bytes()[:100])
    return paths


def at_work(parent: int) -> list[int]:
    """Processes of Ray below this one that have a source at hand."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, name = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rsplit(")")[1].split()[1])
        names[int(folder.name)] = name.decode(errors="replace")
    found = []
    for pid in parents:
        above = pid
        while above in parents and above != parent:
            above = parents[above]
        if above == parent and names[pid].startswith("ray::work"):
            found.append(pid)
    return found


def until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_worker_and_a_killed_command_lose_nothing(bags, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vggt_ros.tools.cli", "fleet", *map(str, bags)]
    command += ["--out", str(out), "--workers", "2", "--model", "tiny", "--network-width", "56"]
    command += ["--window-size", "2", "--no-picture", "--cache-dir", str(tmp_path / "cache")]

    def done() -> int:
        return json.loads((out / STATE).read_text())["done"] if (out / STATE).exists() else 0

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    first = start()
    try:
        until(lambda: done() >= 3, first)
        until(lambda: at_work(first.pid), first)
        os.kill(at_work(first.pid)[0], signal.SIGKILL)
        before = done()
        until(lambda: done() >= before + 3, first)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=PATIENCE)
    finally:
        first.kill()
    assert first.returncode == 130, errors
    state = json.loads((out / STATE).read_text())
    assert state["interrupted"] and 6 <= state["done"] < BAGS
    assert "the same command goes on" in errors
    kept = {
        entry["folder"]: (out / entry["folder"] / "summary.json").stat().st_mtime_ns
        for entry in state["sources"]
        if entry["state"] == "done"
    }

    second = start()
    try:
        table, errors = second.communicate(timeout=PATIENCE)
    finally:
        second.kill()
    assert second.returncode == 1, errors
    state = json.loads((out / STATE).read_text())
    assert (state["done"], state["failed"], state["waiting"]) == (BAGS - 1, 1, 0)
    failed = [entry for entry in state["sources"] if entry["state"] == "failed"]
    assert [entry["folder"] for entry in failed] == [f"bag_{TORN:02d}"]
    assert f"bag_{TORN:02d}" in failed[0]["reason"]
    for folder, written in kept.items():
        assert (out / folder / "summary.json").stat().st_mtime_ns == written, "it is kept"
    for entry in state["sources"]:
        if entry["state"] == "done":
            assert len(open_run(out / entry["folder"]).files) == entry["frames"] == FRAMES
    assert f"{BAGS - 1} of {BAGS} sources done, 1 failed" in table
    assert "random weights" in errors, "tiny is not trained"
