# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Softmax attention: cuDNN's flash kernel where it runs, elsewhere cache-sized products."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

QUERIES_AT_ONCE = 1400  # queries: one frame at 518x392; smaller products leave cores idle
LOGITS_AT_ONCE = {"cpu": 1 << 20}  # numbers, 4 MB: they stay in the cache during exp
LOGITS_ELSEWHERE = (
    1 << 26
)  # numbers: an accelerator has the memory, and is faster with large kernels


def attend(
    q: Float[Array, "b n q d"],
    k: Float[Array, "b n k d"],
    v: Float[Array, "b n k d"],
    mask: Bool[Array, "#b 1 #q k"] | None = None,
    key_bias: Float[Array, "b k"] | None = None,
) -> Float[Array, "b n q d"]:
    """Softmax attention with leading heads, softmax in float32; False in `mask` hides a key.

    `key_bias` is added to the logits of a key, in all heads: the logarithm of its weight.

    Half precision without a mask uses cuDNN's flash kernel wherever that runs.  Elsewhere heads
    and queries are processed in chunks whose logits fit the cache: on a CPU that is two to three
    times faster than all of them at once, and the logits of a whole window never exist at once.
    """
    if mask is None and key_bias is None and flash_available(q.dtype, q.shape[-1]):
        return flash_attention(q, k, v)
    b, heads, queries, _ = q.shape
    chunks = -(-queries // QUERIES_AT_ONCE)
    rows = -(-queries // chunks)
    most = LOGITS_AT_ONCE.get(jax.default_backend(), LOGITS_ELSEWHERE)
    at_once = _largest_divisor(b * heads, most // (rows * k.shape[2]))
    if mask is not None or (chunks == 1 and at_once == b * heads):
        return plain_attention(q, k, v, mask, key_bias)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, chunks * rows - queries), (0, 0)))
    q = q.reshape(-1, at_once, chunks, rows, q.shape[-1]).swapaxes(1, 2)
    k, v = (x.reshape(-1, at_once, *x.shape[2:]) for x in (k, v))

    def group(inputs: tuple[Array, Array, Array, Array | None]) -> Array:
        q, k, v, bias = inputs
        return jax.lax.map(
            lambda q: plain_attention(q[None], k[None], v[None], None, None, bias)[0], q
        )

    bias = None  # of each head
    if key_bias is not None:
        bias = jnp.repeat(key_bias, heads, axis=0).reshape(-1, at_once, k.shape[2])
    out = jax.lax.map(group, (q, k, v, bias)).swapaxes(1, 2)
    return out.reshape(b, heads, chunks * rows, -1)[:, :, :queries]


def _largest_divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`, at least 1."""
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)


def plain_attention(
    q: Float[Array, "b n q d"],
    k: Float[Array, "b n k d"],
    v: Float[Array, "b n k d"],
    mask: Bool[Array, "#b 1 #q k"] | None,
    key_bias: Float[Array, "b k"] | None = None,
    head_bias: Float[Array, "n k"] | None = None,
) -> Float[Array, "b n q d"]:
    """exp(logits) @ v, divided afterwards: one pass less over the largest array."""
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, preferred_element_type=jnp.float32)
    logits *= q.shape[-1] ** -0.5
    if key_bias is not None:
        logits += key_bias[:, None, None]
    if head_bias is not None:
        logits += head_bias[:, None]
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - top)
    out = jnp.einsum(
        "bnqk,bnkd->bnqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / weights.sum(-1, keepdims=True)).astype(v.dtype)


# ---- cuDNN ------------------------------------------------------------------------------------


def _cudnn_attention(q: Array, k: Array, v: Array, **lengths: Int[Array, "b"]) -> Array:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # cuDNN's layout: tokens before heads
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)
    return out.swapaxes(1, 2)


flash_attention = jax.custom_vjp(_cudnn_attention)  # [b n q d], [b n k d] twice -> [b n q d]


def _flash_forward(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
    """Forward pass for a gradient; cuDNN then needs even lengths, so a masked token is added."""
    tokens = q.shape[2], k.shape[2]
    if tokens[0] % 2 == tokens[1] % 2 == 0:
        return jax.vjp(_cudnn_attention, q, k, v)

    def padded(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0))) for x in (q, k, v))
        lengths = [jnp.full(len(q), length, jnp.int32) for length in tokens]
        out = _cudnn_attention(
            q, k, v, query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1]
        )
        return out[:, :, : tokens[0]]

    return jax.vjp(padded, q, k, v)


flash_attention.defvjp(_flash_forward, lambda backward, grad: backward(grad))


@cache
def flash_available(dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether cuDNN's flash kernel runs here: tested by one tiny call, a listed GPU may refuse."""
    if jax.default_backend() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16):
        return False
    try:
        with jax.ensure_compile_time_eval():
            probe = jnp.ones((1, 1, 8, head_dim), dtype)
            return bool(jnp.isfinite(flash_attention(probe, probe, probe)).all())
    except Exception:  # whatever the cause, the plain path works everywhere
        return False
