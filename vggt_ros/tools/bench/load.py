# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: host memory relative to the size of the file, and seconds.

Each load runs in a process of its own, whose peak memory the kernel counts (VmHWM).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row


class LoadCost(NamedTuple):
    """One load: host memory before it and its peak, in bytes, and seconds."""

    before: int
    peak: int
    seconds: float


def rows(options: Options) -> Iterator[Row]:
    """An official float32 file read as bfloat16 with the node's heads; then its converted file."""
    from vggt_ros.engine.compiler import HEADS
    from vggt_ros.model import checkpoint
    from vggt_ros.model.vggt import PRESETS

    dtype = "bfloat16" if options.dtype == "auto" else options.dtype
    with tempfile.TemporaryDirectory(prefix="vggt_bench_") as folder:
        if options.model in PRESETS:
            source = Path(folder) / "model.safetensors"
            write_random(source, options.model)
        else:
            source = checkpoint.locate(options.model)[0]
        size = source.stat().st_size
        official = measure(source, dtype, HEADS)
        share = (official.peak - official.before) / size
        above = f"below 0.7; {size / 1e9:.2f} GB file as {dtype}, above the idle process"
        yield Row("peak_host_over_file/load", share, "", "lower", above)
        whole = "the idle process and its libraries included"
        yield Row("process_peak_over_file/load", official.peak / size, "", "lower", whole)
        yield Row("seconds/load", official.seconds, "s", "lower", "from the page cache or the disk")

        own = Path(folder) / "own.safetensors"
        subprocess.run([*_COMMAND, "write", str(source), str(own), dtype, *HEADS], check=True)
        converted = measure(own, dtype, HEADS)
        share = (converted.peak - converted.before) / size
        yield Row("peak_host_over_file/load_own", share, "", "lower", "the same, converted")
        yield Row("seconds/load_own", converted.seconds, "s", "lower", "the same, converted")


_COMMAND = (sys.executable, "-m", "vggt_ros.tools.bench.load")


def measure(source: Path, dtype: str, heads: tuple[str, ...]) -> LoadCost:
    """Load in a new process."""
    command = [*_COMMAND, "read", str(source), dtype, *heads]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"loading {source} failed: {done.stderr.strip().splitlines()[-1]}")
    return LoadCost(**json.loads(done.stdout.splitlines()[-1]))


def write_random(path: Path, preset: str) -> None:
    """Write a random file in the official layout; its tensors are created one at a time."""
    from vggt_ros.model.tensor_files import write_safetensors
    from vggt_ros.model.vggt import PRESETS
    from vggt_ros.model.weights import table

    config = PRESETS[preset].config
    path.with_name("config.json").write_text(json.dumps({"config": config.to_dict()}))
    entries = table(config)
    write_safetensors(path, {entry.name: _LazyArray(entry.shape) for entry in entries}, {})


class _LazyArray:
    """An array that is created when it is written."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        pool = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
        return np.resize(np.float32(0.02) * pool, self.shape)


def host_memory(field: str) -> int:
    """Bytes of this process; `field` is VmRSS (resident now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise UserError(f"this system does not report {field}")


def main(action: str, source: str, *arguments: str) -> None:
    """`read SOURCE DTYPE HEADS...` or `write SOURCE TO DTYPE HEADS...`: load, or convert."""
    import jax

    from vggt_ros.model import checkpoint

    if action == "write":
        to, dtype, *heads = arguments
        config, weights, _ = checkpoint.open_weights(source, None, heads, dtype)
        checkpoint.save(Path(to), config, weights)
        return
    dtype, *heads = arguments
    jax.block_until_ready(jax.numpy.zeros(1))  # initialises the device before the measurement
    before, start = host_memory("VmRSS"), time.perf_counter()
    _, weights, _ = checkpoint.open_weights(source, None, heads, dtype)
    jax.block_until_ready(weights)
    cost = LoadCost(before, host_memory("VmHWM"), time.perf_counter() - start)
    print(json.dumps(cost._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
