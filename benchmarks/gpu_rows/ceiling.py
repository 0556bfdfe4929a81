# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Peak rates of the GPU, measured: products of large matrices, and copies in memory."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.engine.device import choose_device, choose_dtype
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.main import Row, interleaved

AT_ONCE = 8  # products in flight, to hide the dispatch


def machine(setup: Setup) -> Iterator[Row]:
    """A square product, the reference of all shares; the largest one of a step; a copy."""
    side = _side()
    tokens = setup.middle * flops.tokens_of(setup.config, setup.size)
    dim = setup.config.aggregator.embed_dim
    hidden = int(dim * setup.config.aggregator.mlp_ratio)
    for m, k, n in ((side, side, side), (tokens, dim, hidden), (tokens, hidden, dim)):
        name = f"gemm_tflops/{setup.options.dtype}/{m}x{k}x{n}"
        yield from attempt(
            name,
            lambda m=m, k=k, n=n, name=name: [
                Row(name, gemm_rate(setup, m, k, n) / 1e12, "TFLOP/s", "higher", "measured")
            ],
        )
    yield from attempt("copy_gb_s", lambda: [_copy(setup)])


def ceiling(setup: Setup) -> float:
    """Operations a second of the square product, in the arithmetic of the step."""
    side = _side()
    return gemm_rate(setup, side, side, side)


def gemm_rate(setup: Setup, m: int, k: int, n: int) -> float:
    """Operations a second of an (m, k) by (k, n) product."""
    dtype = choose_dtype(setup.options.dtype, choose_device())
    a, b = (jax.random.normal(jax.random.key(i), shape, dtype)
            for i, shape in enumerate([(m, k), (k, n)]))  # fmt: skip
    product = jax.jit(jnp.matmul)
    sides = {"gemm": lambda: jax.block_until_ready([product(a, b) for _ in range(AT_ONCE)])}
    return AT_ONCE * 2 * m * k * n / interleaved(sides, setup.options.repeats)["gemm"]


def _copy(setup: Setup) -> Row:
    size = 1 << (18 if _on_cpu() else 28)
    x = jnp.zeros(size, np.float32)
    more = jax.jit(lambda x: x + 1)
    sides = {"copy": lambda: jax.block_until_ready([more(x) for _ in range(AT_ONCE)])}
    seconds = interleaved(sides, setup.options.repeats)["copy"] / AT_ONCE
    return Row("copy_gb_s", 2 * x.nbytes / seconds / 1e9, "GB/s", "higher", "read and written")


def _side() -> int:
    return 512 if _on_cpu() else 8192


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
