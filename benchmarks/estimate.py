# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compile a program for a GPU on a machine without one, and estimate the time of its kernels.

    pip install 'jax[cuda13]'        # its compiler, in an environment of its own: 5 GB
    python benchmarks/estimate.py window --model vggt-1b --window 4
    python benchmarks/estimate.py train --recipe small_varied

A kernel is to take as long as its bytes at the rate of memory, or its operations at that of
products, whichever is longer, and a launch: README.md compares that with what was measured.  On
a card, algorithms of products and convolutions are chosen by their time; here the first is taken.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kernels import Kernel, kernels, parse  # noqa: E402
from vggt_ros.errors import UserError  # noqa: E402

LAUNCH = 1.5e-6  # seconds between kernels of a command buffer
# Of the card: what XLA asks about it (NVIDIA's data sheet and CUDA's device properties).
H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 device_address_bits: 64 pcie_bandwidth: 34359738368
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation" name: "NVIDIA H100 80GB HBM3" dnn_version: "9.12.0"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 12 patch: 0 }
"""
# Operations and bytes a second, measured on an H100 (README.md); of float32, which is multiplied as
# TF32, half the rate of bfloat16 is assumed.
RATES = {"memory": 2.89e12, "bf16": 600e12, "f32": 300e12, "attention": 363e12}
DETERMINISTIC = (  # the autotuner would time kernels on the card
    "--xla_gpu_experimental_enable_fusion_autotuner=false --xla_gpu_enable_triton_gemm=false"
)


def seconds(kernel: Kernel) -> float:
    """Estimated time of one run of a kernel."""
    attention = "fmha" in kernel.operation
    rate = RATES["attention" if attention else "bf16" if "bf16" in kernel.type else "f32"]
    return max(kernel.bytes / RATES["memory"], kernel.operations / rate) + LAUNCH


def report(name: str, found: Sequence[Kernel], rows: int) -> str:
    """A table in Markdown: kernels of one kind in a row, the dearest first."""
    kinds: dict[tuple[str, str, str], list[Kernel]] = defaultdict(list)
    for kernel in found:
        shape = kernel.type.replace("(", "").split("{")[0]
        kinds[kernel.operation, shape, kernel.source[-50:]].append(kernel)

    def of(group: Sequence[Kernel], value: Callable[[Kernel], float]) -> float:
        return sum(k.times * value(k) for k in group)

    whole = of(found, seconds)
    lines = [
        f"{name}: {1e3 * whole:.3g} ms estimated, {sum(k.times for k in found)} kernels, "
        f"{of(found, lambda k: k.bytes) / 1e9:.4g} GB, "
        f"{of(found, lambda k: k.operations) / 1e12:.4g} TFLOP",
        "",
        "| ms | share | runs | MB each | kernel | result | of |",
        "|---|---|---|---|---|---|---|",
    ]
    dearest = sorted(kinds.items(), key=lambda item: -of(item[1], seconds))
    for (operation, shape, source), group in dearest[:rows]:
        time, runs = of(group, seconds), sum(k.times for k in group)
        each = of(group, lambda k: k.bytes) / runs / 1e6
        lines.append(
            f"| {1e3 * time:.3g} | {time / whole:.1%} | {runs} | {each:.3g} | {operation} "
            f"| {shape} | {source} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and print the tables."""
    options = _options(arguments)
    # The CUDA libraries are there for the compiler alone; the flags are read where JAX starts.
    os.environ |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": "cpu"}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}"
    lower = _training if options.program == "train" else _streaming
    try:
        device = _device()
        with ExitStack() as stack:
            _as_on_a_gpu(stack)
            for name, lowered in lower(options, device).items():
                print(f"compiling {name}", file=sys.stderr, flush=True)
                compiled = lowered.compile()
                print(report(name, kernels(parse(compiled.as_text())), options.rows))
                scratch = compiled.memory_analysis().temp_size_in_bytes
                print(f"\nScratch memory: {scratch / 1e6:.4g} MB\n", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _device() -> Any:
    """A GPU that exists for the compiler only.  Raises UserError without JAX's plugin for CUDA."""
    import jax
    from jax.experimental import topologies

    jax.devices()  # the CPU, before the backend's name is replaced
    try:
        found = topologies.get_topology_desc("", "cuda", target_config=H100, topology="1x1x1")
    except NotImplementedError as error:
        raise UserError(
            "JAX has no compiler for CUDA here: pip install 'jax[cuda13]', in an environment of its"
            " own, of the version that is to be estimated"
        ) from error
    return found.devices[0]


def _as_on_a_gpu(stack: ExitStack) -> None:
    """Let the code choose what it chooses on a GPU, where cuDNN's attention runs."""
    import jax
    import jax.numpy as jnp

    from vggt_ros.model import attention

    half = (jnp.bfloat16, jnp.float16)
    stack.enter_context(patch.object(jax, "default_backend", lambda: "gpu"))
    stack.enter_context(patch.object(attention, "flash_available", lambda dtype, _: dtype in half))


def _placed(tree: Any, device: Any) -> Any:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    everywhere = NamedSharding(Mesh(np.array([device]), ("device",)), PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)


def _streaming(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """The two programs of a streaming step: a new frame's encoder, and the window."""
    import jax
    import numpy as np

    from vggt_ros.engine.compiler import Compiler
    from vggt_ros.engine.shapes import EncoderProgram, WindowProgram
    from vggt_ros.tools.bench.main import Options, image_size, preset

    s, dtype = options.window, np.dtype(jax.numpy.bfloat16)
    size = image_size(
        Options(options.model, (s,), options.width, options.height, 1, None, "bfloat16")
    )
    compiler = Compiler(preset(options.model).config, dtype, device, None)
    shapes = {"encoder": EncoderProgram(size, s),
              "window": WindowProgram(size, s, s, 1, options.queries)}  # fmt: skip
    programs = {}
    for name, shape in shapes.items():
        function, inputs = compiler.trace(shape)
        donated = (1,) if name == "encoder" else ()
        label = f"{name} {options.model}/{size[1]}x{size[0]}/S{s}"
        program = jax.jit(function, donate_argnums=donated)
        programs[label] = program.lower(*_placed(inputs, device))
    return programs


def _training(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """A training step of each kind, and its sampler, for the first bucket of a recipe."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from vggt_ros.train.config import read_recipe
    from vggt_ros.train.precompile import drop_unused_tracks, kinds_of
    from vggt_ros.train.run import open_network
    from vggt_ros.train.trainer import Trainer, mesh_of

    recipe = read_recipe(options.recipe)
    trainer = Trainer(recipe, open_network(recipe)[0], mesh_of(1, [device]))
    everywhere = NamedSharding(trainer.mesh, PartitionSpec())  # of one program one mesh
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    sampler = trainer.sampler(recipe.buckets[0])
    batch = jax.eval_shape(sampler, jax.ShapeDtypeStruct((), jnp.int32))
    programs: dict[str, Any] = {"windows": sampler.lower(number)}
    for kind in kinds_of(recipe, 0):
        shapes = trainer.abstract_batch(drop_unused_tracks(kind, batch))
        name = "step with tracks" if kind.tracks else "step" if kind.dense else "step of cameras"
        step = trainer.step.lower(trainer.abstract(), shapes, number, dense=kind.dense)
        programs[name] = step
    return programs


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("program", choices=["window", "train"], help="a streaming step, or one of training")
    add("--model", default="vggt-1b", help="preset")
    add("--window", type=int, default=4, help="frames")
    add("--width", type=int, default=518, help="of the network's image, a multiple of 14")
    add("--height", type=int, default=392, help="of the network's image, a multiple of 14")
    add("--queries", type=int, default=0, help="tracked points: 0, 16, 64, 256 or 1024")
    add("--recipe", default="small_varied", help="of the training step: its first bucket")
    add("--rows", type=int, default=20, help="kinds of kernels to print")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
