# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Order statistics of arrays without NaN: those of NumPy, which spends most of its time on checks.

A window that is registered asks for some seventy of them.
"""

import numpy as np
from jaxtyping import Float


def median(values: Float[np.ndarray, "*n"]) -> float:
    """`np.median` of at least one number."""
    values = values.ravel()
    half = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, half)[half])
    low, high = np.partition(values, (half - 1, half))[half - 1 : half + 1]
    return float((low + high) / 2)


def medians(rows: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k"]:
    """`median` of each row."""
    half = rows.shape[1] // 2
    if rows.shape[1] % 2:
        return np.partition(rows, half)[:, half]
    low, high = np.partition(rows, (half - 1, half))[:, half - 1 : half + 1].T
    return (low + high) / 2


def quantile(values: Float[np.ndarray, "n"], share: float) -> float:
    """`np.quantile` of at least one number; `share` is below 1."""
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    low, high = np.partition(values, (below, above))[[below, above]]
    part = place - below
    step = high - low
    return float(low + step * part if part < 0.5 else high - step * (1 - part))
