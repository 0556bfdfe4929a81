# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether images show anything, and whether the network trusts what it makes of them."""

from collections import Counter

import numpy as np

from vggt_ros.frames import View

PATIENCE = 10  # views in a row of one camera before it is a warning
NO_CONTRAST = 3.0  # standard deviation of brightness, of 255: that of noise in darkness
TOO_FEW = 0.02  # share of pixels that are trusted, below which clouds are next to empty
EVERY = 4  # rows and columns apart whose brightness is measured
BLINK = 15.0  # of 255: by how much brightness goes to and fro at least, from image to image


class ViewHealth:
    """The newest views of each camera, by its name.  Used by the sender's thread alone."""

    def __init__(self) -> None:
        self._blank: Counter[str] = Counter()  # views in a row
        self._untrusted: Counter[str] = Counter()
        self._blinking: Counter[str] = Counter()  # changes in a row, each against the one before
        self._brightness: dict[str, tuple[float, float]] = {}  # of the last view, and its change
        self._blank_texts: dict[str, str] = {}
        self._untrusted_texts: dict[str, str] = {}
        self._blinking_texts: dict[str, str] = {}

    def update(self, view: View, min_confidence: float) -> None:
        """One more view that has depth."""
        name, whose = view.camera_name, f"{view.camera_name}: " if view.camera_name else ""
        brightness = view.rgb[::EVERY, ::EVERY].mean(axis=-1)
        mean, contrast = float(brightness.mean()), float(brightness.std())
        self._blank[name] = self._blank[name] + 1 if contrast < NO_CONTRAST else 0
        self._blank_texts[name] = (
            f"{whose}the last {self._blank[name]} images show next to nothing (brightness"
            f" {mean:.0f} of 255, contrast {contrast:.1f}): a lens cap, darkness, over-exposure, or"
            " an encoding that the driver misstates; what is published of them is a guess"
        )
        before, change = self._brightness.get(name, (mean, 0.0))
        self._brightness[name] = mean, mean - before
        is_back = change * (mean - before) < 0 and min(abs(change), abs(mean - before)) > BLINK
        self._blinking[name] = self._blinking[name] + 1 if is_back else 0
        self._blinking_texts[name] = (
            f"{whose}images are dark and bright by turns (brightness {before:.0f} and {mean:.0f} of"
            " 255): exposures for HDR, or an emitter that blinks; use every second image by the"
            " driver's setting or its own topic"
        )
        assert view.confidence is not None
        share = float(np.mean(view.confidence >= min_confidence))
        self._untrusted[name] = self._untrusted[name] + 1 if share < TOO_FEW else 0
        self._untrusted_texts[name] = (
            f"{whose}{share:.1%} of the newest image's pixels have the confidence that"
            f" min_confidence asks for ({min_confidence:g}; their mean is"
            f" {float(np.mean(view.confidence)):.2f}): depth and clouds are next to empty; lower"
            " it, or see whether images are sharp, lit and not covered"
        )

    @property
    def images(self) -> str:
        """Cameras whose images show nothing, or are not of one exposure; empty: none."""
        found = (
            _lasting(self._blank, self._blank_texts),
            _lasting(self._blinking, self._blinking_texts),
        )
        return "; ".join(filter(None, found))

    @property
    def untrusted(self) -> str:
        """Cameras of whose depth hardly any is published; empty: none."""
        return _lasting(self._untrusted, self._untrusted_texts)


def _lasting(counts: Counter[str], texts: dict[str, str]) -> str:
    return "; ".join(texts[name] for name, count in counts.items() if count >= PATIENCE)
