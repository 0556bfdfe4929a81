# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process, on the real `tiny` network: it starts, works, and ends on request."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_rig import Rig
from process_rig import ENVIRONMENT, TINY, publish_until
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.ros, pytest.mark.slow]


# The node on a device that fails during an inference: every window's program raises XLA's error.
DEVICE_FAILS = """
import sys
from jax.errors import JaxRuntimeError
from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.shapes import WindowProgram
from vggt_ros.ros.node import main

def fail(*_):
    raise JaxRuntimeError("INTERNAL: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")

call = Compiler.__call__
Compiler.__call__ = lambda self, shape: fail if isinstance(shape, WindowProgram) else call(self, shape)
sys.exit(main())
"""  # noqa: E501

# The node without tracing: every program must come from the cache.
NO_TRACING = """
import sys
from vggt_ros.engine.compiler import Compiler
from vggt_ros.ros.node import main

Compiler.trace = None
sys.exit(main())
"""


# ---- signals and errors -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_it_without_a_traceback(start, number):
    process = start("-p", "model:=tiny", "-p", "cache_dir:=''")
    time.sleep(0.5)  # Python runs and imports
    assert process.end(number, within=10) == 0, process.output
    assert "Traceback" not in process.output


def test_a_signal_while_it_compiles_ends_it_within_five_seconds(start, rig: Rig):
    process = start(*TINY)
    publish_until(rig, process, lambda: "compiling" in process.output)
    assert process.end(signal.SIGTERM, within=5) == 0, process.output
    assert "Traceback" not in process.output


def test_a_failed_device_ends_the_process_with_1_for_its_supervisor(start, rig: Rig):
    process = start(*TINY, program=("-c", DEVICE_FAILS))
    publish_until(rig, process, lambda: process.ended)
    assert process.wait() == 1, process.output
    (line,) = process.fatal_lines
    assert "CUDA_ERROR_LAUNCH_FAILED" in line
    assert "Traceback" not in process.output
    rig.wait_for_diagnostics("CUDA_ERROR_LAUNCH_FAILED")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "model:=no/such/file.safetensors"), "no/such/file.safetensors"),
        (("-p", "min_confidence:=2"), "min_confidence must be a floating-point number"),
        (
            ("-p", "world_frame:=odom", "-p", "tf_mode:=map_to_odom"),
            "world_frame and odom_frame are both 'odom', and tf_mode map_to_odom sends transforms",
        ),
        (
            ("-p", "base_frame:=/odom", "-p", "tf_mode:=odom_to_base"),
            "odom_frame and base_frame are both 'odom'",
        ),
    ],
)
def test_an_error_at_the_start_is_one_line_and_exits_with_1(start, arguments, words):
    process = start(*arguments, "-p", "cache_dir:=''")
    assert process.wait() == 1
    assert words in process.output
    assert len(process.fatal_lines) == 1 and "Traceback" not in process.output


# ---- the real network ---------------------------------------------------------------------------


def test_the_node_runs_the_programs_of_vggt_warm_until_a_signal(start, rig: Rig, tmp_path: Path):
    cache = tmp_path / "cache"
    options = "--network-width 56 --window-size 2 --input-size 64 48 --cache-dir".split()
    command = [sys.executable, "-m", "vggt_ros.tools.cli", "warm", "tiny", *options, str(cache)]
    warmed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert warmed.returncode == 0, warmed.stderr
    assert "4/6  window of 3 56x42" in warmed.stderr
    programs = set(cache.glob("jit_call*"))

    depths = rig.subscribe("/vggt/depth/image", Image)
    process = start(*TINY, "-p", f"cache_dir:={cache}", program=("-c", NO_TRACING))

    def has_full_windows() -> bool:
        reports = rig.received["/diagnostics"]
        return bool(reports) and rig.diagnostics().get("window") == "2 frames"

    publish_until(rig, process, lambda: has_full_windows() and len(depths) >= 2)
    rig.wait_for_diagnostics(compiling="nothing")
    assert "an inference failed" not in process.output
    assert set(cache.glob("jit_call*")) == programs, "nothing was compiled again"
    assert depths[-1].width == 56
    assert "tiny has random weights: its geometry is noise" in process.output
    assert process.output.count("random weights") == 1, "a warning is logged once"
    assert process.end(signal.SIGINT, within=5) == 0, process.output
    assert "Traceback" not in process.output


def test_the_node_compiles_what_is_not_cached_and_publishes_depth(start, rig: Rig):
    process = start(*TINY)
    depths = rig.subscribe("/vggt/depth/image", Image)
    publish_until(rig, process, lambda: bool(depths))
    assert depths[-1].width == 56
