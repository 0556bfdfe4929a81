# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image files as input of the network alone, bit for bit as the reference's loader has them."""

from collections.abc import Sequence
from math import ceil, floor
from os import PathLike
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from vggt_ros.errors import UserError
from vggt_ros.imaging.encodings import to_rgb
from vggt_ros.imaging.grid import bicubic, grid_for, patches, to_network
from vggt_ros.imaging.transport import samples_of


def load_images(
    paths: Sequence[str | PathLike[str]],
    mode: Literal["crop", "pad"] = "crop",
    network_width: int = 518,
) -> Float32[np.ndarray, "s H W 3"]:
    """Image files as the network's input: RGB in [0, 1], sides multiples of 14.

    `crop` is `to_network`; `pad` fits the longer side and fills up to a square. Images of
    different sizes are centred on white to the largest height and width. Raises `UserError` for
    files that cannot be read and shapes that do not fit.
    """
    if mode == "crop":
        fitted = [_cropped(_open(path), network_width) for path in paths]
    else:
        fitted = [_padded(_open(path), network_width) for path in paths]
    if not fitted:
        raise UserError("no images to load: the list of files is empty")
    height, width = (max(image.shape[axis] for image in fitted) for axis in (0, 1))
    return np.stack([_on_white(image, height, width) for image in fitted]) / np.float32(255)


def _open(path: str | PathLike[str]) -> Image.Image:
    """RGB; transparency of RGBA files becomes white, as in the reference."""
    try:
        with Image.open(path) as image:
            if image.mode == "RGBA":
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, image).convert("RGB")
            if image.mode.startswith(("I", "F")):  # Pillow would cut 16 bits off at 255
                return Image.fromarray(to_rgb(samples_of(image), "mono16"))
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as fault:
        raise UserError(f"{path} cannot be read: {fault}") from fault


def _cropped(image: Image.Image, width: int) -> UInt8[np.ndarray, "h w 3"]:
    return to_network(np.asarray(image), grid_for(*image.size, width))


def _padded(image: Image.Image, side: int) -> UInt8[np.ndarray, "side side 3"]:
    width, height = image.size
    if width >= height:
        fitted = side, patches(height * (side / width))
    else:
        fitted = patches(width * (side / height)), side
    if not min(fitted):
        raise UserError(f"an image of {width} x {height} is too narrow to fit {side} pixels")
    return _on_white(bicubic(image, *fitted), side, side)


def _on_white(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "H W 3"]:
    spare = height - image.shape[0], width - image.shape[1]
    margins = [(floor(n / 2), ceil(n / 2)) for n in spare]
    return np.pad(image, [*margins, (0, 0)], constant_values=255)
