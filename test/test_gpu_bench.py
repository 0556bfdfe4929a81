# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py on a CPU: names of rows, failures as rows, few packages needed."""

import argparse
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu_rows.correctness import worst_output
from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row

pytestmark = pytest.mark.slow

TINY = ["--model", "tiny", "--device", "cpu", "--width", "56", "--height", "42",
        "--windows", "2", "--repeats", "1"]  # fmt: skip


def table(root: Path, *arguments: str) -> dict[str, tuple[str, str]]:
    """Rows of a run of the script: name to value and remark."""
    command = [sys.executable, "benchmarks/gpu.py", *TINY, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    machine, *_ = done.stdout.splitlines()
    assert "jax " in machine and "Python " in machine
    found = re.findall(r"^\| `(.*)` \| (.*) \| .* \| (.*) \|$", done.stdout, re.MULTILINE)
    assert all(name in done.stderr for name, _, _ in found)  # in the progress too
    return {name: (value, remark) for name, value, remark in found}


def test_rows_are_named_and_a_failure_is_a_row(root):
    rows = table(root, "--groups", "attention", "machine")
    kernels = {f"attention_ms/{kernel}/tiny/{place}"
               for kernel in ("cudnn", "xla") for place in ("frame", "global/S2")}  # fmt: skip
    others = ["gemm_tflops/bfloat16/512x512x512", "copy_gb_s", "cudnn_over_xla/tiny/56x42/S2"]
    assert {*kernels, *others} <= rows.keys()
    for name, (value, remark) in rows.items():
        if "cudnn" in name:
            assert value == "-" and remark.startswith("failed: cuDNN attention does not run here")
        else:
            assert float(value) > 0, (name, remark)
    first, *_, last = rows
    assert first.startswith("gemm_tflops") and last.startswith("cudnn_over")  # by priority


def test_groups_without_time_left_are_listed_as_skipped(root):
    rows = table(root, "--minutes", "0")
    assert list(rows) == [f"skipped/{name}" for name in gpu.GROUPS]
    assert rows["skipped/scan"] == ("-", "0 minutes are over")


def test_without_an_accelerator_every_group_fails_with_the_reason(root):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "benchmarks/gpu.py", "--groups", "dispatch"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert "| `dispatch` | - | - | failed: JAX finds no accelerator" in done.stdout


def test_a_group_that_hangs_is_killed_and_reported(tmp_path):
    options = argparse.Namespace(given=[*TINY])
    (row,) = gpu.run("golden", options, tmp_path, 0.5)
    assert row["name"] == "unfinished/golden" and math.isnan(row["value"])
    assert row["against"] == "failed: not done after 0 s"


def test_a_group_that_crashes_is_reported(tmp_path):
    options = argparse.Namespace(given=["--no-such-option"])
    (row,) = gpu.run("golden", options, tmp_path, 60)
    assert row["against"] == "failed: ended with code 2"


def test_a_crash_of_the_official_model_repeats_the_group_without_it(monkeypatch, capsys):
    runs = []

    def run(name, options, folder, limit, *more):
        runs.append((name, more))
        failed = f"unfinished/{name}", math.nan, "ended with code -6"
        row_name, value, against = failed if not more else ("stream_ms/ours", 1.0, "")
        yield {"name": row_name, "value": value, "unit": "ms", "against": against}

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for variable in ("PYTHONPATH", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    gpu.main([*TINY, "--groups", "latency", "stream", "--reference", "checkout"])
    assert runs == [("stream", ()), ("stream", ("--alone",)), ("latency", ())]
    assert "| `stream_ms/ours` | 1 | ms |" in capsys.readouterr().out


def test_rows_before_a_failure_are_kept():
    def rows():
        yield Row("first", 1.0, "s", "lower")
        raise UserError("no | such card\nmore")

    first, second = attempt("second", rows)
    assert first.name == "first"
    assert (second.name, second.against) == ("second", "failed: no / such card")
    (broken,) = attempt("broken", lambda: 1 / 0)  # type: ignore[arg-type]
    assert broken.against == "failed: ZeroDivisionError: division by zero"


def test_the_worst_output_is_the_one_with_nan():
    expected = {name: np.zeros(2) for name in "abc"}
    found = {"a": np.ones(2), "b": np.array([0.0, np.nan]), "c": np.full(2, 5.0)}
    allowed = {name: {"suggested_atol": 2.0} for name in "abc"}
    assert worst_output({**found, "b": np.zeros(2)}, expected, allowed) == ("c", 2.5)
    worst, share = worst_output(found, expected, allowed)
    assert worst == "b" and not share <= 1


def test_figures_of_one_window_use_the_middle_one(tmp_path):
    options = Options("vggt-1b", (16, 4, 8), 518, 392, 1, None, "bfloat16")
    setup = Setup(options, tmp_path)
    assert setup.middle == 8 and setup.name(8) == "vggt-1b/518x392/S8"


@pytest.mark.parametrize("wrong", [["--windows", "0"], ["--width", "100"], ["--groups", "all"]])
def test_invalid_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(wrong)
    assert "error:" in capsys.readouterr().err


def test_the_network_is_imported_with_stand_ins_of_jaxtyping_and_optax(root):
    """The stand-ins, first on the path, replace the packages."""
    code = """
import jaxtyping, jax
assert "absent" in jaxtyping.__file__
assert jaxtyping.Float[jax.Array, "b s"] is jax.Array
import optax
assert "absent" in optax.__file__
import vggt_ros.engine.engine, vggt_ros.model.stream, vggt_ros.model.checkpoint
from benchmarks.gpu import GROUPS
from importlib import import_module
for name, group in GROUPS.items():
    assert callable(getattr(import_module(f"benchmarks.gpu_rows.{group.module}"), name)), name
"""
    paths = os.pathsep.join([str(root), *map(str, (root / "benchmarks" / "absent").iterdir())])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
