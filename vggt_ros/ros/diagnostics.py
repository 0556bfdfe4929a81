# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's state for /diagnostics: counted by any thread, reported once a second."""

from collections import Counter, deque
from collections.abc import Callable
from statistics import fmean
from threading import Lock
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vggt_ros.frames import Update
from vggt_ros.ros.notices import ThrottledLog
from vggt_ros.ros.status_output import MapHealth

Clock = Callable[[], float]
Log = Callable[[str], object]

RECENT = 10.0  # seconds over which rates and latencies are taken
MAX_STAMP_AGE = 10.0  # seconds; beyond, image and node have different clocks


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
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._inferences: deque[tuple[float, float]] = deque(maxlen=1000)  # when done, latency
        self.seconds: dict[str, float] = {}  # by part, of the last inference
        self._began = clock()
        self._stamp_age = 0.0  # of the newest image when it arrived
        self._update: Update | None = None
        self._map = MapHealth(clock)
        self.network: dict[str, str] = {}
        self.geometry: dict[str, str] = {}
        self.state = "starting"
        self._compiling: tuple[str, ...] = ()
        self._logged_states: set[str] = set()
        self._failure = ""
        self._warnings: dict[str, str] = {}  # by subject

    # Called by the node's threads.

    def image_arrived(self, age: float) -> None:
        """One more image; `age` is the node's clock less the image's stamp, in seconds."""
        with self._lock:
            self._counts["received"] += 1
            self._stamp_age = age
            self._arrivals.append(self._clock())

    def count(self, what: str) -> None:
        """One more frame that was used, dropped or skipped."""
        with self._lock:
            self._counts[what] += 1

    def refuse(self, text: str) -> None:
        """Something was refused; `text` names the fault and the next step."""
        self._refused.add(text)

    def notice(self, text: str) -> None:
        """Something was accepted, with a limitation that the user should know of."""
        self._noticed.add(text)

    def set_warning(self, subject: str, text: str) -> None:
        """A warning until it is replaced; an empty text ends it."""
        self._warnings[subject] = text

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

    def set_compiling(self, shapes: tuple[str, ...]) -> None:
        """What is being compiled now, then what will be; logged as it changes."""
        if shapes[:1] != self._compiling[:1]:
            self._inform(f"compiling {shapes[0]}" if shapes else "all that is needed is compiled")
        self._compiling = shapes

    def fail(self, reason: str) -> None:
        """A thread ended with an error; the process is about to end."""
        self._failure = reason

    def inferred(self, update: Update, latency: float, seconds: dict[str, float]) -> None:
        """An update was published; `latency` and `seconds` (by part) are those of its inference."""
        with self._lock:
            self._update = update
            self.seconds = seconds
            self._inferences.append((self._clock(), latency))
            self._counts["inferences"] += 1
            self._map.add(update)
            found = update.registration
            self._counts["windows refused"] += not found.accepted
            self._counts["windows doubtful"] += found.doubtful
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
        return self._clock() - (self._arrivals[-1] if self._arrivals else self._began)

    def report(self, name: str, no_image: str) -> list[DiagnosticStatus]:
        """Three statuses; `no_image` is why no image arrives, empty while they do."""
        with self._lock:
            return [
                self._camera(f"{name}: camera", no_image),
                self._network(f"{name}: network"),
                self._geometry(f"{name}: geometry"),
            ]

    def _camera(self, name: str, no_image: str) -> DiagnosticStatus:
        now = self._clock()
        values = {
            "images received": self._counts["received"],
            "image rate [Hz]": _rate(self._arrivals, now),
            "stamp age [s]": f"{self._stamp_age:.3f}" if self._arrivals else "no image yet",
            "images used": self._counts["used"],
            "dropped": self._counts["dropped"],
            "skipped by max_rate_hz": self._counts["skipped"],
            "waiting for a program": self._counts["waiting for a program"],
            "refused": self._refused.counts.total(),
            **{f"refused: {reason}": n for reason, n in self._refused.counts.items()},
            **{f"noticed: {reason}": n for reason, n in self._noticed.counts.items()},
            **self._refused.rows("error"),
            **self._noticed.rows("notice"),
        }
        if no_image:
            return _status(name, DiagnosticStatus.WARN, no_image, values)
        if error := self._refused.newest(within=RECENT):
            return _status(name, DiagnosticStatus.WARN, error, values)
        if warnings := "; ".join(filter(None, [*self._warnings.values(), self._clock_offset()])):
            return _status(name, DiagnosticStatus.WARN, warnings, values)
        return _status(name, DiagnosticStatus.OK, "images arrive", values)

    def _clock_offset(self) -> str:
        if abs(self._stamp_age) <= MAX_STAMP_AGE:
            return ""
        side = "behind" if self._stamp_age > 0 else "ahead of"
        return (
            f"images are stamped {abs(self._stamp_age):.0f} s {side} the ROS clock: another"
            " machine's clock (synchronise it), or a bag without use_sim_time (or that without"
            " /clock)"
        )

    def _network(self, name: str) -> DiagnosticStatus:
        now = self._clock()
        recent = [(when, latency) for when, latency in self._inferences if now - when < RECENT]
        values = {
            **self.network,
            "state": self.state,
            "compiling": ", ".join(self._compiling) or "nothing",
            "inferences": self._counts["inferences"],
            "inference rate [Hz]": _rate([when for when, _ in self._inferences], now),
        }
        if recent:
            values["latency mean [ms]"] = f"{1e3 * fmean(latency for _, latency in recent):.1f}"
            values["latency max [ms]"] = f"{1e3 * max(latency for _, latency in recent):.1f}"
        values |= {f"{part} [ms]": f"{1e3 * s:.1f}" for part, s in self.seconds.items()}
        level, message = self._network_state()
        return _status(name, level, message, values)

    def _network_state(self) -> tuple[bytes, str]:
        if self._failure:
            return DiagnosticStatus.ERROR, self._failure
        if self.state != "ready":
            return DiagnosticStatus.WARN, self.state
        if self._update is not None and self._update.missing:
            reason = "do not run, see notices"
            if self._compiling:
                reason = "are being compiled"
            return DiagnosticStatus.WARN, f"{_window_of(self._update)}: more {reason}"
        if self._is_noise:
            return DiagnosticStatus.WARN, self.network["weights"]
        return DiagnosticStatus.OK, "ready"

    def _geometry(self, name: str) -> DiagnosticStatus:
        update = self._update
        if update is None:
            return _status(name, DiagnosticStatus.OK, "no inference yet", self.geometry)
        scale = f"metres, from {update.scale_source}" if update.metric else "units are arbitrary"
        values = {
            "scale": scale,
            "scale source": update.scale_source,
            **_scale_values(update),
            "network's focal length against camera_info": (
                "no camera_info" if update.focal is None else f"{update.focal - 1:+.1%}"
            ),
            "window": _window_of(update),
            **self._map.values(),
            "windows refused": self._counts["windows refused"],
            "windows doubtful": self._counts["windows doubtful"],
            **self.geometry,
        }
        if warning := self._map.warning(is_noise=self._is_noise):
            return _status(name, DiagnosticStatus.WARN, warning, values)
        return _status(name, DiagnosticStatus.OK, scale, values)

    @property
    def _is_noise(self) -> bool:
        return "random" in self.network.get("weights", "")


def _window_of(update: Update) -> str:
    count, asked = len(update.views), len(update.views) + update.missing
    if update.missing:
        return f"{count} of {asked} frames"
    return f"{count} frame{'s' * (count > 1)}"


def _scale_values(update: Update) -> dict[str, str]:
    """The scale and its uncertainty, once a source is sure."""
    found = update.scale
    if found.source == "none":
        return {}
    age = (update.views[-1].stamp_ns - found.stamp_ns) * 1e-9
    return {
        "scale correction due": f"{found.value:.4f}",
        "scale sigma": f"{found.sigma:.4f}",
        "scale age [s]": "given" if found.stamp_ns == 0 else f"{age:.1f}",
        "scale conflict": found.conflict or "none",
    }


def _rate(times, now: float) -> str:
    recent = [t for t in times if now - t < RECENT]
    if len(recent) < 2 or recent[-1] == recent[0]:
        return "0.0"
    return f"{(len(recent) - 1) / (recent[-1] - recent[0]):.1f}"


def _status(name: str, level: bytes, message: str, values: dict) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id="",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
