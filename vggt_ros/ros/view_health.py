# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether images show anything, and whether the network trusts what it makes of them."""

from collections import Counter

import numpy as np

from vggt_ros.frames import View

PATIENCE = 10  # views in a row of one camera before it is a warning
NO_CONTRAST = 3.0  # standard deviation of brightness, of 255: that of noise in darkness
TOO_FEW = 0.02  # share of pixels that are trusted, below which clouds are next to empty
EVERY = 4  # rows and columns whose brightness is looked at


class ViewHealth:
    """The newest views of each camera, by its name.  Used by the sender's thread alone."""

    def __init__(self) -> None:
        self._blank: Counter[str] = Counter()  # views in a row
        self._untrusted: Counter[str] = Counter()
        self._blank_texts: dict[str, str] = {}
        self._untrusted_texts: dict[str, str] = {}

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
    def blank(self) -> str:
        """Cameras whose images show nothing; empty: none."""
        return _lasting(self._blank, self._blank_texts)

    @property
    def untrusted(self) -> str:
        """Cameras of whose depth hardly any is published; empty: none."""
        return _lasting(self._untrusted, self._untrusted_texts)


def _lasting(counts: Counter[str], texts: dict[str, str]) -> str:
    return "; ".join(texts[name] for name, count in counts.items() if count >= PATIENCE)
