# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Python's time to pass all weights of the model to a compiled program, once a step.

The program itself is trivial: on a CPU the network would run in the calling thread.
"""

import time
from collections.abc import Iterator

import numpy as np

from vggt_ros.tools.bench.main import Options, Row, image_size, interleaved, preset

HEADS = ("camera", "depth", "tracks")
CALLS = 100  # a measurement


def rows(options: Options) -> Iterator[Row]:
    """Milliseconds a call."""
    import jax

    from vggt_ros.model.weights import abstract

    height, width = image_size(options)
    shapes = jax.tree.leaves(abstract(preset(options.model).config, HEADS, np.float32))
    weights = [jax.device_put(np.zeros(1, np.float32)) for _ in shapes]  # only their number matters
    touch = jax.jit(lambda weights, frames: frames[0, 0], keep_unused=True)
    for s in options.windows:
        frames = np.zeros((s, height, width, 3), np.uint8)
        program = touch.lower(weights, frames).compile()

        def calls(program=program, frames=frames) -> None:
            for _ in range(CALLS):
                program(weights, frames)

        # Time of this thread alone, so that other load on the machine does not count.
        seconds = interleaved({"calls": calls}, options.repeats, time.thread_time)["calls"]
        name = f"dispatch_ms/{options.model}/S{s}"
        yield Row(name, 1e3 * seconds / CALLS, "ms", "lower", f"below 0.3; {len(weights)} arrays")
