# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The environment of every test process, set before anything that reads it is imported."""

import fcntl
import os
import tempfile
from itertools import count
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"


def own_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other test process of this machine uses while the file stays open."""
    folder = Path(tempfile.gettempdir(), f"vggt_ros_tests_{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for number in count():
        domain = (os.getpid() + number) % 100 + 1  # 0 is everybody's; above 101 ports run out
        lock = (folder / str(domain)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return domain, lock
        except BlockingIOError:
            lock.close()
            if number == 1000:
                raise
    raise AssertionError("unreachable")


DOMAIN, LOCK = own_domain()
os.environ |= {
    # Other test processes, and other machines, neither hear these nodes nor are heard.
    "ROS_DOMAIN_ID": str(DOMAIN),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds.xml"),
    "ROS_LOG_DIR": str(CACHE / "ros_log"),
    # Compiled programs outlive the run: the second one spends its time on testing.
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several test processes share one accelerator
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}


def pytest_report_header() -> str:
    return f"ROS_DOMAIN_ID={DOMAIN}"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
