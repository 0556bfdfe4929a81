# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A full forward pass, all frames and all dense heads, random weights; ours and the official one.

Without query points, so that neither computes tracks.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.bench.main import Options, Row, image_size, interleaved, preset

HEADS = ("camera", "depth", "points")
Images = Float32[np.ndarray, "1 s h w 3"]
Forward = Callable[[Images], Callable[[], Any]]  # images to the device; the result runs a pass


def rows(options: Options) -> Iterator[Row]:
    """Seconds of a pass per window size and, with a reference checkout, the ratio to its model."""
    height, width = image_size(options)
    ours = full_forward(options)
    official = None if options.reference is None else official_forward(options)
    for s in options.windows:
        images = np.random.default_rng(s).random((1, s, height, width, 3), np.float32)
        sides: dict[str, Callable[[], object]] = {"ours": ours(images)}
        if official is not None:
            sides["official"] = official(images)
        seconds = interleaved(sides, options.repeats)
        name = f"{options.model}/{width}x{height}/S{s}"
        yield Row(f"full_s/{name}", seconds["ours"], "s", "lower")
        if "official" in seconds:
            ratio = seconds["ours"] / seconds["official"]
            against = f"official PyTorch, {seconds['official']:.3g} s"
            yield Row(f"full_over_reference/{name}", ratio, "ratio", "lower", against)


def full_forward(options: Options, weights: Any = None) -> Forward:
    """Our model, compiled once per shape; `weights` may hold more heads than `HEADS`.

    Its layers are a loop or unrolled, as in the streaming step on this device.
    """
    import jax

    from vggt_ros.engine.compiler import unrolls_layers
    from vggt_ros.engine.device import choose_device, choose_dtype
    from vggt_ros.model.random_weights import random_weights
    from vggt_ros.model.scan import unrolled
    from vggt_ros.model.unstack import stack_layers, unstack_layers
    from vggt_ros.model.vggt import abstract_model, functional, select_heads

    config = preset(options.model).config
    device = choose_device()
    dtype = choose_dtype(options.dtype, device)
    if weights is None:
        weights = random_weights(config, HEADS, dtype, pooled_on=device)
    used = select_heads(weights, HEADS)
    apply = functional(abstract_model(config, HEADS, dtype, dtype))[0]
    tree, unroll = jax.tree.structure(used), unrolls_layers(device)
    flat = unstack_layers(used) if unroll else jax.tree.leaves(used)

    @jax.jit
    def forward(flat: list[Any], images: Any) -> Any:
        with unrolled(unroll):
            return apply(tree.unflatten(stack_layers(flat)), images)

    def place(images: Images) -> Callable[[], Any]:
        placed = jax.device_put(images, device)
        return lambda: jax.block_until_ready(forward(flat, placed))

    return place


def official_forward(options: Options, *, device: str = "cpu", compiled: bool = False) -> Forward:
    """The official model of the same size, called as in its README; `device` as PyTorch names it.

    On a GPU it runs under bfloat16 autocast, where the model does not disable it.
    """
    assert options.reference is not None
    if options.model != "vggt-1b":
        raise UserError("the official code builds one size only; add --model vggt-1b")
    if not (options.reference / "vggt" / "models" / "vggt.py").exists():
        raise UserError(f"{options.reference} is not a checkout of the official VGGT")
    torch = _torch()
    sys.path.insert(0, str(options.reference))
    from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]

    with torch.device(device):  # creates the weights there; `to` moves the constants
        model = VGGT(enable_track=False).to(device).eval()
    run = torch.compile(model) if compiled else model
    half = device != "cpu"

    def place(images: Images) -> Callable[[], Any]:
        placed = torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous().to(device)

        def forward() -> Any:
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
                out = run(placed)
            if half:
                torch.cuda.synchronize()
            return out

        return forward

    return place


def _torch() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(
            f"--reference needs PyTorch; install it {install_extra('convert')}"
        ) from None
    return torch
