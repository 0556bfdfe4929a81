# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Input of every group, and conversion of a failure into a row that states it."""

import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row, image_size, preset


@dataclass(frozen=True)
class Setup:
    """Options and folder of one run."""

    options: Options
    folder: Path  # for compiled programs and temporary files

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's image."""
        return image_size(self.options)

    @property
    def config(self) -> Any:
        """Configuration of the model."""
        return preset(self.options.model).config

    @property
    def programs(self) -> Path:
        """Compiled programs of the streaming step; the group `starts` needs it empty."""
        return self.folder / "programs"

    @property
    def middle(self) -> int:
        """The window of figures that are measured for one window only."""
        windows = sorted(self.options.windows)
        return windows[len(windows) // 2]

    def name(self, s: int) -> str:
        """End of a row's name: model, image size, window."""
        height, width = self.size
        return f"{self.options.model}/{width}x{height}/S{s}"


def attempt(name: str, make: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows; after an exception, a row of this name with its reason."""
    try:
        yield from make()
    except Exception as fault:  # of any kind: the other rows are measured all the same
        traceback.print_exc(file=sys.stderr)
        yield failed(name, fault)


def failed(name: str, why: Exception | str) -> Row:
    """A row without a figure, with the reason."""
    first = (str(why).strip().splitlines() or [""])[0]
    reason = first if isinstance(why, UserError | str) else f"{type(why).__name__}: {first}"
    return Row(name, math.nan, "-", "lower", f"failed: {reason[:200].replace('|', '/')}")
