# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Starts of a process without and with caches, its device memory, loading a checkpoint."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.errors import UserError
from vggt_ros.tools.bench.load import rows as load_rows
from vggt_ros.tools.bench.main import Row
from vggt_ros.tools.bench.start import measured


def starts(setup: Setup) -> Iterator[Row]:
    """A start without a cache, then one with it; the other groups use the cache too."""
    s, model = setup.middle, setup.options.model
    kept = "" if find_spec("flatbuffers") else "; flatbuffers is missing: no traced program is kept"
    for which, against in (("first", "empty cache"), ("second", f"below 3 for vggt-1b{kept}")):
        name, against = f"ready_s/{which}_start/{model}", f"S{s}; {against}"

        def row(name: str = name, against: str = against) -> list[Row]:
            seconds = measured(setup.options, s, setup.programs).seconds
            return [Row(name, seconds, "s", "lower", against)]

        yield from attempt(name, row)


def traced(setup: Setup) -> Iterator[Row]:
    """A start with cached compiled programs, but without exported traces."""
    s, cache = setup.middle, setup.folder / "traced"
    measured(setup.options, s, cache, traced=True)
    seconds = measured(setup.options, s, cache, traced=True).seconds
    against = f"compiled programs kept, traced ones not; S{s}"
    yield Row(f"ready_s/traced_start/{setup.options.model}", seconds, "s", "lower", against)


def memory(setup: Setup) -> Iterator[Row]:
    """Peak device memory of a process that runs one window, by the device's own count."""
    for s in setup.options.windows:
        name = f"device_peak_gb/{setup.name(s)}"

        def row(s: int = s, name: str = name) -> list[Row]:
            start = measured(setup.options, s, setup.programs)
            if not start.device_peak:
                raise UserError("this device does not report its memory")
            against = f"weights {start.weights / 1e9:.4g}; host {start.host_peak / 1e9:.3g} at most"
            return [Row(name, start.device_peak / 1e9, "GB", "lower", against)]

        yield from attempt(name, row)


def load(setup: Setup) -> Iterator[Row]:
    """Loading a float32 file in the official layout, then its converted file."""
    from vggt_ros.model.weights import abstract, flatten

    leaves = flatten(abstract(setup.config)).values()
    size = 4 * sum(int(np.prod(leaf.shape)) for leaf in leaves)
    free = shutil.disk_usage(Path(tempfile.gettempdir())).free
    if free < 2 * size:
        raise UserError(f"{size / 1e9:.3g} GB file, and its copy: only {free / 1e9:.3g} GB free")
    yield from load_rows(replace(setup.options, dtype="auto"))
