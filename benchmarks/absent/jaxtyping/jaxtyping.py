# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for jaxtyping on a machine without it: annotations become the bare array type.

`gpu.py` puts this folder on the path there.  Annotations are not checked; the tests do that.
"""

from typing import Any

from jax import Array

PRNGKeyArray = Array


class _Bare:
    def __class_getitem__(cls, kind_and_shape: tuple[Any, str]) -> Any:
        return kind_and_shape[0]


def __getattr__(name: str) -> Any:
    """Any public name: Float, Int, UInt8, ..."""
    if name.startswith("_"):
        raise AttributeError(name)
    return _Bare
