# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's state for /diagnostics: counted by any thread, reported once a second."""

from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus

from vggt_ros.frames import Update
from vggt_ros.ros.health.alarms import ERROR, WARN, Alarms, Problem, of_inactive
from vggt_ros.ros.health.inference_health import InferenceHealth
from vggt_ros.ros.health.input_health import InputHealth
from vggt_ros.ros.health.notices import ThrottledLog, kind_of, printable
from vggt_ros.ros.health.reports import (
    RECENT,
    Part,
    scale_of,
    scale_values,
    statuses,
    window_of,
)
from vggt_ros.ros.health.status_output import MapHealth
from vggt_ros.ros.lifecycle import ACTIVE, CONFIGURING
from vggt_ros.ros.subscriptions.delivery import TAKEN_AT_ONCE, Delivery

Clock = Callable[[], float]
Log = Callable[[str], object]


class HealthSnapshot(NamedTuple):
    """The counters at one moment."""

    state: str
    counts: Counter[str]  # received, used, dropped, skipped, inferences, ...
    refusals: Counter[str]  # by kind
    notices: Counter[str]  # by kind


class Health:
    """Counters and last entries.  `warn` and `inform` go to the log; `clock` counts seconds."""

    def __init__(self, clock: Clock, warn: Log, inform: Log):
        self._clock, self._inform = clock, inform
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._refused, self._noticed = ThrottledLog(clock, warn), ThrottledLog(clock, warn)
        self._input = InputHealth(clock)
        self._inferences = InferenceHealth(clock)
        self.seconds: dict[str, float] = {}  # by part, of the last inference
        self._update: Update | None = None
        self._map = MapHealth(clock)
        self.network: dict[str, str] = {}
        self._described: dict[str, dict[str, str]] = {}  # more rows, by part
        self.tf = "nothing sent yet"
        self.state = "starting"
        self._stage = ACTIVE
        self._compiling: tuple[str, ...] = ()
        self._logged_states: set[str] = set()
        self._failure = ""
        self._warnings: dict[str, Problem] = {}  # by subject
        self._warned = ThrottledLog(clock, warn)
        self._alarms = Alarms()
        self._last_problem: tuple[str, float] | None = None  # and when it was last shown

    # Called by the node's threads.

    def image_arrived(self, age: float, delivery: Delivery = TAKEN_AT_ONCE) -> None:
        """One more image; `age` is the node's clock less the image's stamp, in seconds."""
        with self._lock:
            self._counts["received"] += 1 + delivery.left
            self._counts["left"] += delivery.left
            self._input.arrived(age, delivery)

    def count(self, what: str, times: int = 1) -> None:
        """So many more frames that were used, dropped or skipped."""
        with self._lock:
            self._counts[what] += times
            self._input.counted(what, times, is_ready=self.state == "ready")

    def refuse(self, text: str) -> None:
        """Something was refused; `text` names the fault and the next step."""
        self._refused.add(text)

    def refuse_image(self, text: str) -> None:
        """The same of an image: each that is received is counted once, by what became of it."""
        self.count("images refused")
        self.refuse(text)
        with self._lock:
            self._input.refused_in_a_row += 1

    def notice(self, text: str) -> None:
        """Something was accepted, with a limitation that the user should know of."""
        self._noticed.add(text)

    def set_warning(self, subject: str, text: str, part: str = "input") -> None:
        """A warning until it is replaced; an empty text ends it.

        It is logged as it begins, and shown in the status of its `part`: input, settings, network,
        timing, map, scale, tf, masks or outputs.
        """
        text = printable(text)
        with self._lock:
            known = self._warnings.get(subject)
            if text:
                self._warnings[subject] = Problem(part, subject, WARN, text)
            elif known is not None:
                del self._warnings[subject]
        if text and (known is None or kind_of(known.text) != kind_of(text)):
            self._warned.add(text)

    def describe(self, part: str, row: str, text: str) -> None:
        """Set a row of the status of a part."""
        with self._lock:
            self._described.setdefault(part, {})[row] = printable(text)

    def progress(self, state: str) -> None:
        """What the worker is doing, until it is ready."""
        self.state = state
        self._inform(state)

    def wait(self, reason: str) -> None:
        """An image was skipped, since its program is still being compiled."""
        self.count("waiting for a program")
        self._enter(reason)

    def used(self) -> None:
        """A frame went into the window."""
        self.count("used")
        self._enter("ready")

    def set_compiling(self, shapes: tuple[str, ...]) -> bool:
        """What is being compiled now, then what will be; logged as it changes.  True: it ended."""
        ended = bool(self._compiling) and not shapes
        if shapes[:1] != self._compiling[:1]:
            self._inform(f"compiling {shapes[0]}" if shapes else "all that is needed is compiled")
        self._compiling = shapes
        return ended

    def enter(self, stage: str) -> None:
        """The state of the life cycle; that no image arrives is counted from here."""
        with self._lock:
            self._stage = stage
            self._input.restart()

    def fail(self, reason: str) -> None:
        """Nothing comes out: a thread or a transition ended with an error; empty ends it."""
        self._failure = reason

    def inferred(self, update: Update, latency: float, seconds: dict[str, float]) -> None:
        """An update was published; `latency` and `seconds` (by part) are those of its inference."""
        with self._lock:
            self._update = update
            self.seconds = seconds
            self._inferences.add(latency)
            self._counts["inferences"] += 1
            self._map.add(update)
            found = update.registration
        if not found.accepted:
            self.notice(f"a window does not fit the map: {found.reason}")

    def _enter(self, state: str) -> None:
        """Set the state, which may change with each image: each state is logged once."""
        self.state = state
        if state not in self._logged_states:
            self._logged_states.add(state)
            self._inform(state)

    # Reported.

    def snapshot(self) -> HealthSnapshot:
        """The counters now."""
        with self._lock:
            counts = Counter(self._counts)
        return HealthSnapshot(self.state, counts, self._refused.counts, self._noticed.counts)

    @property
    def seconds_without_image(self) -> float:
        """Seconds since the last image, or since the start."""
        return self._input.seconds_without_image

    def report(self, name: str, no_image: str) -> list[DiagnosticStatus]:
        """The summary, named `name`, and a status for each part; called once a period.

        `no_image` is why no image arrives, empty while they do.
        """
        with self._lock:
            refused = self._refused.newest(within=RECENT)
            found = self._input.problems(no_image, refused, self._inferences.rate)
            found += [*self._network_problems(), *self._map.problems(is_noise=self._is_noise)]
            found += [*self._scale_and_tf_problems(), *self._warnings.values()]
            found = found if self._stage == ACTIVE else of_inactive(found)
            problems = self._alarms.update(found)
            self._remember(problems)
            parts = [
                Part("input", "images arrive", self._input.values(self._counts, self._refused)),
                Part("topics", "what is read", {}),
                Part("settings", "all are used as given", {}),
                Part("network", self._shown_state, self._network()),
                Part("timing", "of the last inference", self._timing()),
                Part("map", self._map.state, self._map.values()),
                Part("scale", scale_of(self._update), self._scale()),
                Part("tf", self.tf, {"tf": self.tf}),
                Part("masks", "all that are asked for are used", {}),
                Part("outputs", "all that are asked for are published", {}),
                Part("events", "counted since the start", self._events()),
            ]
            more = self._described
            parts = [p._replace(values={**p.values, **more.get(p.name, {})}) for p in parts]
            return statuses(name, self._summary(), parts, problems)

    def _remember(self, problems: list[Problem]) -> None:
        for problem in problems:
            if problem.is_held:
                self._last_problem = problem.text, self._clock()
                return

    def _summary(self) -> dict[str, object]:
        """Eight keys at most; each is in the details too, with the same value."""
        problem = "none"
        if self._last_problem is not None:
            text, when = self._last_problem
            problem = f"{text} ({self._clock() - when:.0f} s ago)"
        latency = self._inferences.latency
        return {
            "state": self._shown_state,
            "image rate [Hz]": self._input.rate,
            "inference rate [Hz]": self._inferences.rate,
            "latency mean [ms]": latency.get("latency mean [ms]", "no inference lately"),
            "map state": self._map.state,
            "scale": scale_of(self._update),
            "tf": self.tf,
            "last problem": problem,
        }

    # Details.

    def _events(self) -> dict[str, object]:
        return {
            **self._refused.rows("error"),
            **self._noticed.rows("notice"),
            **{f"refused: {reason}": n for reason, n in self._refused.counts.items()},
            **{f"noticed: {reason}": n for reason, n in self._noticed.counts.items()},
        }

    def _network(self) -> dict[str, object]:
        return {
            **self.network,
            "lifecycle": self._stage,
            "state": self._shown_state,
            "compiling": ", ".join(self._compiling) or "nothing",
            "inferences": self._counts["inferences"],
            "inference rate [Hz]": self._inferences.rate,
            "window": window_of(self._update) if self._update else "no inference yet",
        }

    def _timing(self) -> dict[str, object]:
        parts = {f"{part} [ms]": f"{1e3 * seconds:.1f}" for part, seconds in self.seconds.items()}
        return {**self._inferences.latency, **parts}

    def _scale(self) -> dict[str, object]:
        return scale_values(self._update) if self._update else {}

    # What is wrong.

    def _network_problems(self) -> list[Problem]:
        level, text = WARN, ""
        if self._failure:
            level, text = ERROR, self._failure
        elif self._stage != ACTIVE:
            text = ""  # as it was asked for
        elif self.state != "ready":
            text = self.state
        elif self._update is not None and self._update.missing:
            reason = "are being compiled" if self._compiling else "do not run, see notices"
            text = f"{window_of(self._update)}: more {reason}"
        elif self._is_noise:
            text = self.network["weights"]
        return [Problem("network", "state", level, text, is_held=False)]

    def _scale_and_tf_problems(self) -> list[Problem]:
        conflict = "" if self._update is None else self._update.scale.conflict
        asked_off = self.tf.startswith("off: tf_mode is none")
        off = self.tf.startswith(("off:", "late:")) and not asked_off
        return [
            Problem("scale", "conflict", WARN, conflict),
            Problem("tf", "state", WARN, self.tf if off else ""),
        ]

    @property
    def _shown_state(self) -> str:
        if self._stage == CONFIGURING:
            return f"{self._stage}: {self.state}"
        return self.state if self._stage == ACTIVE else self._stage

    @property
    def _is_noise(self) -> bool:
        return "random" in self.network.get("weights", "")
