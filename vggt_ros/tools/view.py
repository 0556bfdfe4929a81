# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt view RUN`: a run directory in the browser, one segment of its map at a time."""

import math
import time
from pathlib import Path

from vggt_ros.tools.option_sets import PORTS, check_limits
from vggt_ros.tools.runs.format import open_run
from vggt_ros.tools.viewer import Viewer
from vggt_ros.tools.viewer_map import map_graph

MAX_FRAMES = 300  # of a segment; all of them are held in memory


def view(
    run: Path,
    *,
    port: int = 8080,
    host: str = "127.0.0.1",
    every: int = 0,
    segment: int = 0,
) -> None:
    """Show the run that `vggt run --out RUN` wrote, in the browser, until Ctrl-C.

    Args:
        run: directory that `vggt run` wrote.
        port: port of the page; the next free one is used if it is busy.
        host: address to serve on; 0.0.0.0 makes the page visible to other machines.
        every: show every n-th frame; 0 chooses n so that at most 300 are shown.
        segment: show the n-th largest segment of the map first, from 0; mostly there is one.
    """
    check_limits(locals(), port=PORTS, every=(0, math.inf))
    opened = open_run(run)
    segments = opened.placed_segments()
    opened.segment(segment)  # is there
    metric = opened.summary.get("scale", {}).get("metric")
    viewer = Viewer(port, host=host, title=run.name, unit="m" if metric else "")

    def show(number: int) -> None:
        indices = segments[number]
        step = every if every > 0 else -(-len(indices) // MAX_FRAMES)
        frames = [opened.frame(index) for index in indices[::step]]
        viewer.show(frames, map_graph(opened, indices))
        which = f" of {len(indices)} (--every {step})" if step > 1 else ""
        which += f" of segment {number} of {len(segments)}" if len(segments) > 1 else ""
        print(f"{len(frames)} frames{which} at {viewer.address}   (Ctrl-C ends)", flush=True)

    try:
        if len(segments) > 1:
            sizes = [len(frames) for frames in segments]
            viewer.offer_segments(sizes, segment, show)
            print(f"the map is in {len(segments)} segments that are not tied to each other, of"
                  f" {', '.join(map(str, sizes))} frames: the panel of the page chooses, or"
                  f" --segment 0 to {len(segments) - 1}")  # fmt: skip
        show(segment)
        while True:
            time.sleep(3600)
    finally:
        viewer.close()
