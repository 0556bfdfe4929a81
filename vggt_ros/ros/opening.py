# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network of the node: opened as its parameters say, with JAX's own environment."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vggt_ros.engine.interface import Compiling
from vggt_ros.errors import UserError
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.unused import unused_parameters

MEMORY_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX's, which the user may have set
COMPILING_PERIOD = 0.1  # seconds between two questions for a program
CLOSE_PERIOD = 1.0  # seconds of each wait for the compiler


def open_engine(parameters: Parameters, progress: Callable[[str], None]) -> Any:
    """Open the network that the parameters name."""
    # Read by JAX when it first touches the accelerator, which is within this call.
    os.environ.setdefault(MEMORY_VARIABLE, str(parameters.memory_fraction))
    from vggt_ros.engine.engine import open_engine

    return open_engine(
        parameters.model,
        dtype=parameters.dtype,
        device=parameters.device,
        cache_dir=Path(parameters.cache_dir).expanduser() if parameters.cache_dir else None,
        seed=parameters.seed,
        background=True,
        progress=progress,
        layout=None if parameters.layout == "auto" else parameters.layout,
    )


def cautions(parameters: Parameters) -> list[str]:
    """What is not used as it was given, for the user; cheap, since some of it changes."""
    found, given = list(parameters.settings().cautions), os.environ.get(MEMORY_VARIABLE)
    found += unused_parameters(parameters)
    if given is not None and given != str(parameters.memory_fraction):
        found.append(
            f"memory_fraction is {parameters.memory_fraction:g}, but not used: the environment has"
            f" {MEMORY_VARIABLE}={given}, which comes first"
        )
    return found


def network_cautions(engine: Any, parameters: Parameters) -> list[str]:
    """What this network does not use as it was given, for the user."""
    found = []
    if parameters.seed != Parameters.seed and not engine.random_weights:
        found.append(f"seed is {parameters.seed}, but not used: {engine.name} has trained weights")
    if parameters.track_queries != Parameters.track_queries and engine.trackless:
        found.append(
            f"track_queries is {parameters.track_queries}, but not used: {engine.trackless}"
        )
    is_cpu = getattr(engine.device, "platform", "") == "cpu"
    if parameters.memory_fraction != Parameters.memory_fraction and is_cpu:
        found.append(
            f"memory_fraction is {parameters.memory_fraction:g}, but not used: the network is on"
            " the CPU; set device to gpu, if there is one"
        )
    return found


def described(engine: Any) -> dict[str, str]:
    """What was opened, for /diagnostics."""
    return {
        "model": engine.name,
        "layout": engine.layout,
        "device": str(engine.device),
        "dtype": str(engine.dtype),
        "weights": "random: the geometry is noise" if engine.random_weights else "loaded",
        "tracks": "none",
    }


def memory(engine: Any) -> str:
    """Memory of the device that is in use, as its backend tells; else that of the process."""
    tell = getattr(getattr(engine, "device", None), "memory_stats", None)
    found = (tell() if tell else None) or {}
    if "bytes_in_use" not in found:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return f"process: {pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.2f} GB"
    texts = [f"{found['bytes_in_use'] / 1e9:.2f} GB"]
    for key, word in (("bytes_limit", "of"), ("peak_bytes_in_use", "at most")):
        if key in found:
            texts.append(f"{word} {found[key] / 1e9:.2f} GB")
    return f"device: {', '.join(texts)}"


def give_back_memory() -> None:
    """Return to the system what was freed; glibc keeps most of what compiling took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def prepare(engine: Any, pipeline: Pipeline, width: int, height: int) -> None:
    """Start to compile for images of this size; raises `Compiling` until a window can run."""
    settings, grid = pipeline.settings, pipeline.grid(width, height)
    rig = {"cameras": pipeline.cameras.count} if pipeline.cameras.is_rig else {}
    engine.prepare(
        (grid.height, grid.width),
        settings.window_size,
        depth_frames=settings.frames_with_depth,
        extra_views=settings.extra_views,
        track_queries=settings.track_queries,
        **rig,
    )


def compile_ahead(
    prepare: Callable[[], object],
    stopping: Callable[[], bool],
    progress: Callable[[str], None],
    *,
    waits: bool,
) -> None:
    """Have `prepare` called; with `waits` until it raises `Compiling` no more, or what else."""
    said = ""
    while not stopping():
        try:
            prepare()
            return
        except UserError as error:
            if not waits:  # the first image raises it again
                return
            if not isinstance(error, Compiling):
                raise
            if str(error) != said:
                progress(said := str(error))
            time.sleep(COMPILING_PERIOD)


def close_engine(
    engine: Any, stopping: Callable[[], bool], progress: Callable[[str], None]
) -> None:
    """End its compilations: the one that runs has no end before its own, or that of the node."""
    while not engine.close(CLOSE_PERIOD) and not stopping():
        progress("waiting for the compiler")
