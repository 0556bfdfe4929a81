# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The images of one camera to RGB, and what is assumed of them."""

import re

import numpy as np
from jaxtyping import UInt8

from vggt_ros.imaging.encodings import Buffer, Samples, assumption, decode, to_rgb
from vggt_ros.imaging.sixteen_bits import SixteenBits
from vggt_ros.imaging.transport import Format, unpack


class ImageReader:
    """Reads the images of one camera.

    What the user should know of them is added to `notices` (a caller's list, if it gives one),
    each line once.

    Args:
        bits: significant bits of images with 16 bits a sample; 0: not known, taken as 16.
        black: the sample of such images that is black.
        notices: list to add to.
    """

    def __init__(self, bits: int = 0, black: int = 0, notices: list[str] | None = None):
        self.notices: list[str] = [] if notices is None else notices
        self._sixteen = SixteenBits(bits, black)
        self._said: set[str] = set()

    def raw(
        self,
        data: Buffer | np.ndarray,
        *,
        encoding: str,
        height: int,
        width: int,
        step: int,
        is_bigendian: bool | int,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """An uncompressed image; see `encodings.decode`, also for errors."""
        rgb = decode(
            data, encoding=encoding, height=height, width=width, step=step,
            is_bigendian=is_bigendian, sixteen=self._sixteen,
        )  # fmt: skip
        self._say(assumption(encoding))
        self._say(self._sixteen.notice)
        return rgb

    def compressed(self, data: Buffer, format: str = "") -> UInt8[np.ndarray, "h w 3"]:
        """A compressed image; see `encodings.decode_compressed`, also for errors."""
        samples, encoding = unpack(bytes(data), format)
        self._say(assumption(Format.of(format).source))
        if samples.dtype == np.uint8 and re.match(r"\w+16\s*;|16uc\d", format, re.IGNORECASE):
            self._say(
                f"images of 16 bits arrive with 8: format {format!r}; let their sender compress"
                " them as png, which keeps all bits"
            )
        return self.samples(samples, encoding)

    def samples(self, samples: Samples, encoding: str) -> UInt8[np.ndarray, "h w 3"]:
        """Rows of samples of an encoding in `encodings.LAYOUTS`."""
        rgb = to_rgb(samples, encoding, self._sixteen)
        self._say(self._sixteen.notice)
        return rgb

    def _say(self, notice: str) -> None:
        if notice and notice not in self._said:
            self._said.add(notice)
            self.notices.append(notice)
