# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Statuses of /diagnostics: one that sums up, and one for each part with its details."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vggt_ros.frames import Update
from vggt_ros.ros.health.alarms import OK, Problem

RECENT = 10.0  # seconds over which rates and latencies are taken


class Part(NamedTuple):
    """Details of one part; `fine` is its message while nothing is wrong."""

    name: str
    fine: str
    values: Mapping[str, object]


def statuses(
    node: str, summary: Mapping[str, object], parts: Sequence[Part], problems: Sequence[Problem]
) -> list[DiagnosticStatus]:
    """The summary, named as the node, then each part; `problems` are sorted, the worst first."""
    worst = "; ".join(f"{problem.part}: {problem.text}" for problem in problems)
    level = max((problem.level for problem in problems), default=OK)
    found = [_status(node, level, worst or "all is well", summary)]
    for part in parts:
        mine = [problem for problem in problems if problem.part == part.name]
        message = "; ".join(problem.text for problem in mine) or part.fine
        level = max((problem.level for problem in mine), default=OK)
        found.append(_status(f"{node}: {part.name}", level, message, part.values))
    return found


def _status(
    name: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id="",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def spread(times: deque[float], when: float, left: int) -> None:
    """Add when something happened: once now, and before that `left` times since the last time."""
    since = times[-1] if times else when
    when = max(when, since)
    step = (when - since) / (left + 1)
    times.extend(since + step * i for i in range(1, left + 1))
    times.append(when)


def rate(times: Sequence[float], now: float) -> str:
    """How often something happens, in Hz, by when it happened (seconds, oldest first)."""
    recent = [t for t in times if now - t < RECENT]
    if len(recent) < 2:
        recent = list(times)[-2:]  # slower than that
    if len(recent) < 2 or recent[-1] == recent[0]:
        return "0.0"
    period = (recent[-1] - recent[0]) / (len(recent) - 1)
    if now - recent[-1] > max(3.0 * period, 3.0):
        return "0.0"  # it has ended
    return f"{1.0 / period:.1f}"


def window_of(update: Update) -> str:
    """How many frames the window has, and how many it should have."""
    count, asked = len(update.views), len(update.views) + update.missing
    if update.missing:
        return f"{count} of {asked} frames"
    return f"{count} frame{'s' * (count > 1)}"


def scale_of(update: Update | None) -> str:
    """Whether units are metres, and by which source."""
    if update is None:
        return "no inference yet"
    return f"metres, from {update.scale_source}" if update.metric else "units are arbitrary"


def scale_values(update: Update) -> dict[str, object]:
    """The scale and its uncertainty, once a source is sure."""
    focal = "no camera_info" if update.focal is None else f"{update.focal - 1:+.1%}"
    values: dict[str, object] = {
        "scale": scale_of(update),
        "scale source": update.scale_source,
        "network's focal length against camera_info": focal,
    }
    found = update.scale
    if found.source != "none":
        age = (update.views[-1].stamp_ns - found.stamp_ns) * 1e-9
        values |= {
            "scale correction due": f"{found.value:.4f}",
            "scale sigma": f"{found.sigma:.4f}",
            "scale age [s]": "given" if found.stamp_ns == 0 else f"{age:.1f}",
            "scale conflict": found.conflict or "none",
        }
    return values
