# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a source that was asked for serves; where not, a warning with figures that lasts."""

from collections.abc import Callable
from typing import NamedTuple

PATIENCE_NS = 2_000_000_000  # by the images' stamps, before a source that gives nothing is a fault
ANOTHER_CLOCK = 10.0  # seconds from which two stamps are of two clocks


class Warnings(NamedTuple):
    """How faults of the sources are told, and what is known of them."""

    set: Callable[[str, str], object]  # by subject, until it is replaced; an empty text ends it
    notify: Callable[[str], object]  # a single event
    describe: Callable[[str, str], object] = lambda row, text: None  # a row of diagnostics


class SourceHealth:
    """What one source sent, against the images that it should serve.

    `hear` is called for each message, `check` for each image; the latter in the worker's thread.
    """

    def __init__(self, subject: str, topics: str, advice: str, warnings: Warnings):
        """`topics` as they should be named, `advice` for the user where nothing comes on them."""
        self.subject, self._topics, self._advice = subject, topics, advice
        self._warnings = warnings
        self.heard = 0
        self._stamp_ns = 0  # of the last message
        self._served_ns = self._heard_ns = self._image_ns = -1  # stamps of images
        self._heard_then = 0

    def hear(self, stamp_ns: int) -> None:
        """One more message."""
        self.heard, self._stamp_ns = self.heard + 1, stamp_ns

    def check(
        self,
        image_ns: int,
        *,
        served: bool,
        apart_ns: int | None = None,
        allowed_ns: int = 0,
        patience_ns: int = PATIENCE_NS,
        fault: str = "",
    ) -> None:
        """After an image: `served` by this source, or why not.

        `apart_ns`: from an image to the message that fits best; `patience_ns`: for how long that
        may be; `fault`: what is known to be wrong.
        """
        self._see(image_ns)
        if served and not fault:
            self._served_ns = image_ns
            self._warnings.set(self.subject, "")
        elif fault:
            self.fail(fault)
        elif image_ns - self._served_ns >= patience_ns:
            text = self._reason(apart_ns, allowed_ns)
            self._warnings.set(self.subject, f"{self.subject}: {text}")

    def is_silent(self, image_ns: int) -> bool:
        """Whether no message came for `PATIENCE_NS` until this image, by the images' stamps."""
        self._see(image_ns)
        return image_ns - self._heard_ns >= PATIENCE_NS

    def _see(self, image_ns: int) -> None:
        if self._image_ns < 0 or image_ns < self._image_ns:  # the first, or the first of a rerun
            self._served_ns = self._heard_ns = image_ns
        self._image_ns = image_ns
        if self.heard != self._heard_then:
            self._heard_then, self._heard_ns = self.heard, image_ns

    def fail(self, fault: str) -> None:
        """What is known to be wrong, said at once."""
        self._warnings.set(self.subject, f"{self.subject}: {fault} ({self._count})")

    @property
    def _count(self) -> str:
        return f"{self.heard} message{'s' * (self.heard != 1)} received"

    def _reason(self, apart_ns: int | None, allowed_ns: int) -> str:
        if not self.heard:
            return f"nothing came on {self._topics} for two seconds; {self._advice}"
        silent = (self._image_ns - self._heard_ns) * 1e-9
        if silent * 1e9 >= PATIENCE_NS:
            return f"nothing came on {self._topics} for {silent:.1f} s ({self._count} before)"
        if self._stamp_ns == 0:
            return (
                f"its messages are stamped 0 ({self._count}); its driver must stamp them with the"
                " time of the measurement"
            )
        if apart_ns is None:
            return f"none of its messages is of use ({self._count})"
        apart, allowed = apart_ns * 1e-9, allowed_ns * 1e-9
        cure = "give both one clock" if abs(apart) > ANOTHER_CLOCK else "its stamps do not fit"
        return (
            f"its nearest message is {apart:+.3f} s from an image's stamp, {allowed:.3f} s are"
            f" allowed ({self._count}); {cure}"
        )
