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
from vggt_ros.tools.bench.main import Options, Row, interleaved, picture_size, preset

HEADS = ("camera", "depth", "points")
Images = Float32[np.ndarray, "1 s h w 3"]
Forward = Callable[[Images], Callable[[], Any]]  # pictures onto the device, then as often as asked


def rows(options: Options) -> Iterator[Row]:
    """Seconds of a pass per window size and, with a reference checkout, the ratio to its model."""
    height, width = picture_size(options)
    ours = full_forward(options)
    theirs = None if options.reference is None else official_forward(options)
    for s in options.windows:
        images = np.random.default_rng(s).random((1, s, height, width, 3), np.float32)
        sides: dict[str, Callable[[], object]] = {"ours": ours(images)}
        if theirs is not None:
            sides["theirs"] = theirs(images)
        seconds = interleaved(sides, options.repeats)
        name = f"{options.model}/{width}x{height}/S{s}"
        yield Row(f"full_s/{name}", seconds["ours"], "s", "lower")
        if "theirs" in seconds:
            ratio = seconds["ours"] / seconds["theirs"]
            against = f"official PyTorch, {seconds['theirs']:.3g} s"
            yield Row(f"full_over_reference/{name}", ratio, "ratio", "lower", against)


def full_forward(options: Options, weights: Any = None) -> Forward:
    """Our model, compiled once per shape; `weights` may hold more heads than these.

    Its layers are a loop or written out as those of the streaming step are on this device.
    """
    import jax

    from vggt_ros.engine.compiler import writes_out
    from vggt_ros.engine.device import choose_device, choose_dtype
    from vggt_ros.model.scan import written_out
    from vggt_ros.model.unstack import apart, together
    from vggt_ros.model.vggt import abstract_model, functional
    from vggt_ros.tools.bench.step import quick_weights

    config = preset(options.model).config
    device = choose_device()
    dtype = choose_dtype(options.dtype, device)
    if weights is None:
        weights = quick_weights(config, HEADS, dtype, device)
    used = {part: weights[part] for part in ("encoder", "tower", *HEADS)}
    apply = functional(abstract_model(config, HEADS, dtype, dtype))[0]
    tree, unrolled = jax.tree.structure(used), writes_out(device)
    flat = apart(used) if unrolled else jax.tree.leaves(used)

    @jax.jit
    def forward(flat: list[Any], images: Any) -> Any:
        with written_out(unrolled):
            return apply(tree.unflatten(together(flat)), images)

    def place(images: Images) -> Callable[[], Any]:
        placed = jax.device_put(images, device)
        return lambda: jax.block_until_ready(forward(flat, placed))

    return place


def official_forward(options: Options, *, device: str = "cpu", compiled: bool = False) -> Forward:
    """The official model of the same size, called as its README does; `device` in PyTorch's words.

    On a GPU that is bfloat16 where the model itself does not switch it off.
    """
    assert options.reference is not None
    if options.model != "vggt-1b":
        raise UserError("the official code builds one size only; add --model vggt-1b")
    if not (options.reference / "vggt" / "models" / "vggt.py").exists():
        raise UserError(f"{options.reference} is no checkout of the official VGGT")
    torch = _torch()
    sys.path.insert(0, str(options.reference))
    from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]

    with torch.device(device):  # weights are drawn where they stay; some constants do not heed it
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
            "--reference needs PyTorch; install: pip install 'vggt_ros[convert]'"
        ) from None
    return torch
