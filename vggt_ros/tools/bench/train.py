# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt bench train`: samples a second of the training loop, and its time besides the step."""

from collections.abc import Iterator

from vggt_ros.tools.bench.main import Options, Row


def rows(options: Options) -> Iterator[Row]:
    """Training steps on synthetic rooms, with the longest of the windows."""
    from vggt_ros.train.run import bench_train

    width = options.width or 112
    height = options.height or round(0.75 * width / 14) * 14
    for row in bench_train(
        options.model, frames=max(options.windows), height=height, width=width,
        steps=options.repeats, dtype=options.dtype,
    ):  # fmt: skip
        yield Row(**row)
