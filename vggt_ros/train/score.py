# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval MODEL rooms`: metrics of a network on scenes held out from training.

Two judges: rooms of the renderer that drew the training data, and clips of another one (`judge/`),
which shows what a network has learnt of its own renderer only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from vggt_ros.errors import UserError, install_extra
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.vggt import PRESETS, abstract_model, functional
from vggt_ros.train.metrics import HEADER, Metrics, Predict, constant_baseline, held_out, measure

HEADS = ("camera", "depth", "tracks")  # those that are scored
QUERIES = 32
AS_SEQUENCE = (
    "warning: the layout is view_time, and a window in a room is of one camera: it is scored as one"
    " sequence, as in joint, where weights that were trained by views are less accurate"
)
CLIPS = Path("~/.cache/vggt_ros/judge")  # those of the other renderer, once made


def score(
    model: str, windows: int, lengths: tuple[int, ...], size: tuple[int, int] = (0, 0),
    other: int = 0,
) -> dict[str, list[Metrics]]:  # fmt: skip
    """Metrics of the network and of the baseline, for `windows` windows of each length.

    `size` is (height, width) in network pixels; 0: the model's width, and three quarters of that.
    `other`: clips of each motion of the other renderer. Raises UserError for a network without
    trained weights or without one of the heads, and where that renderer is missing.
    """
    if other:
        _check_renderer()
    preset = PRESETS.get(model)
    if preset is not None and preset.weights is None:
        raise UserError(f"{model} has random weights, which cannot be scored; name a checkpoint")
    config, weights, _ = open_weights(model, heads=HEADS, dtype=jnp.float32)
    if config.layout == "view_time":
        print(AS_SEQUENCE)
    height, width = size
    width = width or config.aggregator.img_size
    patch = config.aggregator.patch_size
    height = height or max(1, round(0.75 * width / patch)) * patch
    if width % patch or height % patch:
        raise UserError(f"{width}x{height}: both must be multiples of {patch}")
    apply = jax.jit(functional(abstract_model(config, HEADS))[0])

    def predict(batch: Any) -> Any:
        return apply(weights, batch.images, batch.queries)

    found = compare(model, predict, windows, lengths, (height, width))
    if other:
        found |= judge(predict, other, lengths, (height, width), CLIPS.expanduser())
    return found


def _check_renderer() -> None:
    try:
        import mitsuba  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "clips of the other renderer need mitsuba; install it"
            f" {install_extra('judge')}, or ask for none: --other 0"
        ) from None


def judge(
    predict: Predict, count: int, lengths: tuple[int, ...], size: tuple[int, int], folder: Path
) -> dict[str, list[Metrics]]:
    """Metrics on `count` clips of each motion of the other renderer, and on all of them.

    Clips are made once, as long as the longest of `lengths`, and kept in `folder`; shorter windows
    are their first frames.
    """
    from vggt_ros.train.judge.motions import MOTIONS
    from vggt_ros.train.judge.render import batch_of, clips

    drawn = {}
    for motion in MOTIONS:
        made = clips(motion, count, max(lengths), *size, QUERIES, folder)
        drawn[motion] = list(tqdm(made, desc=f"clips of other/{motion}", total=count, leave=False))
    everything = [clip for found in drawn.values() for clip in found]

    def rows(predictor: Predict, chosen: list[Any]) -> list[Metrics]:
        return [measure(predictor, [batch_of(clip, s) for clip in chosen]) for s in lengths]

    found = {f"other/{motion}": rows(predict, chosen) for motion, chosen in drawn.items()}
    found["other/all"] = rows(predict, everything)
    return found | {"other/nothing": rows(constant_baseline, everything)}


def compare(
    name: str,
    predict: Predict,
    windows: int,
    lengths: tuple[int, ...],
    size: tuple[int, int],
    queries: int = QUERIES,
    views: Mapping[int, int] | None = None,
) -> dict[str, list[Metrics]]:
    """Metrics of `predict` and of the baseline, "nothing", on the same rooms.

    `size` is (height, width); `views` says of how many cameras windows of so many frames are.
    """
    predictors: dict[str, Predict] = {name: predict, "nothing": constant_baseline}
    found: dict[str, list[Metrics]] = {key: [] for key in predictors}
    for frames in lengths:
        rendered = held_out(frames, *size, windows, queries, views=(views or {}).get(frames, 1))
        label = f"rendering windows of {frames}"
        batches = list(tqdm(rendered, desc=label, total=windows, leave=False))
        for key, predictor in predictors.items():
            found[key].append(measure(predictor, batches))
    return found


def table(found: dict[str, list[Metrics]]) -> str:
    """The metrics as lines of text, under a heading."""
    width = max(map(len, found))
    rows = [row.row(name.ljust(width)) for name, rows in found.items() for row in rows]
    return "\n".join([HEADER.rjust(len(rows[0])), *rows])
