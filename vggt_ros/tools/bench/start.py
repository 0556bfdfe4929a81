# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A start in a fresh process: seconds until its programs are there, weights set aside; memory.

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
from vggt_ros.tools.bench.main import Options, picture_size


class Start(NamedTuple):
    """One start; memory in bytes."""

    seconds: float
    weights: int
    host_peak: int  # of the process; on a CPU the weights are in it
    device_peak: int  # 0 where the device does not count


def measured(options: Options, s: int, cache: Path, *, traced: bool = False) -> Start:
    """A start for windows of `s`; `traced`: compiled programs are kept, traced ones are not."""
    height, width = picture_size(options)
    command = [sys.executable, "-m", "vggt_ros.tools.bench.start", options.model, options.dtype]
    command += [str(width), str(height), str(s), str(cache)] + ["traced"] * traced
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the start failed: {said[-1]}")
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def main(
    model: str, dtype: str, width: str, height: str, window: str, cache_dir: str, how: str = ""
) -> None:
    """Imports, compiles or loads what was compiled, looks twice, prints a `Start`.

    The looks are for the memory they take: how long they last is the network's affair.
    """
    began = time.perf_counter()
    import jax

    from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled
    from vggt_ros.engine.engine import Engine

    keep_compiled(Path(cache_dir))
    device = choose_device()
    awake = time.perf_counter()
    from vggt_ros.engine.compiler import HEADS
    from vggt_ros.tools.bench.load import host_memory
    from vggt_ros.tools.bench.main import preset
    from vggt_ros.tools.bench.step import export_dir, quick_weights

    config, default_width, _ = preset(model)
    number = choose_dtype(dtype, device)
    weights = quick_weights(config, HEADS, number, device)
    drawn = time.perf_counter()
    engine = Engine(
        model,
        config,
        weights,
        device=device,
        dtype=number,
        default_width=default_width,
        random=True,
        cache_dir=None if how == "traced" else export_dir(Path(cache_dir)),
    )
    size, s = (int(height), int(width)), int(window)
    engine.warm(size, [s], depth_frames=1)
    seconds = awake - began + time.perf_counter() - drawn
    pictures = [np.zeros((*size, 3), np.uint8)] * (s + 1)
    engine.look(tuple(range(s)), pictures[:s], depth_frames=1)
    engine.look(tuple(range(1, s + 1)), pictures[:s], depth_frames=1)
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
