# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for optax, of which Flax NNX uses names in annotations only."""

from typing import Any


def __getattr__(name: str) -> Any:
    """An empty class for any public name."""
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (), {})
