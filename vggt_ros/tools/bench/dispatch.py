# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What it costs Python to hand every weight of the model to a compiled program, once per step.

The program itself does next to nothing: on a CPU the network would run in the calling thread.
"""

import time
from collections.abc import Iterator

import numpy as np

from vggt_ros.tools.bench.main import Options, Row, interleaved, picture_size, preset

HEADS = ("camera", "depth", "tracks")
CALLS = 100  # per measurement


def rows(options: Options) -> Iterator[Row]:
    """Milliseconds per call."""
    import jax

    from vggt_ros.model.weights import abstract

    height, width = picture_size(options)
    shapes = jax.tree.leaves(abstract(preset(options.model).config, HEADS, np.float32))
    weights = [jax.device_put(np.zeros(1, np.float32)) for _ in shapes]  # their number is the cost
    touch = jax.jit(lambda weights, frames: frames[0, 0], keep_unused=True)
    for s in options.windows:
        frames = np.zeros((s, height, width, 3), np.uint8)
        program = touch.lower(weights, frames).compile()

        def calls(program=program, frames=frames) -> None:
            for _ in range(CALLS):
                program(weights, frames)

        # Time of this thread alone: other programs on the machine are not counted.
        seconds = interleaved({"calls": calls}, options.repeats, time.thread_time)["calls"]
        name = f"dispatch_ms/{options.model}/S{s}"
        yield Row(name, 1e3 * seconds / CALLS, "ms", "lower", f"below 0.3; {len(weights)} arrays")
