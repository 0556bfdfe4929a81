# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Child processes: output, failures, and their end with the block or with the parent."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vggt_ros.tools.children import ChildProcesses

SLEEPER = [sys.executable, "-S", "-c", "import time; print('here', flush=True); time.sleep(60)"]


def has_ended(pid: int) -> bool:
    """Whether a process has ended; a zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"
    except OSError:
        return True


def test_an_exception_stops_the_processes_after_their_output_was_passed_on():
    lines: list[tuple[str, str]] = []
    children = ChildProcesses(lambda name, line: lines.append((name, line)))
    pids: list[int] = []
    with pytest.raises(RuntimeError), children:
        children.start(one=SLEEPER, two=SLEEPER)
        pids += children.pids.values()
        while len(lines) < 2:
            time.sleep(0.01)
        raise RuntimeError
    assert all(map(has_ended, pids))
    assert sorted(lines) == [("one", "here"), ("two", "here")]


def test_a_process_that_ended_is_reported_with_its_exit_code():
    with ChildProcesses(lambda name, line: None) as children:
        children.start(node=[sys.executable, "-S", "-c", "print('no camera'); raise SystemExit(3)"])
        while not (failure := children.failure()):
            time.sleep(0.01)
    assert failure.startswith("the node ended with exit code 3")


def test_the_processes_end_when_the_parent_is_killed():
    program = f"""
from vggt_ros.tools.children import ChildProcesses
import time
with ChildProcesses(lambda name, line: print(children.pids["a"], flush=True)) as children:
    children.start(a={SLEEPER!r})
    time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while not has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert has_ended(pid)
