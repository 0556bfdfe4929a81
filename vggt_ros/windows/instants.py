# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which images of several cameras form one instant: a pure state machine over stamps and arrivals.

An instant is complete when it has an image of every camera that is waited for. A camera is waited
for unless it is silent, or its last images had no partner within the tolerance: so the slowest of
the running cameras sets the rate, and one that is dead holds nothing up for long. Stamps are
compared between cameras, and how long a camera is silent is measured in the stamps of the others;
arrival times only tell why two cameras' stamps are apart.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median_low
from typing import Any, NamedTuple

from vggt_ros.windows.waiting_images import RECENT, CameraImages, Waiting

TOLERANCE = 0.02  # seconds, unless said otherwise
SILENT_PERIODS = 2  # without an image, from which a camera is not waited for
MAX_MISSES = 3  # instants in a row without a running camera, from which it is not waited for
SAME_ARRIVAL_NS = 50_000_000  # between arrivals, of which the stamps are compared
SAME_CLOCK_NS = 250_000_000  # between arrivals of images of one stamp; beyond is worth a warning


class Instant(NamedTuple):
    """Images whose stamps differ by at most the tolerance, in the cameras' order."""

    images: dict[str, Waiting]

    @property
    def stamp_ns(self) -> int:
        """That of the first camera which is in it."""
        return next(iter(self.images.values())).stamp_ns


class Instants:
    """Joins images of the cameras `names` to instants.  Not thread-safe.

    Stamps of one camera must increase; `forget` it where they do not.
    """

    def __init__(self, names: Sequence[str], tolerance_ns: int, min_cameras: int = 1):
        """Stamps of an instant differ by at most `tolerance_ns`; it has at least `min_cameras`."""
        self._tolerance_ns, self._min_cameras = tolerance_ns, min_cameras
        self._cameras: dict[str, CameraImages] = {name: CameraImages() for name in names}
        self._ahead: dict[tuple[str, str], deque[int]] = {}  # of the first's stamps, by pairs
        self.formed = self.complete = 0  # instants, and those with all cameras

    def counts(self, name: str) -> dict[str, int]:
        """Of a camera's images: received, joined, dropped and waiting; the first is their sum."""
        camera = self._cameras[name]
        counted = {key: camera.counts[key] for key in ("received", "joined", "dropped")}
        return {**counted, "waiting": len(camera.waiting)}

    def period_ns(self, name: str) -> int | None:
        """The usual time from one of a camera's images to the next; None: not known."""
        camera = self._cameras[name]
        return median_low(camera.gaps) if camera.gaps else None

    def add(self, name: str, stamp_ns: int, arrived_ns: int, item: Any) -> Instant | None:
        """One more image; the instant that it completes, or that is not waited for any longer.

        `arrived_ns` is of any clock that all cameras share.
        """
        camera = self._cameras[name]
        # A longer gap is one of this camera, not of the others.
        step = min(stamp_ns - camera.last_ns, SILENT_PERIODS * camera.period_ns)
        camera.add(stamp_ns, arrived_ns, item)
        camera.silence_ns.clear()
        for other_name, other in self._cameras.items():
            if other is not camera:
                # The other's last image may have come just before this one.
                known = other.silence_ns.get(name)
                other.silence_ns[name] = 0 if known is None else known + step
                if other.last_ns >= 0:
                    self._compare(name, other_name)
        awaited = {key for key, other in self._cameras.items() if self._is_awaited(other)}
        found = self._around(stamp_ns)
        if not awaited <= found.keys():
            found = self._largest() if self._is_overdue(awaited) else {}
        if len(found) < max(self._min_cameras, 1):
            return None
        return self._join(found, awaited)

    def forget(self, name: str) -> None:
        """A camera's clock was set: its images and stamps mean nothing any more."""
        camera = self._cameras[name]
        camera.counts["dropped"] += len(camera.waiting)
        camera.forget()
        for other in self._cameras.values():
            other.silence_ns.pop(name, None)
        self._ahead = {pair: found for pair, found in self._ahead.items() if name not in pair}

    def reset(self) -> None:
        """The same for all cameras."""
        for name in self._cameras:
            self.forget(name)

    def is_silent(self, name: str) -> bool:
        """Whether a camera's next image is overdue, by the stamps of the others."""
        return self._is_silent(self._cameras[name])

    @property
    def obstacle(self) -> str:
        """Why no instant is formed although images come, with figures; empty: they are."""
        every = self._cameras.items()
        running = {name: c for name, c in every if c.last_ns >= 0 and not self._is_silent(c)}
        waited = min((c.last_ns - c.joined_ns for c in running.values()), default=0)
        if waited <= MAX_MISSES * max(map(self._patience_ns, self._cameras.values())):
            return ""
        why = (
            f"fewer of {', '.join(running)} have images within {self._tolerance_ns * 1e-6:g} ms"
            " (sync_tolerance); trigger them together, by one clock"
        )
        if len(running) < self._min_cameras:
            why = f"{len(running)} of {len(every)} cameras run ({', '.join(running)})"
        text = f"no instant for {waited * 1e-9:.1f} s, nothing is inferred"
        return f"{text}: min_cameras is {self._min_cameras}, and {why}"

    @property
    def faults(self) -> dict[str, str]:
        """Why a camera is left out, with figures; empty: it is not."""
        return {name: self._fault(name, camera) for name, camera in self._cameras.items()}

    # What is waited for.

    def _is_awaited(self, camera: CameraImages) -> bool:
        return camera.misses < MAX_MISSES and not self._is_silent(camera)

    def _patience_ns(self, camera: CameraImages) -> int:
        return SILENT_PERIODS * camera.period_ns + self._tolerance_ns

    def _silence_ns(self, camera: CameraImages) -> int:
        """Since its last image, by the stamps of the camera that sent the most since then."""
        return max(camera.silence_ns.values(), default=0)

    def _is_silent(self, camera: CameraImages) -> bool:
        return self._silence_ns(camera) > self._patience_ns(camera)

    def _is_overdue(self, awaited: set[str]) -> bool:
        """Whether an image of one of them has waited as long as any of them is waited for."""
        cameras = [self._cameras[key] for key in awaited]
        patience = max(map(self._patience_ns, cameras), default=0)
        return any(c.waiting and c.last_ns - c.waiting[0].stamp_ns > patience for c in cameras)

    # What fits together.

    def _around(self, ns: int) -> dict[str, Waiting]:
        """Images of as many cameras as possible within a tolerance that has the stamp `ns`."""
        begins = {
            found.stamp_ns
            for camera in self._cameras.values()
            for found in camera.waiting
            if ns - self._tolerance_ns <= found.stamp_ns <= ns
        }
        best: dict[str, Waiting] = {}
        for begin in sorted(begins, reverse=True):
            found = {
                name: image
                for name, camera in self._cameras.items()
                if (image := camera.nearest_in(begin, begin + self._tolerance_ns, ns))
            }
            if len(found) > len(best):
                best = found
        return best

    def _largest(self) -> dict[str, Waiting]:
        """Of as many cameras as possible, and then the newest; of the first camera at a tie."""
        best: dict[str, Waiting] = {}
        for camera in self._cameras.values():
            for image in reversed(camera.waiting):
                found = self._around(image.stamp_ns)
                if len(found) > len(best):
                    best = found
        return best

    def _join(self, found: dict[str, Waiting], awaited: set[str]) -> Instant:
        """The instant; images that none can have any more are dropped."""
        first_ns = min(image.stamp_ns for image in found.values())
        for name, camera in self._cameras.items():
            image = found.get(name)
            limit = first_ns - self._tolerance_ns if image is None else image.stamp_ns
            if image is None and name in awaited:
                limit = camera.last_ns + 1  # these have waited in vain
            if image is not None:
                camera.misses = 0
            elif not self._is_silent(camera):
                camera.misses += name in awaited
                camera.apart_ns = camera.nearest_to(first_ns) - first_ns
            while camera.waiting and camera.waiting[0].stamp_ns < limit:
                camera.drop()
            if image is not None:
                camera.joined_ns = camera.waiting.popleft().stamp_ns
                camera.counts["joined"] += 1
        self.formed += 1
        self.complete += len(found) == len(self._cameras)
        return Instant(found)

    # What is wrong.

    def _compare(self, name: str, other_name: str) -> None:
        """Note how far the stamps of two images are apart that arrive at nearly the same time."""
        camera, other = self._cameras[name], self._cameras[other_name]
        waited = camera.arrived_ns - other.arrived_ns
        if waited <= max(SAME_ARRIVAL_NS, other.period_ns // 2 if other.gaps else 0):
            ahead = camera.last_ns - other.last_ns - waited
            for pair, ns in (((name, other_name), ahead), ((other_name, name), -ahead)):
                self._ahead.setdefault(pair, deque(maxlen=RECENT)).append(ns)

    def _ahead_ns(self, name: str) -> int:
        """How far a camera's stamps are ahead of those of the others that arrive with them.

        Of most of them; of two cameras the first one's clock is taken to be right.
        """
        running = [key for key, c in self._cameras.items() if not self._is_silent(c)]
        if name not in running or (len(running) < 3 and name == running[0]):
            return 0
        pairs = (self._ahead.get((name, key), ()) for key in running)
        known = [median_low(found) for found in pairs if len(found) >= RECENT // 2]
        if len(running) > 2:
            known.append(0)  # against itself
        return median_low(known) if known else 0

    def _fault(self, name: str, camera: CameraImages) -> str:
        counts = f"{camera.counts['joined']} of its {camera.counts['received']} images were used"
        if self._is_silent(camera):
            seconds = self._silence_ns(camera) * 1e-9
            return f"left out: no image for {seconds:.1f} s of the other cameras' time ({counts})"
        ahead = self._ahead_ns(name)
        if abs(ahead) > max(SAME_CLOCK_NS, self._tolerance_ns):
            side = "ahead of" if ahead > 0 else "behind"
            out = "left out: " if camera.misses >= MAX_MISSES else ""
            return (
                f"{out}its stamps are {abs(ahead) * 1e-6:.0f} ms {side} those of the other cameras"
                f" that arrive with them ({counts}): its clock is apart, or"
                f" {'the others' if ahead > 0 else 'it'} come{'' if ahead > 0 else 's'} late;"
                " synchronise the clocks of the cameras"
            )
        if camera.misses >= MAX_MISSES:
            return (
                f"left out: its nearest image is {camera.apart_ns * 1e-6:+.1f} ms from the other"
                f" cameras', sync_tolerance is {self._tolerance_ns * 1e-6:g} ms ({counts}); trigger"
                " the cameras together, or raise sync_tolerance"
            )
        return ""
