# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node knows of its own health, counted by any thread, told once a second."""

from collections import Counter, deque
from collections.abc import Callable
from statistics import fmean
from threading import Lock

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from vggt_ros.frames import Update
from vggt_ros.ros.notices import Complaints

Clock = Callable[[], float]
Say = Callable[[str], object]

RECENT = 10.0  # seconds over which rates and latencies are taken
FAR = 10.0  # seconds between an image's stamp and the clock, beyond which they are of two clocks
STRAYS = 5  # windows in a row that do not fit the map, before that is a state and not a mishap


class Health:
    """Counters and last words.  `warn` and `inform` go to the log; `clock` counts seconds."""

    def __init__(self, clock: Clock, warn: Say, inform: Say):
        self._clock, self._inform = clock, inform
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._refused, self._noticed = Complaints(clock, warn), Complaints(clock, warn)
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._looks: deque[tuple[float, float]] = deque(maxlen=1000)  # when done, latency
        self.seconds: dict[str, float] = {}  # by part, of the last look
        self._began = clock()
        self._stamp_age = 0.0  # of the newest image when it arrived
        self._update: Update | None = None
        self._strays = 0  # windows in a row that did not fit the map
        self.network: dict[str, str] = {}
        self.geometry: dict[str, str] = {}
        self.state = "starting"
        self._compiling: tuple[str, ...] = ()
        self._said: set[str] = set()  # what is logged once
        self._death = ""
        self._lasting: dict[str, str] = {}  # by subject: a fault that is there until it is mended

    # Told by the node's threads.

    def image_arrived(self, age: float) -> None:
        """One more; `age` is the node's clock less the image's stamp, in seconds."""
        with self._lock:
            self._counts["received"] += 1
            self._stamp_age = age
            self._arrivals.append(self._clock())

    def count(self, what: str) -> None:
        """One more frame that was used, dropped or skipped."""
        with self._lock:
            self._counts[what] += 1

    def refuse(self, text: str) -> None:
        """Something was turned away; `text` names the fault and the next step."""
        self._refused.add(text)

    def notice(self, text: str) -> None:
        """Something was accepted, but a person should know."""
        self._noticed.add(text)

    def lasting(self, subject: str, text: str) -> None:
        """A warning for as long as it holds; empty when it holds no more."""
        self._lasting[subject] = text

    def progress(self, state: str) -> None:
        """What the worker is at, until it is ready."""
        self.state = state
        self._inform(state)

    def wait(self, why: str) -> None:
        """An image had to be left out since its program is still being compiled."""
        self.count("waiting for a program")
        self._turn(why)

    def used(self) -> None:
        """A frame went into the window."""
        self.count("used")
        self._turn("ready")

    def compiles(self, shapes: tuple[str, ...]) -> None:
        """What is being compiled now, then what will be; logged as it changes."""
        if shapes[:1] != self._compiling[:1]:
            self._inform(f"compiling {shapes[0]}" if shapes else "all that is needed is compiled")
        self._compiling = shapes

    def die(self, why: str) -> None:
        """The worker ended; the process will."""
        self._death = why

    def looked(self, update: Update, latency: float, seconds: dict[str, float]) -> None:
        """A look is done and published; `seconds` says what each part of it took."""
        with self._lock:
            self._update = update
            self.seconds = seconds
            self._looks.append((self._clock(), latency))
            self._counts["looks"] += 1
            self._counts["joints refused"] += bool(update.join.reason)
            self._strays = self._strays + 1 if update.join.reason else 0
        if update.join.reason:
            begins = f"segment {update.join.segment} begins"
            self.notice(f"a window does not fit the map: {update.join.reason}; {begins}")

    def _turn(self, state: str) -> None:
        """Another state, which may come and go with each image: each is logged once."""
        self.state = state
        if state not in self._said:
            self._said.add(state)
            self._inform(state)

    # Told to the world.

    @property
    def silent_for(self) -> float:
        """Seconds since the last image, or since the start."""
        return self._clock() - (self._arrivals[-1] if self._arrivals else self._began)

    def report(self, name: str, no_image: str) -> list[DiagnosticStatus]:
        """Three statuses; `no_image` is why none comes, empty while they do."""
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
        if lasting := "; ".join(filter(None, [*self._lasting.values(), self._two_clocks()])):
            return _status(name, DiagnosticStatus.WARN, lasting, values)
        return _status(name, DiagnosticStatus.OK, "images arrive", values)

    def _two_clocks(self) -> str:
        if abs(self._stamp_age) <= FAR:
            return ""
        side = "behind" if self._stamp_age > 0 else "ahead of"
        return (
            f"images are stamped {abs(self._stamp_age):.0f} s {side} the ROS clock: another"
            " machine's clock (synchronise it), or a bag without use_sim_time (or that without"
            " /clock)"
        )

    def _network(self, name: str) -> DiagnosticStatus:
        now = self._clock()
        recent = [(when, latency) for when, latency in self._looks if now - when < RECENT]
        values = {
            **self.network,
            "state": self.state,
            "compiling": ", ".join(self._compiling) or "nothing",
            "looks": self._counts["looks"],
            "look rate [Hz]": _rate([when for when, _ in self._looks], now),
        }
        if recent:
            values["latency mean [ms]"] = f"{1e3 * fmean(latency for _, latency in recent):.1f}"
            values["latency max [ms]"] = f"{1e3 * max(latency for _, latency in recent):.1f}"
        values |= {f"{part} [ms]": f"{1e3 * s:.1f}" for part, s in self.seconds.items()}
        level, message = self._network_state()
        return _status(name, level, message, values)

    def _network_state(self) -> tuple[bytes, str]:
        if self._death:
            return DiagnosticStatus.ERROR, self._death
        if self.state != "ready":
            return DiagnosticStatus.WARN, self.state
        if self._update is not None and self._update.missing:
            why = "more are being compiled" if self._compiling else "more do not run, see notices"
            return DiagnosticStatus.WARN, f"{_window_of(self._update)}: {why}"
        if self._is_noise:
            return DiagnosticStatus.WARN, self.network["weights"]
        return DiagnosticStatus.OK, "ready"

    def _geometry(self, name: str) -> DiagnosticStatus:
        update = self._update
        if update is None:
            return _status(name, DiagnosticStatus.OK, "no look yet", self.geometry)
        join = update.join
        scale = f"metres, from {update.scale_source}" if update.metric else "units are arbitrary"
        values = {
            "scale": scale,
            "scale source": update.scale_source,
            **_scale_values(update),
            "network's focal length against camera_info": (
                "no camera_info" if update.focal is None else f"{update.focal - 1:+.1%}"
            ),
            "window": _window_of(update),
            "segment": join.segment,
            "joint residual": f"{join.residual:.4f}",
            "joint inlier share": f"{join.inlier_share:.2f}",
            "joint": join.reason or "accepted",
            "joints refused": self._counts["joints refused"],
            **self.geometry,
        }
        if self._strays >= STRAYS:
            return _status(name, DiagnosticStatus.WARN, self._astray(join.reason), values)
        return _status(name, DiagnosticStatus.OK, scale, values)

    def _astray(self, reason: str) -> str:
        said = f"{self._strays} windows in a row do not fit the map: {reason}"
        if self._is_noise:
            return f"{said}; expected, since the weights are random and their geometry is noise"
        return (
            f"{said}; move more slowly, towards things that stand still and have texture,"
            " then call ~/reset if it does not recover"
        )

    @property
    def _is_noise(self) -> bool:
        return "random" in self.network.get("weights", "")


def _window_of(update: Update) -> str:
    seen, asked = len(update.views), len(update.views) + update.missing
    return f"{seen} of {asked} frames" if update.missing else f"{seen} frame{'s' * (seen > 1)}"


def _scale_values(update: Update) -> dict[str, str]:
    """What is known of the scale, once a source speaks."""
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
