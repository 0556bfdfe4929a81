# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network of a run: what a command needs of it, and whether it was used as it was trained."""

from collections import Counter
from typing import Any, Protocol, runtime_checkable

from vggt_ros.engine import interface
from vggt_ros.frames import Update


@runtime_checkable
class Engine(interface.Engine, Protocol):
    """A network with a description of itself; `engine.engine.Engine` is the real one."""

    device: Any
    dtype: Any
    random_weights: bool


class Attention:
    """How many windows layout view_time attended as one sequence, and why."""

    def __init__(self, layout: str):
        self._layout, self._windows = layout, 0
        self._reasons: Counter[str] = Counter()

    def add(self, update: Update) -> None:
        """One more window."""
        self._windows += 1
        self._reasons.update([update.as_sequence] if update.as_sequence else [])

    def summary(self) -> dict[str, Any]:
        """Of `summary.json`."""
        return {
            "layout": self._layout,
            "windows": self._windows,
            "as_one_sequence": self._reasons.total(),
            "reasons": dict(self._reasons.most_common(3)),
        }

    @property
    def warning(self) -> str:
        """That windows were attended as one sequence, with figures; empty: none was."""
        if not self._reasons:
            return ""
        ((reason, count),) = self._reasons.most_common(1)
        times = "" if len(self._reasons) == 1 else f" ({count} of them)"
        return (
            f"{self._reasons.total()} of {self._windows} windows were attended as one sequence, as"
            f" in joint, though the weights' layout is view_time: {reason}{times}; weights that"
            " were trained by views are less accurate there (docs/layouts.md)"
        )
