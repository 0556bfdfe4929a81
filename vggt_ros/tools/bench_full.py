# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A whole forward pass, all frames and all dense heads, random weights: ours and the official one.

Neither tracks points, since no queries are given.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from vggt_ros.errors import UserError
from vggt_ros.tools.bench import Options, Row, interleaved, picture_size, preset

HEADS = ("camera", "depth", "points")
Forward = Callable[[Float32[np.ndarray, "1 s h w 3"]], Any]


def rows(options: Options) -> Iterator[Row]:
    """Seconds of a pass per window size and, with a reference checkout, the ratio to its model."""
    height, width = picture_size(options)
    ours = full_forward(options)
    theirs = None if options.reference is None else official_forward(options)
    for s in options.windows:
        images = np.random.default_rng(s).random((1, s, height, width, 3), np.float32)
        sides: dict[str, Callable[[], object]] = {"ours": lambda images=images: ours(images)}
        if theirs is not None:
            sides["theirs"] = lambda images=images: theirs(images)
        seconds = interleaved(sides, options.repeats)
        name = f"{options.model}/{width}x{height}/S{s}"
        yield Row(f"full_s/{name}", seconds["ours"], "s", "lower")
        if "theirs" in seconds:
            ratio = seconds["ours"] / seconds["theirs"]
            against = f"official PyTorch, {seconds['theirs']:.3g} s"
            yield Row(f"full_over_reference/{name}", ratio, "ratio", "lower", against)


def full_forward(options: Options) -> Forward:
    """Our model, compiled once per shape."""
    import jax
    from flax import nnx

    from vggt_ros.device import choose_device, choose_dtype
    from vggt_ros.model.vggt import VGGT, functional
    from vggt_ros.model.weights import abstract

    config = preset(options.model).config
    device = choose_device()
    dtype = choose_dtype(options.dtype, device)
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = 0.02 * random.standard_normal(leaf.shape, np.float32)
        return jax.device_put(values.astype(leaf.dtype), device)

    weights = jax.tree.map(draw, abstract(config, HEADS, dtype))
    model = nnx.eval_shape(lambda: VGGT(config, heads=HEADS, dtype=dtype, rngs=nnx.Rngs(0)))
    forward = jax.jit(functional(model)[0])
    return lambda images: jax.block_until_ready(forward(weights, images))


def official_forward(options: Options) -> Forward:
    """The official model of the same size, called as its README does, on the CPU."""
    assert options.reference is not None
    if options.model != "vggt-1b":
        raise UserError("the official code builds one size only; add --model vggt-1b")
    if not (options.reference / "vggt" / "models" / "vggt.py").exists():
        raise UserError(f"{options.reference} is no checkout of the official VGGT")
    torch = _torch()
    sys.path.insert(0, str(options.reference))
    from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]

    model = VGGT(enable_track=False).eval()

    def run(images: Float32[np.ndarray, "1 s h w 3"]) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous())

    return run


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(
            "--reference needs PyTorch; install: pip install 'vggt_ros[convert]'"
        ) from None
    return torch
