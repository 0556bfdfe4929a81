# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The environment of every test process, set before anything that reads it is imported."""

import atexit
import ctypes
import fcntl
import gc
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import IO, Any

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


UNOPTIMISED = "--xla_backend_optimization_level=0"
if [int(number) for number in version("jax").split(".")[:2]] < [0, 11]:  # 0.12 aborts at it
    UNOPTIMISED += " --xla_cpu_use_fusion_emitters=false"
CACHING = "engine_rig", "golden_model"  # modules of functions that keep networks and programs
KEPT = [0]  # bytes that were left when programs were released last, for want of memory
PEAKS = pytest.StashKey[list[int]]()  # bytes resident, of each test process
ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: with an arena a thread glibc keeps twice as much
DOMAIN, LOCK = own_domain()
atexit.register(LOCK.close)
os.environ |= {
    # Other test processes, and other machines, neither hear these nodes nor are heard.
    "ROS_DOMAIN_ID": str(DOMAIN),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds.xml"),
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds.xml"),
    "ROS_LOG_DIR": str(CACHE / "ros_log"),
    # Compiled programs outlive the run: the second one spends its time on testing. The networks of
    # the tests are tiny, so compiling takes the time, and without optimisation it takes half of it.
    # Tests of whole processes clear the flags (`optimised`): what ships is tested as it ships.
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", UNOPTIMISED),
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several test processes share one accelerator
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}


def pytest_report_header() -> str:
    ros = "present" if has_ros() else "absent: files with tests of the node are not collected"
    return f"ROS_DOMAIN_ID={DOMAIN}; ROS packages {ros}"


@cache
def has_ros() -> bool:
    """Whether rclpy and the generated messages are installed."""
    return bool(find_spec("rclpy") and find_spec("vggt_ros.msg"))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out files that mark all of their tests as `ros`, where there is no ROS to import."""
    if has_ros() or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text()
    marked = re.search(r"^pytestmark = .*pytest\.mark\.ros", text, re.MULTILINE)
    return True if marked else None


@pytest.fixture(autouse=True, scope="module")
def release_networks() -> Iterator[None]:
    """Networks and programs of a test file are not kept for the next: they add up to gigabytes."""
    yield
    for name in CACHING:
        for value in vars(sys.modules.get(name, gc)).values():
            getattr(value, "cache_clear", int)()
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        return_memory()


@pytest.fixture(autouse=True)
def release_memory() -> Iterator[None]:
    """What a test has freed is not kept either, once it is much, nor its programs if need be."""
    yield
    if resident() > 0.9e9:
        return_memory()
    if resident() > 1.1e9 and resident() > KEPT[0] + 0.2e9 and (jax := sys.modules.get("jax")):
        jax.clear_caches()
        return_memory()
        KEPT[0] = resident()


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def return_memory() -> None:
    """Hand free memory to the system; glibc would keep what XLA's compiler has freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report the peak of this process: to the controller, where pytest-xdist has one."""
    peak = 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
    elif not session.config.stash.get(PEAKS, []):
        session.config.stash[PEAKS] = [peak]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    peak = getattr(node, "workeroutput", {}).get("peak", 0)
    node.config.stash[PEAKS] = [*node.config.stash.get(PEAKS, []), peak]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    peaks = ", ".join(f"{peak / 1e9:.2f}" for peak in config.stash.get(PEAKS, []))
    terminalreporter.write_line(
        f"peak memory of each test process, with all its tests [GB]: {peaks}"
    )


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts compile as they do for a user."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def rig() -> Iterator[Any]:
    """A peer that nodes of a test talk to (`node_rig.Rig`), closed with them afterwards."""
    from node_rig import Rig  # needs rclpy, which most tests do not

    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts the node, or another program, as a process (`process_rig.Process`)."""
    from process_rig import Process

    running: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        running.append(Process(tmp_path / f"log{len(running)}", *arguments, **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()
