# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of keyframes: how small they become, and how close they stay."""

import numpy as np
import pytest

from vggt_ros.errors import UserError
from vggt_ros.imaging.compressed import compress, decompress


def picture(height: int = 392, width: int = 518) -> np.ndarray:
    """Amplitudes fall with frequency, as in photographs; before it a bright box with sharp edges.

    D. J. Field, Relations between the statistics of natural images, J. Opt. Soc. Am. A 4, 1987.
    """
    random = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    spectrum = (
        np.fft.rfft2(random.standard_normal((3, height, width))) / (frequency + 1 / width) ** 1.5
    )
    grey, *colour = np.fft.irfft2(spectrum, (height, width))
    planes = np.stack([grey, grey + 0.3 * colour[0], grey + 0.3 * colour[1]], axis=-1)
    rgb = 120 + 50 * (planes - planes.mean()) / planes.std()
    rgb[100:200, 150:300] = 230, 60, 30
    return rgb.clip(0, 255).astype(np.uint8)


def test_an_image_of_a_keyframe_is_small_and_close():
    rgb = picture()
    data = compress(rgb)
    again = decompress(data)
    assert again.shape == rgb.shape and again.dtype == np.uint8 and again.flags.c_contiguous
    assert len(data) < rgb.nbytes / 5  # 609 kB raw
    error = again.astype(float) - rgb
    assert np.sqrt(np.mean(error**2)) < 3.5 and abs(error.mean()) < 0.1
    # Colours are kept at full resolution: within two pixels of the box's edge too.
    edge = np.s_[100:200, 148:152]
    assert np.sqrt(np.mean(error[edge] ** 2)) < 7.0


def test_any_size_can_be_compressed():
    for height, width in ((1, 1), (14, 518), (37, 53)):
        rgb = picture(400, 518)[:height, :width]  # not contiguous
        assert decompress(compress(rgb)).shape == (height, width, 3)


def test_bytes_that_are_no_image_are_refused():
    data = compress(picture(56, 56))
    with pytest.raises(UserError, match="neither JPEG nor PNG"):
        decompress(b"not an image")
    with pytest.raises(UserError, match="broken"):
        decompress(data[: len(data) // 2])
