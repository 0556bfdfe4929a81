# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a person should hear of: counted by kind, logged ever more rarely, the last kinds kept."""

import re
from collections import Counter
from collections.abc import Callable
from math import inf
from threading import Lock

QUIET = 5.0, 300.0  # seconds before a complaint is logged again: at first, and at most
REASONS = 32  # distinct ones that are counted by name
SHOWN = 3  # kinds whose newest words are kept
PLACES = "last", "second last", "third last"  # what they are called


class Complaints:
    """One sort of them, say refusals.  `clock` counts seconds, `log` takes a line.

    Any thread may add; not more than `SHOWN` kinds are kept in words, so that one that repeats
    does not hide the others.
    """

    def __init__(self, clock: Callable[[], float], log: Callable[[str], object]):
        self._clock, self._log = clock, log
        self._lock = Lock()
        self._counts: Counter[str] = Counter()  # by kind
        self._quiet: dict[str, tuple[float, float]] = {}  # of a kind: until when, for how long
        self._newest: dict[str, tuple[str, float]] = {}  # by kind, the newest first: words, time

    def add(self, text: str) -> None:
        """One more; `text` begins with its kind, and the particulars follow."""
        kind, now = reason_of(text), self._clock()
        with self._lock:
            others = [(k, said) for k, said in self._newest.items() if k != kind]
            self._newest = dict([(kind, (text, now)), *others][:SHOWN])
            counted = kind if kind in self._counts or len(self._counts) < REASONS else "other"
            self._counts[counted] += 1
            until, pause = self._quiet.get(counted, (-inf, QUIET[0]))
            silent = now < until
            if not silent:
                self._quiet[counted] = now + pause, min(2 * pause, QUIET[1])
        if not silent:
            self._log(text)

    @property
    def counts(self) -> Counter[str]:
        """How many there were of each kind, so far."""
        with self._lock:
            return Counter(self._counts)

    def newest(self, within: float) -> str:
        """The last words, if they were said within so many seconds; else empty."""
        for text, when in self._newest.values():
            return text if self._clock() - when < within else ""
        return ""

    def rows(self, name: str) -> dict[str, str]:
        """The last words of each of the last kinds, and how old they are, for a person to read."""
        now, rows = self._clock(), {f"last {name}": "none"}
        for place, (text, when) in zip(PLACES, self._newest.values(), strict=False):
            rows[f"{place} {name}"] = text
            rows[f"{place} {name} age [s]"] = f"{now - when:.1f}"
        return rows


def reason_of(text: str) -> str:
    """The part of a complaint that names its kind: up to the particulars, numbers left out."""
    kind = re.split(r"[:;(]", text, maxsplit=1)[0]
    return re.sub(r"\d[\d.]*", "#", kind)[:80].strip()
