# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Refusals and notices for the user: counted by kind, logged at growing intervals."""

import re
from collections import Counter
from collections.abc import Callable
from math import inf
from threading import Lock

INTERVAL = 5.0, 300.0  # seconds before a kind is logged again: at first, and at most
MAX_KINDS = 32  # that are counted by name
KEPT_KINDS = 3  # whose newest text is kept
LONGEST = 2000  # characters of a text; it may quote a message, which anybody may have sent
PLACES = "last", "second last", "third last"  # their keys in diagnostics


class ThrottledLog:
    """Entries of one sort, such as refusals.  `clock` returns seconds, `log` takes a line.

    Any thread may add. The text of the last `KEPT_KINDS` kinds is kept, one of each, so that a kind
    that repeats does not hide the others.
    """

    def __init__(self, clock: Callable[[], float], log: Callable[[str], object]):
        self._clock, self._log = clock, log
        self._lock = Lock()
        self._counts: Counter[str] = Counter()  # by kind
        self._muted: dict[str, tuple[float, float]] = {}  # of a kind: until when, for how long
        self._newest: dict[str, tuple[str, float]] = {}  # by kind, the newest first: text, time

    def add(self, text: str) -> None:
        """One more entry; `text` starts with its kind, and the particulars follow."""
        text = printable(text)
        kind, now = kind_of(text), self._clock()
        with self._lock:
            others = [(k, entry) for k, entry in self._newest.items() if k != kind]
            self._newest = dict([(kind, (text, now)), *others][:KEPT_KINDS])
            counted = kind if kind in self._counts or len(self._counts) < MAX_KINDS else "other"
            self._counts[counted] += 1
            until, pause = self._muted.get(counted, (-inf, INTERVAL[0]))
            muted = now < until
            if not muted:
                self._muted[counted] = now + pause, min(2 * pause, INTERVAL[1])
        if not muted:
            self._log(text)

    @property
    def counts(self) -> Counter[str]:
        """Entries of each kind so far."""
        with self._lock:
            return Counter(self._counts)

    def newest(self, within: float) -> str:
        """The last text, if it was added within so many seconds; else empty."""
        for text, when in self._newest.values():
            return text if self._clock() - when < within else ""
        return ""

    def rows(self, name: str) -> dict[str, str]:
        """Text and age of the last kinds, as keys and values of diagnostics."""
        now, rows = self._clock(), {f"last {name}": "none"}
        for place, (text, when) in zip(PLACES, self._newest.values(), strict=False):
            rows[f"{place} {name}"] = text
            rows[f"{place} {name} age [s]"] = f"{now - when:.1f}"
        return rows


def printable(text: str) -> str:
    """A text on one line and of bounded length, for the log and for diagnostics.

    What a message has in it could otherwise pass for lines of the log, or fill it.
    """
    said = text[: LONGEST + 1]
    if not said.isprintable():
        said = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in said
        )
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 4]} ..."


def kind_of(text: str) -> str:
    """The part of a text that names its kind: up to the particulars, numbers left out."""
    kind = re.split(r"[:;(]", text, maxsplit=1)[0]
    return re.sub(r"\d[\d.]*", "#", kind)[:80].strip()
