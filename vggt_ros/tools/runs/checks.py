# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of a run, checked before the network is loaded."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.settings import Settings
from vggt_ros.tools.option_sets import check_limits
from vggt_ros.tools.sources.fitting import Fitting
from vggt_ros.tools.sources.images import Order
from vggt_ros.tools.sources.open import open_source
from vggt_ros.tools.sources.open_rig import open_rig
from vggt_ros.tools.sources.rig import RigSource
from vggt_ros.tools.sources.source import Source
from vggt_ros.windows.instants import TOLERANCE

OFFLINE_SCALES = ("fixed", "height")  # sources of scale that need no more than images
LIMITS = {"max_points": (0, math.inf), "seed": (0, 2**31 - 1)}
OF_RIG = "baseline"  # and what a rig has by itself


def settings_among(arguments: Mapping[str, Any], *, is_rig: bool) -> Settings:
    """The settings of the pipeline among a command's arguments, by their names.

    Raises `UserError` for wrong ones, and for those that need more than images.
    """
    names = {row.name for row in fields(Settings)} & arguments.keys()
    settings = Settings(**{name: arguments[name] for name in names})
    check_limits(arguments, **LIMITS)
    settings.masking()  # of a file that is there
    check_offline(settings, is_rig=is_rig)
    return settings


def check_offline(settings: Settings, *, is_rig: bool = False) -> None:
    """Raises `UserError` for settings that need more than images, or a mask that is not given."""
    if settings.mask_network != "none" and not (settings.mask_file or settings.mask_sky):
        raise UserError(
            "--mask-network is of what is masked, and nothing is: give --mask-file or --mask-sky"
        )
    for name in settings.sources:
        if name not in OFFLINE_SCALES and not (is_rig and name == OF_RIG):
            raise UserError(
                f"scale source '{name}' needs a robot: it is measured by the node only; here use"
                f" {' or '.join(OFFLINE_SCALES)}"
            )


def open_images(
    source: Path | Sequence[Path], cameras: str, *, topic: str | None, order: Order, fit: Fitting,
    one_pass: bool, sync_tolerance: float, min_cameras: int, **options: Any,
) -> Source | RigSource:  # fmt: skip
    """The source.  Raises `UserError` for options of a rig without cameras, and the reverse.

    `options` are those that the sources of one camera and of a rig share.
    """
    if not cameras:
        for name, given in (("sync-tolerance", sync_tolerance != TOLERANCE),
                            ("min-cameras", min_cameras != 1)):  # fmt: skip
            if given:
                raise UserError(f"--{name} is of a rig: give --cameras, or leave it out")
        return open_source(source, topic=topic, order=order, **options)
    for name, given in (("topic", topic is not None), ("order", order != "auto"),
                        ("fit", fit != "auto"), ("all", one_pass)):  # fmt: skip
        if given:
            raise UserError(f"--{name} is of one camera, and --cameras of several: leave one out")
    paths = [source] if isinstance(source, Path) else list(source)
    if len(paths) != 1:
        raise UserError("--cameras is of one bag, or of one folder with a folder of each camera")
    return open_rig(paths[0], cameras, sync_tolerance=sync_tolerance, min_cameras=min_cameras,
                    **options)  # fmt: skip


def read_queries(path: Path) -> Float32[np.ndarray, "n 2"]:
    """Pixels to track, from a file with a JSON list of [u, v]."""
    try:
        queries = np.array(json.loads(path.read_text()), np.float32)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a JSON list of [u, v]: {error}") from None
    if queries.ndim != 2 or queries.shape[1] != 2 or not np.isfinite(queries).all():
        raise UserError(f"{path} is not a JSON list of [u, v]; write for example [[320, 240]]")
    return queries


def check_first(
    first: Frame,
    notes: Sequence[str],
    intrinsics: str,
    rectify: str,
    queries: Float[np.ndarray, "n 2"] | None,
) -> None:
    """Raises `UserError` for a first image that lacks its intrinsics, or a pixel to track.

    `notes` of the source say why there are no intrinsics.
    """
    asked = "--intrinsics camera_info" if intrinsics == "camera_info" else ""
    asked = "--rectify on, by camera_info" if rectify == "on" else asked
    if asked and first.intrinsics is None:
        raise UserError(
            f"{asked}, but there is none that fits the images"
            f" ({'; '.join(notes) or 'the source has none'}); give --camera-info"
        )
    if queries is not None:
        check_inside(queries, first)


def check_inside(queries: Float[np.ndarray, "n 2"], first: Frame) -> None:
    """Raises `UserError` for a pixel outside the first image."""
    height, width = first.rgb.shape[:2]
    outside = (
        (queries < -0.5).any(1) | (queries[:, 0] > width - 0.5) | (queries[:, 1] > height - 0.5)
    )
    if outside.any():
        u, v = queries[outside][0]
        raise UserError(f"query [{u:g}, {v:g}] is outside the first image of {width}x{height}")
