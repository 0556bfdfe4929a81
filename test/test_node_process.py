# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process, on the real `tiny` network: it starts, works, and ends as asked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from node_rig import START, Rig
from sensor_msgs.msg import Image

from vggt_ros.ros.messages import header, image_message

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 120.0  # seconds; compiling on a busy machine


# The node on a device that dies while it looks: every window's program raises what XLA would.
LOST = """
import sys
from jax.errors import JaxRuntimeError
from vggt_ros.engine.compiler import Compiler
from vggt_ros.ros.node import main
from vggt_ros.engine.shapes import See

def lost(*_):
    raise JaxRuntimeError("INTERNAL: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")

compile = Compiler.__call__
Compiler.__call__ = lambda self, shape: lost if isinstance(shape, See) else compile(self, shape)
sys.exit(main())
"""

# The node where nothing can be traced: what is not in the cache cannot be had.
UNTRACED = """
import sys
from vggt_ros.engine.compiler import Compiler
from vggt_ros.ros.node import main

Compiler._traced = None
sys.exit(main())
"""


class Process:
    """`scripts/vggt_node`, or another program, with parameters; its output in a file."""

    def __init__(self, log: Path, *arguments: str, program: tuple[str, ...] = ()):
        self.log = log
        program = program or (str(ROOT / "scripts/vggt_node"),)
        command = [sys.executable, *program, "--ros-args", *arguments]
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self, number: int, within: float) -> int:
        """Send a signal; the exit code, which must come within so many seconds."""
        self._popen.send_signal(number)
        return self._popen.wait(within)

    def wait(self) -> int:
        return self._popen.wait(DEADLINE)

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    running: list[Process] = []

    def start(*arguments: str, program: tuple[str, ...] = ()) -> Process:
        running.append(Process(tmp_path / f"log{len(running)}", *arguments, program=program))
        return running[-1]

    yield start
    for process in running:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it_quietly_within_ten_seconds(start, number):
    process = start("-p", "model:=tiny", "-p", "cache_dir:=''")
    time.sleep(1.0)  # Python is up and imports
    assert process.end(number, within=10) == 0, process.said
    assert "Traceback" not in process.said


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


TINY = [
    word
    for argument in (
        *("model:=tiny", "window_size:=2", "network_width:=56", "cache_dir:=''"),
        "image_reliability:=reliable",
    )
    for word in ("-p", argument)
]


def stream_until(rig: Rig, process: Process, met: Callable[[], bool]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    end = time.monotonic() + DEADLINE
    for i in count():
        rig.pictures.publish(image_message(header(START + i * 10**8, "camera"), picture))
        time.sleep(0.05)
        if met():
            return
        assert time.monotonic() < end, process.said


def test_a_signal_while_it_compiles_ends_it_quietly_within_five_seconds(start, rig: Rig):
    process = start(*TINY)
    stream_until(rig, process, lambda: "compiling" in process.said)
    assert process.end(signal.SIGTERM, within=5) == 0, process.said
    assert "Traceback" not in process.said


def test_the_real_network_turns_images_into_depth_until_a_signal(start, rig: Rig):
    process = start(*TINY)
    rig.listen("/vggt/depth/image", Image)
    stream_until(rig, process, lambda: len(rig.heard["/vggt/depth/image"]) >= 2)
    assert rig.heard["/vggt/depth/image"][-1].width == 56
    assert "tiny has random weights: its geometry is noise" in process.said
    assert process.said.count("random weights") == 1, "once is enough"
    assert process.end(signal.SIGINT, within=5) == 0, process.said
    assert "Traceback" not in process.said


def test_a_start_finds_all_that_vggt_warm_compiled(start, rig: Rig, tmp_path: Path):
    cache = tmp_path / "cache"
    options = "--network-width 56 --window-size 2 --input-size 64 48 --cache-dir".split()
    command = [sys.executable, "-m", "vggt_ros.tools.cli", "warm", "tiny", *options, str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    warmed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert warmed.returncode == 0, warmed.stderr
    assert "3/3  window of 2 56x42" in warmed.stderr
    programs = set(cache.glob("jit_call*"))
    process = start(*TINY, "-p", f"cache_dir:={cache}", program=("-c", UNTRACED))

    def full() -> bool:
        return bool(rig.heard["/diagnostics"]) and rig.diagnostics().get("window") == "2 frames"

    stream_until(rig, process, full)
    rig.until_diagnosed("compiling nothing")
    assert "a look failed" not in process.said
    assert set(cache.glob("jit_call*")) == programs, "nothing was compiled anew"


def test_a_lost_device_ends_the_process_with_1_for_its_supervisor(start, rig: Rig):
    process = start(*TINY, program=("-c", LOST))
    stream_until(rig, process, lambda: process.ended)
    assert process.wait() == 1, process.said
    complaints = [line for line in process.said.splitlines() if "[FATAL]" in line]
    assert len(complaints) == 1 and "CUDA_ERROR_LAUNCH_FAILED" in complaints[0]
    assert "Traceback" not in process.said
    rig.until_diagnosed("CUDA_ERROR_LAUNCH_FAILED")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "model:=no/such/file.safetensors"), "no/such/file.safetensors"),
        (("-p", "min_confidence:=2"), "min_confidence must be a number with a point"),
    ],
)
def test_what_cannot_start_says_so_in_one_line_and_exits_with_1(start, arguments, words):
    process = start(*arguments, "-p", "cache_dir:=''")
    assert process.wait() == 1
    assert words in process.said
    complaints = [line for line in process.said.splitlines() if "[FATAL]" in line]
    assert len(complaints) == 1 and "Traceback" not in process.said
