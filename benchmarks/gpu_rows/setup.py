# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every group is told, and how a row that fails becomes a row that says so."""

import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row, picture_size, preset


@dataclass(frozen=True)
class Setup:
    """One run."""

    options: Options
    folder: Path  # for compiled programs and files that are needed for a while

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's picture."""
        return picture_size(self.options)

    @property
    def config(self) -> Any:
        return preset(self.options.model).config

    @property
    def programs(self) -> Path:
        """Compiled programs of the streaming step; empty until the first start is timed."""
        return self.folder / "programs"

    @property
    def middle(self) -> int:
        """The window of rows that are taken for one window only."""
        windows = sorted(self.options.windows)
        return windows[len(windows) // 2]

    def name(self, s: int) -> str:
        """As rows end: model, picture, window."""
        height, width = self.size
        return f"{self.options.model}/{width}x{height}/S{s}"


def attempt(name: str, make: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows, or where one fails a row of that name with the reason; the next ones go on."""
    try:
        yield from make()
    except Exception as fault:  # whatever it is: the other rows are wanted
        traceback.print_exc(file=sys.stderr)
        yield failed(name, fault)


def failed(name: str, why: Exception | str) -> Row:
    """A row without a figure."""
    words = str(why).strip().splitlines() or [""]
    said = words[0] if isinstance(why, UserError | str) else f"{type(why).__name__}: {words[0]}"
    return Row(name, math.nan, "-", "lower", f"failed: {said[:200].replace('|', '/')}")
