# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether images show anything, are of the calibration, and give depth that is trusted."""

from collections import deque
from statistics import median
from typing import NamedTuple

import numpy as np

from vggt_ros.frames import Update, View

PATIENCE = 10  # views in a row of one camera before it is a warning
NO_CONTRAST = 3.0  # standard deviation of brightness, of 255: that of noise in darkness
TOO_FEW = 0.02  # share of pixels that are trusted, below which clouds are next to empty
EVERY = 4  # rows and columns apart whose brightness is measured
OTHER_FOCUS = 1.4  # ratio of two focal lengths, from which they hardly are of one camera
FOCALS = 30  # images in a row that are compared
USUAL_VIEW = 25.0, 110.0  # degrees of width that networks are made for; others they misjudge
FROZEN = 10.0  # seconds between stamps of images of which all are the same, to the last bit
BLINK = 15.0  # of 255: by how much brightness goes to and fro at least, from image to image


class Seen(NamedTuple):
    """What is measured of one view."""

    brightness: float  # mean, of 255
    contrast: float  # standard deviation of brightness
    trusted: float  # share of pixels whose confidence reaches min_confidence
    confidence: float  # mean
    min_confidence: float
    stamp_ns: int

    def shows_the_same(self, other: "Seen") -> bool:
        """Whether both views are one image: noise alone makes others differ."""
        return (self.brightness, self.contrast) == (other.brightness, other.contrast)


def measure(view: View, min_confidence: float) -> Seen:
    """Figures of a view that has depth."""
    assert view.confidence is not None
    brightness = view.rgb[::EVERY, ::EVERY].mean(axis=-1)
    trusted = np.mean(view.confidence >= min_confidence)
    figures = brightness.mean(), brightness.std(), trusted, np.mean(view.confidence)
    return Seen(*map(float, figures), min_confidence, view.stamp_ns)


class CameraHealth:
    """The newest views of one camera: how many in a row have a fault, and its text."""

    def __init__(self, name: str, first: Seen):
        self._whose = f"{name}: " if name else ""
        self._newest = self._before = first
        self._change = 0.0  # of brightness, from the view before
        self._same_since = first  # the first of the views that show what the newest one does
        self._same = self._blank = self._blinking = self._untrusted = 0  # views in a row

    def update(self, seen: Seen) -> None:
        """One more view."""
        self._before, self._newest = self._newest, seen
        is_later = seen.stamp_ns > self._before.stamp_ns
        if is_later and seen.shows_the_same(self._before):
            self._same += 1
        else:
            self._same_since, self._same = seen, 1
        change, last = seen.brightness - self._before.brightness, self._change
        is_back = change * last < 0 and min(abs(change), abs(last)) > BLINK
        self._change = change
        self._blank = self._blank + 1 if seen.contrast < NO_CONTRAST else 0
        self._blinking = self._blinking + 1 if is_back else 0
        self._untrusted = self._untrusted + 1 if seen.trusted < TOO_FEW else 0

    @property
    def blank(self) -> str:
        """Images show nothing; empty: they do, or not for long."""
        if self._blank < PATIENCE:
            return ""
        return (
            f"{self._whose}the last {self._blank} images show next to nothing (brightness"
            f" {self._newest.brightness:.0f} of 255, contrast {self._newest.contrast:.1f}): a lens"
            " cap, darkness, over-exposure, or an encoding that the driver misstates; what is"
            " published of them is a guess"
        )

    @property
    def frozen(self) -> str:
        """One image comes again and again; empty: it does not, or not for long."""
        seconds = (self._newest.stamp_ns - self._same_since.stamp_ns) * 1e-9
        if self._same < PATIENCE or seconds < FROZEN or self.blank:
            return ""
        return (
            f"{self._whose}the last {self._same} images are one and the same, for {seconds:.0f} s:"
            " the camera or its driver is frozen, and what is published is of then; restart the"
            " driver (unless it is simulated without noise, and stands still)"
        )

    @property
    def blinking(self) -> str:
        """Images are not of one exposure; empty: they are."""
        if self._blinking < PATIENCE:
            return ""
        return (
            f"{self._whose}images are dark and bright by turns (brightness"
            f" {self._before.brightness:.0f} and {self._newest.brightness:.0f} of 255): exposures"
            " for HDR, or an emitter that blinks; use every second image by the driver's setting or"
            " its own topic"
        )

    @property
    def untrusted(self) -> str:
        """Hardly any depth is published; empty: enough is."""
        if self._untrusted < PATIENCE:
            return ""
        return (
            f"{self._whose}{self._newest.trusted:.1%} of the newest image's pixels have the"
            f" confidence that min_confidence asks for ({self._newest.min_confidence:g}; their mean"
            f" is {self._newest.confidence:.2f}): depth and clouds are next to empty; lower it, or"
            " see whether images are sharp, lit and not covered"
        )


class FocalHealth:
    """Whether camera_info is of these images, by the focal length that the network finds in them.

    Used by the sender's thread alone.
    """

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=FOCALS)  # the network's over the calibrated one

    def add(self, update: Update) -> None:
        """One more update, whose views have the calibrated K."""
        view, (low, high) = update.views[-1], USUAL_VIEW
        wide = 2.0 * np.degrees(np.arctan(view.rgb.shape[1] / 2.0 / view.intrinsics[0, 0]))
        if update.focal is None or not low < wide < high:
            self._ratios.clear()
        else:
            self._ratios.append(update.focal)

    @property
    def warning(self) -> str:
        """That it hardly is; empty: it may be."""
        if len(self._ratios) < FOCALS:
            return ""
        ratio = median(self._ratios)
        if 1.0 / OTHER_FOCUS < ratio < OTHER_FOCUS:
            return ""
        return (
            f"camera_info's focal length is {1.0 / ratio:.2f} times what the network finds in the"
            f" last {FOCALS} images: if it is of another camera, size, crop or zoom, clouds are too"
            " narrow or too wide by as much; calibrate this camera, or set intrinsics to model"
        )


class ViewHealth:
    """The newest views of each camera, by its name.  Used by the sender's thread alone."""

    def __init__(self) -> None:
        self._cameras: dict[str, CameraHealth] = {}
        self.focal = FocalHealth()

    def update(self, view: View, min_confidence: float) -> None:
        """One more view that has depth."""
        name, seen = view.camera_name, measure(view, min_confidence)
        self._cameras.setdefault(name, CameraHealth(name, seen)).update(seen)

    @property
    def images(self) -> str:
        """Cameras whose images show nothing, or one thing, or are not of one exposure."""
        faults = [f for c in self._cameras.values() for f in (c.blank, c.frozen, c.blinking)]
        return "; ".join(filter(None, faults))

    @property
    def untrusted(self) -> str:
        """Cameras of whose depth hardly any is published; empty: none."""
        return "; ".join(filter(None, (camera.untrusted for camera in self._cameras.values())))
