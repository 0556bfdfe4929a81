# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process, with the network `tiny`, and images for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from node_rig import START, Rig

from vggt_ros.ros.messages import header, image_message

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120.0  # seconds; compiling on a busy machine
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


class Process:
    """`scripts/vggt_node`, or another program, with parameters; its output in a file."""

    def __init__(
        self,
        log: Path,
        *arguments: str,
        program: tuple[str, ...] = (),
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ):
        """`within`: a command that executes the rest; `environment`: more variables."""
        self._log = log
        program = program or (str(ROOT / "scripts/vggt_node"),)
        command = [*within, sys.executable, *program, "--ros-args", *arguments]
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, **(environment or {})},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def fatal_lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if "[FATAL]" in line]

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self, number: int, within: float) -> int:
        """Send a signal; the exit code, which must come within so many seconds."""
        self._popen.send_signal(number)
        return self._popen.wait(within)

    def wait(self) -> int:
        """The exit code of a process that ends by itself."""
        return self._popen.wait(TIMEOUT)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


TINY = [
    word
    for argument in (
        *("model:=tiny", "window_size:=2", "network_width:=56", "cache_dir:=''"),
        "image_reliability:=reliable",
    )
    for word in ("-p", argument)
]


def publish_until(rig: Rig, process: Process, met: Callable[[], bool]) -> None:
    """Publish images at 20 Hz until a condition is met."""
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    end = time.monotonic() + TIMEOUT
    for i in count():
        rig.images.publish(image_message(header(START + i * 10**8, "camera"), image))
        time.sleep(0.05)
        if met():
            return
        assert time.monotonic() < end, process.output
