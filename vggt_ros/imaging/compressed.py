# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images on the network's grid in a tenth of their size, for a map that keeps thousands."""

from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vggt_ros.imaging.encodings import decode_compressed

QUALITY = 92  # of JPEG


def compress(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A JPEG file; its colours keep their resolution, which halves what the network notices."""
    file = BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def decompress(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The image again, changed a little.  Raises `UserError` for bytes that are no image."""
    return decode_compressed(data)
