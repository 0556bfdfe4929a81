# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every intermediate result of a forward pass under the reference's names, for verification."""

from collections.abc import Callable
from functools import cache, partial

import jax
from jax import Array
from jaxtyping import Float

from vggt_ros.model.config import Config
from vggt_ros.model.intermediates import capture, named
from vggt_ros.model.vggt import Weights, abstract_model, functional, heads_in

# For a program that runs once and returns every intermediate: compiled in a third of the time.
FAST_COMPILE: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # newer ones may refuse it: JAX 0.12 does
    FAST_COMPILE["xla_cpu_use_fusion_emitters"] = False


def capture_intermediates(
    config: Config,
    weights: Weights,
    images: Float[Array, "b s h w 3"] | Float[Array, "b t v h w 3"],
    queries: Float[Array, "b n 2"] | None = None,
) -> dict[str, Array]:
    """One float32 forward pass: intermediates and outputs, in the reference's names and layouts.

    The heads are those that `weights` hold.
    """
    return _capturing(config, heads_in(weights))(weights, images, queries)


@cache
def _capturing(config: Config, heads: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    apply = functional(abstract_model(config, heads))[0]

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def run(weights, images, queries):
        with capture() as intermediates:
            out = apply(weights, images, queries)
        outputs = {
            "out.pose_enc": out.pose_encoding,
            "out.depth": None if out.depth is None else out.depth[..., None],
            "out.depth_conf": out.depth_confidence,
            "out.world_points": out.points,
            "out.world_points_conf": out.points_confidence,
            "out.track": out.tracks,
            "out.vis": out.visibility,
            "out.conf": out.track_confidence,
        }
        return named(intermediates) | {name: x for name, x in outputs.items() if x is not None}

    return run
