# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run over hours is judged by: figures of the node's process, read from outside."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import psutil

SHARED = Path("/dev/shm")
SETTLED = 300.0  # seconds, by which caches, path and map are full
MAX_GROWTH = 0.02  # of resident memory after that
MAX_LOST = 0.01  # of the images that were sent: the node's queue is short on purpose
MAX_SLOWER = 0.1  # median latency of the last sixth of the run against the first
OUTCOMES = (  # of an image: each that is received has exactly one
    "images used", "dropped", "skipped by max_rate_hz", "images refused", "waiting for a program",
    "discarded by a reset",
)  # fmt: skip


class Sample(NamedTuple):
    """The process at one moment, and the latencies since the one before."""

    seconds: float  # since the start
    resident: int  # bytes
    threads: int
    files: int  # descriptors that are open
    segments: int  # of shared memory that are mapped
    cpu: float  # seconds of computing, so far
    median_ms: float  # from an image's stamp to the arrival of its depth; NaN: none arrived
    p99_ms: float
    images: int  # sent so far
    depths: int  # received so far


class NodeProcess:
    """Figures of a running process, and the shared memory that it ever mapped."""

    def __init__(self, pid: int):
        self._process = psutil.Process(pid)
        self.mapped: set[Path] = set()

    def sample(
        self, seconds: float, latencies_ms: Sequence[float], images: int, depths: int
    ) -> Sample:
        """The figures now.  Raises `psutil.NoSuchProcess` for one that has ended."""
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info()
            threads = self._process.num_threads()
        mapped = self._segments()
        self.mapped |= mapped
        middle = median(latencies_ms) if latencies_ms else float("nan")
        p99 = quantiles(latencies_ms, n=100)[98] if len(latencies_ms) > 1 else middle
        return Sample(
            seconds, memory.rss, threads, self._process.num_fds(), len(mapped),
            times.user + times.system, middle, p99, images, depths,
        )  # fmt: skip

    def _segments(self) -> set[Path]:
        lines = Path(f"/proc/{self._process.pid}/maps").read_text().splitlines()
        paths = (line.partition("/dev/shm/")[2] for line in lines if "/dev/shm/" in line)
        return {SHARED / path for path in paths if path and not path.endswith("(deleted)")}

    @property
    def left(self) -> list[str]:
        """Segments that it mapped, that still exist, and that no process maps any more.

        Ports are left out: Fast DDS leaves their files (50 kB each), and uses them again.
        """
        mine = {path for path in self.mapped if path.exists() and "port" not in path.name}
        for maps in Path("/proc").glob("[0-9]*/maps"):
            try:
                text = maps.read_text() if mine else ""
            except OSError:  # it has ended
                continue
            mine = {path for path in mine if str(path) not in text}
        return sorted(path.name for path in mine)


class Outcome(NamedTuple):
    """A whole run; `diagnostics` are the node's last ones."""

    samples: list[Sample]
    diagnostics: Mapping[str, str]
    sent: int
    exit_code: int | None  # None: it had to be killed
    crashed: bool
    left: list[str]
    log_problems: list[str]


def faults(run: Outcome, *, judge_latency: bool) -> list[str]:
    """Why a run has failed; empty: it has passed."""
    found: list[str] = []
    if run.crashed:
        found.append(f"the node ended by itself, with exit code {run.exit_code}")
    elif run.exit_code != 0:
        found.append(f"the node did not end on SIGINT: exit code {run.exit_code}")
    found += [f"in its log: {line}" for line in run.log_problems]
    if run.left:
        found.append(f"shared memory is left: {', '.join(run.left)}")
    found += _accounting(run)
    end = run.samples[-1].seconds if run.samples else 0.0
    settled = [s for s in run.samples if s.seconds >= min(SETTLED, end / 2)]
    if len(settled) < 4:
        return [*found, "the run was too short to be judged"]
    growth = memory_growth(settled)
    if growth > MAX_GROWTH:
        found.append(f"resident memory grew by {growth:.1%} once it had settled")
    for name in ("threads", "files", "segments"):
        few = len(settled) // 3
        before, after = (
            max(getattr(s, name) for s in part) for part in (settled[:few], settled[-few:])
        )
        if after > before:
            found.append(f"{name} grew from {before} to {after}")
    slower = slowdown(run.samples)
    if judge_latency and slower > MAX_SLOWER:
        found.append(f"the median latency grew by {slower:.1%} from the first sixth to the last")
    return found


def memory_growth(settled: Sequence[Sample]) -> float:
    """Relative, between the medians of the first and the last sixth."""
    few = max(len(settled) // 6, 1)
    first, last = (median(s.resident for s in part) for part in (settled[:few], settled[-few:]))
    return last / first - 1.0


def slowdown(samples: Sequence[Sample]) -> float:
    """The relative change of the median latency from the first sixth of a run to the last."""
    served = [s.median_ms for s in samples if s.median_ms == s.median_ms]
    few = max(len(served) // 6, 1)
    if not served:
        return float("inf")
    return median(served[-few:]) / median(served[:few]) - 1.0


def _accounting(run: Outcome) -> list[str]:
    if not run.diagnostics:
        return ["the node published no diagnostics"]
    counts = {name: int(run.diagnostics[name]) for name in OUTCOMES}
    received = int(run.diagnostics["images received"])
    found = []
    if received != sum(counts.values()):
        found.append(f"{received} images were received, but their outcomes are {counts}")
    if received < (1 - MAX_LOST) * run.sent:
        found.append(f"{run.sent} images were sent, but {received} received")
    return found


def save(run: Outcome, problems: list[str], path: Path, options: Mapping[str, object]) -> None:
    """All figures as JSON."""
    fields = run._asdict() | {"samples": [s._asdict() for s in run.samples]}
    fields |= {"faults": problems, "options": dict(options), "processors": os.cpu_count()}
    path.write_text(json.dumps(fields, indent=1))
