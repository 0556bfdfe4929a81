# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Progress of long exports in the terminal, with an estimate of the time that is left."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vggt_ros.tools.runs.format import Run
from vggt_ros.tools.runs.fused import ROUNDS, FusedRun


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], object]]:
    """A bar of so many steps; what it gives is called for each."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, dynamic_ncols=True, leave=False, file=sys.stderr) as bar:
        yield bar.update


def fused(run: Run, frames: Sequence[int]) -> FusedRun:
    """The run with these frames on one surface."""
    with progress(ROUNDS * len(frames), "one surface") as advance:
        return FusedRun.of(run, frames, advance)
