# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for jaxtyping on a machine that lacks it: annotations mean the bare array type.

`gpu.py` puts this folder on the path only there.  Nothing is checked; the tests do that.
"""

from typing import Any

from jax import Array

PRNGKeyArray = Array


class _Bare:
    def __class_getitem__(cls, kind_and_shape: tuple[Any, str]) -> Any:
        return kind_and_shape[0]


def __getattr__(name: str) -> Any:
    """Float, Int, UInt8, ...: whatever is asked for."""
    if name.startswith("_"):
        raise AttributeError(name)
    return _Bare
