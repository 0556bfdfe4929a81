# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which device runs the network, in which arithmetic, and where compiled programs are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.engine.interface import DeviceLost, OutOfMemory
from vggt_ros.errors import UserError

Device = Any  # jax.Device, which type checkers do not take for a type


def choose_device(kind: str = "auto") -> Device:
    """The device to run on, after it has run a real kernel.

    A listed GPU may still be unable to run anything (wheels built for other chips): so a product
    and a convolution are computed and checked before anything relies on it.
    """
    try:
        device = (jax.devices() if kind == "auto" else jax.devices(kind))[0]
    except (RuntimeError, AssertionError) as error:
        # JAX asserts that a backend is left; with JAX_PLATFORMS=cuda and no GPU none is.
        allowed = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = str(error) or f"JAX_PLATFORMS allows {allowed}, and none is here"
        raise UserError(
            f"no device '{kind}': {reason}; use device auto or cpu, and leave JAX_PLATFORMS unset"
        ) from error
    a = np.arange(64, dtype=np.float32).reshape(8, 8) / 64

    @jax.jit
    def kernel(x: jax.Array, ones: jax.Array) -> jax.Array:
        blurred = jax.lax.conv(x[None, None], ones[None, None], (1, 1), "SAME")
        return jnp.sin(x @ x) + blurred[0, 0]

    try:
        with jax.default_device(device):
            found = np.asarray(kernel(a, np.ones((3, 3), np.float32)))
    except Exception as error:  # whatever the runtime raises, the user needs one sentence
        raise UserError(
            f"{device.device_kind} is listed but cannot run a kernel: install a jaxlib built for"
            f" this chip, or set device to cpu ({str(error).splitlines()[0]})"
        ) from error
    padded = np.pad(a, 1)
    blurred = sum(padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3))
    if not np.allclose(found, np.sin(a @ a) + blurred, atol=3e-2):  # TF32 is coarse, not wrong
        raise UserError(f"{device.device_kind} computes wrong numbers; update its driver or jaxlib")
    return device


def choose_dtype(name: str, device: Device) -> np.dtype:
    """`auto` is bfloat16 where the chip is made for it (an accelerator), float32 elsewhere."""
    if name == "auto":
        name = "float32" if device.platform == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"dtype is '{name}'; choose auto, float32 or bfloat16")
    return np.dtype(jnp.dtype(name))


@contextmanager
def readable_faults(what: str, device: Device, dtype: np.dtype) -> Iterator[None]:
    """Around compiling or running `what`: the runtime's errors as ones that the user can mend.

    Raises `OutOfMemory` and, for all other errors of the runtime, `DeviceLost`: after an error of
    its own a device answers every call with that error, and works in new processes only.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text, kind = str(error), device.device_kind
        if "RESOURCE_EXHAUSTED" not in text and "OUT_OF_MEMORY" not in text:
            raise DeviceLost(
                f"{kind} failed at {what}: {text.splitlines()[0]}; restart this process, and"
                " look into the driver's log if that does not help"
            ) from error
        cures = ["lower window_size or network_width"]
        if dtype != jnp.bfloat16:
            cures.append("set dtype to bfloat16")
        if device.platform != "cpu":
            cures.append("raise memory_fraction")
        raise OutOfMemory(
            f"out of memory on {kind}: no room for {what} in {dtype}; {', or '.join(cures)}"
        ) from error


def keep_compiled(cache_dir: Path | None) -> None:
    """Compiled programs are kept in `cache_dir`, so that the second start need not compile."""
    if cache_dir is None:
        return
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        (cache_dir / ".writable").touch()
    except OSError as error:
        raise UserError(
            f"cannot write compilation cache {cache_dir}: {error.strerror}; set cache_dir elsewhere"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(cache_dir))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
