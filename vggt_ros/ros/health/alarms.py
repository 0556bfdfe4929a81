# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong, for /diagnostics: levels that neither flap nor hide what ended a moment ago."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
HELD_REPORTS = 5  # in a row without a problem before it leaves the diagnostics
# Problems of a node that is not active: part and subject, beside all of part settings.
OF_INACTIVE = (
    ("input", "refused"), ("network", "state"), ("map", "~/save_map"), ("map", "~/load_map"),
)  # fmt: skip


class Problem(NamedTuple):
    """One thing that is wrong."""

    part: str  # the status it belongs to, such as `input`
    subject: str  # by which it is known from one report to the next
    level: bytes  # WARN: works, but not as asked.  ERROR: nothing comes out
    text: str
    is_held: bool = True  # for some reports after its end; not: a state, such as compiling


def of_inactive(found: Iterable[Problem]) -> list[Problem]:
    """Without what concerns images, which are not asked for."""
    return [p for p in found if p.part == "settings" or (p.part, p.subject) in OF_INACTIVE]


class Alarms:
    """The problems of one report after the other.

    A problem is shown at once, and until it was absent from `HELD_REPORTS` reports in a row: one
    that comes and goes with each frame is a problem all the time.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[Problem, int]] = {}  # and reports without it

    def update(self, found: Iterable[Problem]) -> list[Problem]:
        """What is to be shown now, the worst first, of what was found now and before."""
        now = {(problem.part, problem.subject): (problem, 0) for problem in found if problem.text}
        for key, (problem, absent) in self._held.items():
            if key not in now and problem.is_held and absent + 1 < HELD_REPORTS:
                now[key] = problem, absent + 1
        self._held = now
        shown = [_marked(problem, absent) for problem, absent in now.values()]
        return sorted(shown, key=lambda problem: problem.level, reverse=True)


def _marked(problem: Problem, absent: int) -> Problem:
    return problem._replace(text=f"until just now: {problem.text}") if absent else problem


class RecentShare:
    """A share of the last `count` outcomes that is too high from `begins` on, until below `ends`.

    Of fewer than `least` outcomes nothing is said.
    """

    def __init__(self, count: int, *, least: int, begins: float, ends: float):
        self._outcomes: deque[bool] = deque(maxlen=count)
        self._least, self._begins, self._ends = least, begins, ends
        self.is_high = False

    def add(self, outcome: bool) -> None:
        """One more; True is what should be rare."""
        self._outcomes.append(outcome)
        if len(self._outcomes) >= self._least:
            self.is_high = self.share >= (self._ends if self.is_high else self._begins)

    @property
    def total(self) -> int:
        """Outcomes that the share is of."""
        return len(self._outcomes)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return sum(self._outcomes) / max(len(self._outcomes), 1)
