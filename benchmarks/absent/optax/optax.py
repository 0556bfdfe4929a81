# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for optax where Flax NNX asks for its names and nothing of it is used."""

from typing import Any


def __getattr__(name: str) -> Any:
    """A class to annotate with."""
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (), {})
