# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A start in a fresh process: prints the seconds until a window was looked at, weights set aside.

python -m vggt_ros.tools.bench_start MODEL DTYPE WIDTH HEIGHT WINDOW CACHE_DIR
"""

import sys
import time
from pathlib import Path

import numpy as np


def main(model: str, dtype: str, width: str, height: str, window: str, cache_dir: str) -> None:
    """Imports, compiles or loads what was compiled, looks once."""
    began = time.perf_counter()
    from vggt_ros.infer import open_engine

    imported = time.perf_counter()
    engine = open_engine(model, dtype=dtype, cache_dir=Path(cache_dir))
    opened = time.perf_counter()
    size, s = (int(height), int(width)), int(window)
    engine.warm(size, [s], depth_frames=1)
    engine.look(tuple(range(s)), [np.zeros((*size, 3), np.uint8)] * s, depth_frames=1)
    print(imported - began + time.perf_counter() - opened)


if __name__ == "__main__":
    main(*sys.argv[1:])
