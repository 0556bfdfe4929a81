# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's network: memory once programs are compiled."""

import subprocess
import sys

import pytest

from vggt_ros.ros.health.diagnostics import Health

pytestmark = pytest.mark.ros


# As after a compilation: small blocks, of which the last stays.  A process of its own: what other
# tests have freed before would be used first, and nothing would have to be taken from the system.
FREED = """
import os
from pathlib import Path
from vggt_ros.ros.opening import give_back_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
blocks = [bytes(2000) for _ in range(50_000)]
pin = bytes(2000)
taken = resident() - before
del blocks
kept = resident() - before
give_back_memory()
print(taken, kept, resident() - before)
"""


def test_what_was_freed_below_something_kept_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    taken, kept, left = map(int, done.stdout.split())
    assert taken > 80e6 and kept > 0.9 * taken, "nothing is kept, so nothing is tested"
    assert left < 0.3 * taken


def test_the_end_of_compiling_is_known():
    health = Health(lambda: 0.0, lambda _: None, lambda _: None)
    steps = ((), ("a", "b"), ("b",), (), ())
    assert [health.set_compiling(step) for step in steps] == [False, False, False, True, False]
