# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Samples of 16 bits to 8, by the bits that a camera fills, never by what a frame shows.

A brightness that follows the content resembles motion, so nothing is stretched unless the user
names the range.  Whether the range fits is watched, and said once.
"""

import numpy as np
from jaxtyping import UInt8, UInt16

WATCHED = 20  # images, before few used levels are a notice
SPECKS = 1e-3  # share of samples that may be dead pixels or lamps
DARK = 1 << 14  # samples below it have at most a quarter of the 256 levels
FLAT = 1 << 13  # a span below it has at most an eighth of them
EVERY = 3  # rows and columns that are watched; odd, so that all colours of a mosaic are


class SixteenBits:
    """The conversion for one camera.

    Args:
        bits: significant bits of a sample, counted from the lowest; 0: not known, taken as 16.
        black: the sample that becomes 0.
    """

    def __init__(self, bits: int = 0, black: int = 0):
        self._bits, self._black = bits, black
        self._white = min(black + (1 << (bits or 16)) - 1, 65535)
        scale = ((1 << (bits or 16)) - 1) / 255
        levels = np.round((np.arange(1 << 16) - black) / scale)
        self._level_of = levels.clip(0, 255).astype(np.uint8)
        self._seen, self._low, self._high = 0, 65535, 0
        self.notice = ""  # what the user should know of the range; empty until it is known

    def to_eight(self, samples: UInt16[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
        """black .. black + 2^bits - 1 become 0 .. 255, rounded; what lies outside, 0 and 255."""
        if not self.notice and samples.size:
            self._watch(samples[::EVERY, ::EVERY])
        return self._level_of.take(samples)

    def _watch(self, samples: UInt16[np.ndarray, "h w *c"]) -> None:
        if self._black or self._white < 65535:
            outside = np.mean((samples < self._black) | (samples > self._white))
            if outside > SPECKS:
                self.notice = self._cut_off(float(outside), int(samples.max()))
        if self._bits or self._seen == WATCHED or self.notice:
            return
        low, high = np.quantile(samples, [SPECKS, 1 - SPECKS], method="nearest")
        self._low, self._high = min(self._low, int(low)), max(self._high, int(high))
        self._seen += 1
        if self._seen == WATCHED:
            self.notice = self._few_levels()

    def _cut_off(self, outside: float, highest: int) -> str:
        return (
            f"mono16_bits and mono16_black do not fit the images: {outside:.1%} of the samples are"
            f" outside {self._black} to {self._white} (the highest is {highest}) and become black"
            " or white; set them to the camera's own"
        )

    def _few_levels(self) -> str:
        low, high = self._low, self._high
        levels = int(self._level_of[high]) - int(self._level_of[low]) + 1
        left = f"which leaves {levels} of 256 levels"
        if high - self._black < DARK:
            return (
                f"images of 16 bits stay dark: {1 - SPECKS:.1%} of the samples of {WATCHED} images"
                f" are at most {high} of 65535, {left}; where the camera has fewer bits (10, 12,"
                " 14), set mono16_bits to them, and where it has 16, to 16"
            )
        if high - low < FLAT:
            return (
                f"images of 16 bits have little contrast: {1 - 2 * SPECKS:.1%} of the samples of"
                f" {WATCHED} images lie between {low} and {high} of 65535, {left}; where the camera"
                f" uses no more (thermal ones), set mono16_black below {low} and mono16_bits to"
                f" {(high - low).bit_length()} or more, else mono16_bits to 16"
            )
        return ""
