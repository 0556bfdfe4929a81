# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What became of a run's map, in words."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from vggt_ros.tools.runs.format import Run

LISTED = 6  # segments whose frames are counted one by one


def map_line(done: Run) -> str:
    """What became of the map, in one line."""
    figures, uncertain = done.summary["map"], len(done.summary["uncertain_frames"])
    parts = [
        _counted(figures["keyframes"], "keyframe"),
        f"{_counted(figures['loops_closed'], 'loop')} closed",
        f"{_counted(figures['windows_refused'], 'window')} refused",
    ]
    if uncertain:
        parts.append(f"{_counted(uncertain, 'frame')} uncertain and in no cloud")
    line = f"map: {', '.join(parts)}"
    return f"{line}; loops are off: {figures['graph']}" if figures["graph"] else line


def left_out_line(done: Run) -> str:
    """How many images of the source are not in the run, in one line; empty: all of them are."""
    summary = done.summary
    kinds = {kind: summary[kind] for kind in ("unreadable", "refused") if summary[kind]}
    if not kinds:
        return ""
    count, faults = sum(kinds.values()), summary["faults"]
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return (
        f"warning: {count} of {count + summary['frames']} images are left out ({listed}), as"
        f" {faults[0]}; `faults` in summary.json lists the first {len(faults)}"
    )


def times_line(times: Mapping[str, float | int]) -> str:
    """Where the time of a run went, in one line; a large share of waiting says: read faster."""
    total = times["total_s"]
    parts = {
        "network": times.get("network_s", 0.0),
        "map and geometry": times.get("geometry_s", 0.0),
        "waiting for images": times["waiting_s"],
    }
    parts["files, cloud and picture"] = max(total - sum(parts.values()), 0.0)
    shares = (f"{name} {seconds / total:.0%}" for name, seconds in parts.items())
    return f"time: {total:.1f} s, {times['frames_per_s']:.3g} frames/s; {', '.join(shares)}"


def segments_line(sizes: Sequence[int], reasons: Sequence[str]) -> str:
    """A warning for a map in pieces, with the most frequent reason; empty for one in one piece.

    `sizes`: frames of each segment, the largest first; `reasons`: why each one but the first began.
    """
    if len(sizes) < 2:
        return ""
    listed = ", ".join(map(str, sizes[:LISTED])) + (", ..." if len(sizes) > LISTED else "")
    line = (
        f"the map is in {len(sizes)} segments that nothing ties together, of {listed} frames: cloud"
        " and picture show the first, `vggt view --segment N` the others"
    )
    kinds = Counter(re.sub(r"[-\d.]+", "#", reason) for reason in reasons if reason)
    if not kinds:
        return line
    kind, count = kinds.most_common(1)[0]
    example = next(each for each in reasons if re.sub(r"[-\d.]+", "#", each) == kind)
    times = f", {count} of {len(reasons)} times" if len(reasons) > 1 else ""
    return f"{line}; they began since {example}{times}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
