# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo and its parts: a clip that never ends, children that always do, silence by its name."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_ros.errors import UserError
from vggt_ros.ros.harness.listener import OUTPUTS, Heard
from vggt_ros.ros.harness.player import (
    STAMP,
    STAMP_AT,
    Recorded,
    backwards,
    header_stamp,
    restamped,
    scheduled,
)
from vggt_ros.tools import demo
from vggt_ros.tools.children import Children

pytestmark = pytest.mark.ros
SLEEPER = [sys.executable, "-S", "-c", "import time; print('here', flush=True); time.sleep(60)"]


def recorded(time_ns: int, stamp_ns: int) -> Recorded:
    raw = bytearray(20)
    STAMP.pack_into(raw, STAMP_AT, *divmod(stamp_ns, 10**9))
    return Recorded("/image", time_ns, bytes(raw), True)


# ---- player


def test_a_restamped_message_keeps_every_other_byte():
    raw = bytes(range(32))
    moved = restamped(raw, 1_700_000_000_123_456_789)
    assert header_stamp(moved) == 1_700_000_000_123_456_789
    assert moved[:4] == raw[:4] and moved[12:] == raw[12:]


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_stamps_keep_their_spacing_and_go_on_through_every_lap(rate):
    clip = [recorded(5_000 + 100_000_000 * i, 7_000 + 100_000_000 * i) for i in range(4)]
    played = list(scheduled([clip] * 3, 10**18, rate))
    stamps = np.array([header_stamp(message.raw) for message in played])
    assert np.allclose(np.diff(stamps), 100_000_000 / rate)
    assert (stamps == [message.time_ns for message in played]).all() and stamps[0] == 10**18


def test_stamps_that_lag_behind_the_recording_still_do_when_played():
    clip = [recorded(0, 0), recorded(100, 100), recorded(200, 190)]
    clip = [message._replace(time_ns=message.time_ns + 10**9) for message in clip]
    clip[0] = recorded(10**9, 50)
    lags = [m.time_ns - header_stamp(m.raw) for m in scheduled([clip], 10**18)]
    assert lags == [0, 50, 60]


def test_there_and_back_the_camera_never_jumps():
    """Image and camera_info of one frame share their stamp on the way back as well."""
    frames = [
        recorded(10**9 + 100 * i + late, 10**9 + 100 * i - 7)._replace(topic=topic)
        for i in range(3)
        for late, topic in ((0, f"/image/{i}"), (3, f"/camera_info/{i}"))
    ]
    played = list(scheduled([frames, backwards(frames), frames], 10**18))
    assert [m.topic[-1] for m in played] == list("001122221100001122")
    stamps = np.array([header_stamp(message.raw) for message in played])
    assert (stamps[::2] == stamps[1::2]).all() and (np.diff(stamps[::2]) > 50).all()
    assert (np.diff([message.time_ns for message in played]) > 0).all()
    assert not list(backwards([]))


def test_an_empty_bag_is_refused():
    with pytest.raises(UserError, match="holds no messages"):
        list(scheduled([[]], 0))


# ---- children


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"
    except OSError:
        return True


def test_children_end_when_the_block_fails_and_what_they_said_is_heard():
    heard: list[tuple[str, str]] = []
    children = Children(lambda name, line: heard.append((name, line)))
    pids: list[int] = []
    with pytest.raises(RuntimeError), children:
        children.start(one=SLEEPER, two=SLEEPER)
        pids += [process.pid for process in children._running.values()]
        while len(heard) < 2:
            time.sleep(0.01)
        raise RuntimeError
    assert all(map(gone, pids))
    assert sorted(heard) == [("one", "here"), ("two", "here")]


def test_a_dead_child_is_named_with_its_last_words():
    with Children(lambda name, line: None) as children:
        children.start(node=[sys.executable, "-S", "-c", "print('no camera'); raise SystemExit(3)"])
        while not (words := children.dead()):
            time.sleep(0.01)
    assert words.startswith("the node ended with exit code 3")


def test_children_end_even_when_the_parent_is_killed():
    program = f"""
from vggt_ros.tools.children import Children
import time
with Children(lambda name, line: print(children._running["a"].pid, flush=True)) as children:
    children.start(a={SLEEPER!r})
    time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


# ---- watch


class Quiet:
    """A listener to a node that never says one thing."""

    def __init__(self, silent: str):
        self.silent = silent

    def heard(self) -> Heard:
        counts = {topic: int(topic != self.silent) for topic in OUTPUTS}
        return Heard(9, counts, 100, 0.1, (320, 240), {"state": "ready", "weights": "random"}, None)

    def follow(self, uv: Any) -> None:
        pass

    def reset(self, timeout_s: float) -> bool:
        return self.silent != "~/reset"


@pytest.mark.parametrize("silent", ["~/tracks", "/tf", "~/reset"])
def test_a_silent_promise_is_named_and_fails(silent, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "GRACE", 0.0)
    watch = demo.Watch(Quiet(silent), deque(), None, "tiny")  # pyright: ignore[reportArgumentType]
    watch.go(0.5, lambda: "")
    assert watch.conclude(tmp_path) == 1
    output = capsys.readouterr()
    assert f"silent although promised: {silent}" in output.err
    assert "9 frames in   1 looks" in output.out and "NOISE" in output.out
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_dead_node_ends_the_demo():
    watch = demo.Watch(Quiet(""), deque(), None, "tiny")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="the node ended"):
        watch.go(5.0, lambda: "the node ended")


@pytest.mark.timeout(900)
def test_the_whole_robot_speaks_on_every_topic_it_promised(tmp_path: Path):
    command = [sys.executable, "-m", "vggt_ros.tools.cli", "demo", "--headless", "--seconds", "2"]
    command += ["--window-size", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["silent"] == [] and summary["looks"] > 0 and summary["reset_answered"]
    assert (tmp_path / "picture.png").exists()
