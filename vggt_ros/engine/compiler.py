# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compiled programs by shape, traced and compiled once in the life of a cache directory.

Compiling is cached by JAX; tracing is not, and for a large model takes longer than loading the
compiled program.  So the traced program is stored too, as a portable export beside JAX's files.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.engine.device import Device
from vggt_ros.engine.shapes import EncoderProgram, Shape
from vggt_ros.errors import UserError
from vggt_ros.files import atomic_write
from vggt_ros.model.config import Config, cache_shapes

# Kernels whose export JAX does not guarantee to be stable: ours is read by the same JAX only.
UNSTABLE = [jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")]
PACKAGE = Path(__file__).resolve().parents[1]
HEADS = ("camera", "depth", "tracks")  # points come from depth and camera: more exact, and cheaper
OPTIONAL_HEADS = ("tracks",)  # without it a network serves for everything but tracks


def unrolls_layers(device: Device) -> bool:
    """Whether programs for this device have their layers unrolled, not in a loop."""
    return device.platform != "cpu"


def program_sources() -> list[Path]:
    """Every module whose code ends up in a program: all below `model/`, and this one."""
    return [*sorted((PACKAGE / "model").rglob("*.py")), PACKAGE / "engine/compiler.py"]


class Compiler:
    """Compiles one network for one device; needs its configuration and heads, not its weights.

    A program is called with the weights (as `place_weights` returns them), the arrays of the frame
    cache and its inputs; the program of an encoder takes over the cache (donated) and returns it.
    Layers are unrolled on an accelerator, and a loop on a CPU (see `model/unstack.py`).
    Raises `UserError` for a network that `model/stream.py` does not cover.
    """

    def __init__(
        self, config: Config, dtype: np.dtype, device: Device, cache_dir: Path | None,
        *, heads: Sequence[str] = HEADS, unrolled: bool | None = None,
    ):  # fmt: skip
        order, group = config.aggregator.aa_order, config.aggregator.aa_block_size
        if tuple(order) != ("frame", "global") or group != 1:
            raise UserError(
                "streaming needs an aggregator that alternates frame and global blocks, one by one"
            )
        self._config, self._heads, self._dtype, self._device = config, tuple(heads), dtype, device
        self._cache_dir, self.cache_fault = cache_dir, ""  # why the last program is not kept
        self._unrolled = unrolls_layers(device) if unrolled is None else unrolled

    def place_weights(self, weights: dict) -> list[Any]:
        """Weights on the device, in the order in which programs take them."""
        return jax.device_put(self._flat(weights), self._device)

    def _flat(self, weights: dict) -> list[Any]:
        if not self._unrolled:
            return jax.tree.leaves(weights)
        from vggt_ros.model.unstack import unstack_layers

        return unstack_layers(weights)

    def __call__(self, shape: Shape) -> Callable:
        """The compiled program; loaded where the cache directory has it."""
        with jax.default_device(self._device):
            donated = (1,) if isinstance(shape, EncoderProgram) else ()
            exported = self._exported(shape)
            if exported is None:
                function, arguments = self.trace(shape)
            else:
                function = exported.call
                arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
            return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()

    def _exported(self, shape: Shape) -> jax.export.Exported | None:
        """The traced program from the cache directory, or into it; None without a directory.

        A directory that cannot be read or written costs time at each start, and nothing else.
        """
        if self._cache_dir is None:
            return None
        path = self._cache_dir / f"{self.fingerprint(shape)}.export"
        if (found := _kept(path)) is not None:
            return found
        function, arguments = self.trace(shape)
        try:
            exported = jax.export.export(jax.jit(function), disabled_checks=UNSTABLE)(*arguments)
        except ValueError:  # a kernel without a stable export: traced at each start
            return None
        program = bytes(exported.serialize())
        try:
            with atomic_write(path) as file:
                file.write(hashlib.sha256(program).digest() + program)
            self.cache_fault = ""
        except OSError as error:
            self.cache_fault = (
                f"compiled programs cannot be kept in {self._cache_dir} ({error.strerror}): each"
                " start compiles again; make room there, or set cache_dir elsewhere"
            )
        return exported

    def fingerprint(self, shape: Shape) -> str:
        """Hash of all that determines a program: configuration, shape, code, JAX, device."""
        sources = program_sources()
        parts = [
            json.dumps(self._config.to_dict()),
            str((type(shape).__name__, *shape, self._dtype, self._device.device_kind)),
            str((self._heads, self._unrolled)),
            jax.__version__,
            *(f"{path.relative_to(PACKAGE)}\n{path.read_text()}" for path in sources),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def trace(self, shape: Shape) -> tuple[Callable, tuple[Any, ...]]:
        """A plain function of weights (flat), cache and inputs, and the shapes of its arguments."""
        # Flax and the model's code are needed here only: a start from the cache does without.
        from flax import nnx

        from vggt_ros.model import stream
        from vggt_ros.model.scan import unrolled
        from vggt_ros.model.unstack import stack_layers
        from vggt_ros.model.vggt import abstract_model

        model = abstract_model(self._config, self._heads, self._dtype, self._dtype)
        graph, state = nnx.split(model)
        tree = jax.tree.structure(nnx.to_pure_dict(state))
        weights = self._flat(nnx.to_pure_dict(state))

        def network(weights: list[Any]) -> Any:
            return nnx.merge(graph, tree.unflatten(stack_layers(weights)))

        cache = tuple(
            jax.ShapeDtypeStruct(array, jnp.float32)
            for array in cache_shapes(self._config, shape.slots, shape.size)
        )
        number = jax.ShapeDtypeStruct((), jnp.int32)
        if isinstance(shape, EncoderProgram):
            encode = stream.encode_frame if shape.frames == 1 else stream.encode_frames

            def encode_frame(weights, cache, image, slot):
                tokens = stream.CachedTokens(*cache)
                with unrolled(self._unrolled):
                    return tuple(encode(network(weights), tokens, image, slot))

            several = () if shape.frames == 1 else (shape.frames,)
            image = jax.ShapeDtypeStruct((*several, *shape.size, 3), jnp.uint8)
            return encode_frame, (weights, cache, image, jax.ShapeDtypeStruct(several, jnp.int32))

        def infer_window(weights, cache, slots, queries, mask, query_frame):
            with unrolled(self._unrolled):
                output = stream.infer_window(
                    network(weights),
                    stream.CachedTokens(*cache),
                    slots,
                    shape.size,
                    shape.depth_frames,
                    *((queries, mask, query_frame) if shape.queries else ()),
                    views=shape.views or None,
                )
            return tuple(output)

        return infer_window, (
            weights,
            cache,
            jax.ShapeDtypeStruct((shape.frames,), jnp.int32),
            jax.ShapeDtypeStruct((shape.queries, 2), jnp.float32),
            jax.ShapeDtypeStruct((shape.queries,), jnp.bool_),
            number,
        )


def _kept(path: Path) -> jax.export.Exported | None:
    """A traced program as it was written; None where it was not, or the file is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != digest:  # truncated, by a full disk or a kill
        return None
    return jax.export.deserialize(bytearray(program))
