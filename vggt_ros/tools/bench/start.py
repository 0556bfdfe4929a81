# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A start in a new process: seconds until its programs are ready, without weights; memory.

python -m vggt_ros.tools.bench.start MODEL DTYPE WIDTH HEIGHT WINDOW CACHE_DIR [traced]
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, image_size


class Start(NamedTuple):
    """One start; memory in bytes."""

    seconds: float
    weights: int
    host_peak: int  # of the process; on a CPU it includes the weights
    device_peak: int  # 0 if the device does not report it


def measured(options: Options, s: int, cache: Path, *, traced: bool = False) -> Start:
    """A start for windows of `s`; `traced`: keep compiled programs, but not traced ones."""
    height, width = image_size(options)
    command = [sys.executable, "-m", "vggt_ros.tools.bench.start", options.model, options.dtype]
    command += [str(width), str(height), str(s), str(cache)] + ["traced"] * traced
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the start failed: {lines[-1]}")
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def main(
    model: str, dtype: str, width: str, height: str, window: str, cache_dir: str, mode: str = ""
) -> None:
    """Import, compile or load compiled programs, run two inferences, print a `Start`.

    The inferences are there for their memory; their time is not part of the start.
    """
    began = time.perf_counter()
    import jax

    from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled
    from vggt_ros.engine.engine import Engine

    keep_compiled(Path(cache_dir))
    device = choose_device()
    device_ready = time.perf_counter()
    from vggt_ros.engine.compiler import HEADS
    from vggt_ros.model.random_weights import random_weights
    from vggt_ros.tools.bench.load import host_memory
    from vggt_ros.tools.bench.main import preset
    from vggt_ros.tools.bench.step import export_dir

    config, default_width, _ = preset(model)
    number = choose_dtype(dtype, device)
    weights = random_weights(config, HEADS, number, pooled_on=device)
    weights_ready = time.perf_counter()
    engine = Engine(
        model,
        config,
        weights,
        device=device,
        dtype=number,
        default_width=default_width,
        random=True,
        cache_dir=None if mode == "traced" else export_dir(Path(cache_dir)),
    )
    size, s = (int(height), int(width)), int(window)
    engine.warm(size, [s], depth_frames=1)
    seconds = device_ready - began + time.perf_counter() - weights_ready
    images = [np.zeros((*size, 3), np.uint8)] * (s + 1)
    engine.infer(tuple(range(s)), images[:s], depth_frames=1)
    engine.infer(tuple(range(1, s + 1)), images[:s], depth_frames=1)
    counted = device.memory_stats() or {}
    start = Start(
        seconds,
        sum(leaf.nbytes for leaf in jax.tree.leaves(weights)),
        host_memory("VmHWM"),
        counted.get("peak_bytes_in_use", 0),
    )
    print(json.dumps(start._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
