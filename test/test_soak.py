# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The soak test: what it fails for, and a run of some seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from process_rig import ENVIRONMENT, ROOT
from soak.figures import OUTCOMES, Outcome, Sample, faults

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ACCOUNTS = {"images received": "100", **dict.fromkeys(OUTCOMES, "0"), "images used": "100"}


def hour(**changes) -> Outcome:
    """A run that passes, a sample a minute; `changes` are of a sample's index, or of the run."""
    run = Outcome([sample(i) for i in range(60)], ACCOUNTS, 100, 0, False, [], [])
    per_sample = {name: of for name, of in changes.items() if name in Sample._fields}
    samples = [s._replace(**{name: of(i) for name, of in per_sample.items()})
               for i, s in enumerate(run.samples)]  # fmt: skip
    rest = {name: value for name, value in changes.items() if name not in per_sample}
    return run._replace(samples=samples, **rest)


def sample(i: int) -> Sample:
    growing = 400_000_000 + (i < 5) * i * 20_000_000  # caches fill in the first five minutes
    resident = 500_000_000 if i >= 5 else growing
    return Sample(60.0 * i, resident, 20, 30, 4, 30.0 * i, 50.0, 80.0, 1800 * i, 1700 * i)


def test_an_hour_in_which_nothing_grows_passes():
    assert faults(hour(), judge_latency=True) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resident": lambda i: 500_000_000 + 400_000 * i}, "resident memory grew by 3.7%"),
        ({"threads": lambda i: 20 + (i > 50)}, "threads grew from 20 to 21"),
        ({"files": lambda i: 30 + i // 20}, "files grew from 31 to 32"),
        ({"segments": lambda i: 4 + (i > 55)}, "segments grew from 4 to 5"),
        ({"median_ms": lambda i: 50.0 + i / 4}, "median latency grew by 2"),
        ({"diagnostics": ACCOUNTS | {"images used": "99"}}, "100 images were received, but their"),
        ({"sent": 110}, "110 images were sent, but 100 received"),
        ({"diagnostics": {}}, "no diagnostics"),
        ({"crashed": True, "exit_code": -11}, "ended by itself, with exit code -11"),
        ({"exit_code": None}, "did not end on SIGINT"),
        ({"left": ["fastrtps_1"]}, "shared memory is left: fastrtps_1"),
        ({"log_problems": ["Traceback (most recent call last):"]}, "in its log: Traceback"),
        ({"samples": []}, "too short to be judged"),
    ],
)
def test_a_run_fails_with_its_reason(changes: dict, reason: str):
    run = hour(**{name: value for name, value in changes.items() if name != "samples"})
    run = run._replace(samples=changes["samples"]) if "samples" in changes else run
    (fault,) = faults(run, judge_latency=True)
    assert reason in fault


def test_a_run_of_seconds_accounts_for_each_image_and_draws_its_curve(tmp_path: Path):
    command = [sys.executable, str(ROOT / "test/soak/run.py"), "--busy", "--rate", "15"]
    command += ["--minutes", "0.2", "--period", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert "soak: figures in" in done.stdout, done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    settling = ("resident memory grew", "threads grew", "files grew", "segments grew",
                "too short", "images were sent, but")  # fmt: skip
    # Programs are still being compiled: what must be constant later is not yet.
    assert not [fault for fault in found["faults"] if not any(word in fault for word in settling)]
    assert (done.returncode == 0) is not bool(found["faults"])
    assert int(found["diagnostics"]["images received"]) > 50 and len(found["samples"]) > 3
    assert (tmp_path / "soak.png").stat().st_size > 10_000
