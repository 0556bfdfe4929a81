# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A shape in, a compiled program out: traced and compiled once in the life of a cache.

Compiling is cached by JAX; tracing is not, and for a large model takes longer than loading the
compiled program.  So the traced program is kept too, as a portable export beside JAX's own files.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.engine.device import Device
from vggt_ros.engine.shapes import Encode, Shape
from vggt_ros.model.config import Config

# Kernels whose export JAX does not promise to keep working: ours is read by the same JAX alone.
UNSTABLE = [jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")]
PACKAGE = Path(__file__).resolve().parents[1]
HEADS = ("camera", "depth", "tracks")  # points come from depth and camera: more exact, and cheaper


def writes_out(device: Device) -> bool:
    """Whether a program for this device has its layers one after the other, and not as a loop."""
    return device.platform != "cpu"


def program_sources() -> list[Path]:
    """Every module whose code ends up in a program: the model's, in whatever folder, and this."""
    return [*sorted((PACKAGE / "model").rglob("*.py")), Path(__file__).resolve()]


class Compiler:
    """Compiles one network for one device; needs its configuration, not its weights.

    A program is called with the weights (as `taken` gives them), the memory and its inputs;
    `Encode` takes the memory over (donated) and returns it anew.  On an accelerator layers are
    `written_out`, on a CPU they are a loop (see `model/apart.py`).
    """

    def __init__(
        self, config: Config, dtype: np.dtype, device: Device, cache_dir: Path | None,
        *, written_out: bool | None = None,
    ):  # fmt: skip
        self._config, self._dtype, self._device = config, dtype, device
        self._cache_dir = cache_dir
        self._written_out = writes_out(device) if written_out is None else written_out

    def taken(self, weights: dict) -> list[Any]:
        """Weights as the programs take them, on the device."""
        return jax.device_put(self._flat(weights), self._device)

    def _flat(self, weights: dict) -> list[Any]:
        if not self._written_out:
            return jax.tree.leaves(weights)
        from vggt_ros.model.unstack import apart

        return apart(weights)

    def __call__(self, shape: Shape) -> Callable:
        """The compiled program: loaded, if this cache has seen it."""
        with jax.default_device(self._device):
            donated = (1,) if isinstance(shape, Encode) else ()
            exported = self._exported(shape)
            if exported is None:
                function, arguments = self._traced(shape)
            else:
                function = exported.call
                arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
            return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()

    def _exported(self, shape: Shape) -> jax.export.Exported | None:
        """The traced program from the cache, or into it; None where nothing is kept."""
        if self._cache_dir is None:
            return None
        path = self._cache_dir / f"{self._fingerprint(shape)}.export"
        if path.exists():
            kept = path.read_bytes()
            digest, program = kept[:32], kept[32:]
            if hashlib.sha256(program).digest() == digest:
                return jax.export.deserialize(bytearray(program))
            path.unlink()  # cut short, by a full disk or a kill: trace it again
        function, arguments = self._traced(shape)
        try:
            exported = jax.export.export(jax.jit(function), disabled_checks=UNSTABLE)(*arguments)
        except ValueError:  # a kernel that promises no stable export: it is traced at each start
            return None
        part = path.with_suffix(".part")
        program = bytes(exported.serialize())
        part.write_bytes(hashlib.sha256(program).digest() + program)
        part.replace(path)
        return exported

    def _fingerprint(self, shape: Shape) -> str:
        """Changes with whatever changes the program: the model, its code, JAX, the device."""
        sources = program_sources()
        parts = [
            json.dumps(self._config.to_dict()),
            str((type(shape).__name__, *shape, self._dtype, self._device.device_kind)),
            str(self._written_out),
            jax.__version__,
            *(f"{path.relative_to(PACKAGE)}\n{path.read_text()}" for path in sources),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _traced(self, shape: Shape) -> tuple[Callable, tuple[Any, ...]]:
        """A plain function of weights (flat), memory and inputs, and the shapes of those."""
        # Flax and the model's code are needed here only: a start from the cache does without.
        from flax import nnx

        from vggt_ros.model import stream
        from vggt_ros.model.scan import written_out
        from vggt_ros.model.unstack import together
        from vggt_ros.model.vggt import abstract_model

        model = abstract_model(self._config, HEADS, self._dtype, self._dtype)
        graph, state = nnx.split(model)
        tree = jax.tree.structure(nnx.to_pure_dict(state))
        weights = self._flat(nnx.to_pure_dict(state))

        def network(weights: list[Any]) -> Any:
            return nnx.merge(graph, tree.unflatten(together(weights)))

        memory = jax.eval_shape(lambda: tuple(stream.blank(model, shape.slots, shape.size)))
        number = jax.ShapeDtypeStruct((), jnp.int32)
        if isinstance(shape, Encode):

            def remember(weights, memory, image, slot):
                with written_out(self._written_out):
                    kept = stream.remember(network(weights), stream.Memory(*memory), image, slot)
                return tuple(kept)

            image = jax.ShapeDtypeStruct((*shape.size, 3), jnp.uint8)
            return remember, (weights, memory, image, number)

        def look(weights, memory, slots, queries, mask, query_frame):
            with written_out(self._written_out):
                sight = stream.look(
                    network(weights),
                    stream.Memory(*memory),
                    slots,
                    shape.size,
                    shape.depth_frames,
                    *((queries, mask, query_frame) if shape.queries else ()),
                )
            return tuple(sight)

        return look, (
            weights,
            memory,
            jax.ShapeDtypeStruct((shape.frames,), jnp.int32),
            jax.ShapeDtypeStruct((shape.queries, 2), jnp.float32),
            jax.ShapeDtypeStruct((shape.queries,), jnp.bool_),
            number,
        )
