# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The image that a camera would take without its lens: its pixels there and back, and itself.

Raw pixels are undone by D and R of the calibration and projected again by the rectified K. The
image is read off the raw one in one pass, straight onto the grid where it is wanted.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from PIL import Image

from vggt_ros.imaging.lens import Lens

Matrix = Float64[np.ndarray, "3 3"]
UV = Float64[np.ndarray, "*n 2"]

DENSE = 1.5  # raw pixels to one of the target: a finer raw image is reduced to this beforehand
CHUNK = 1 << 14  # pixels that are sampled at once, so that they stay in the cache
ONE = 256  # the weights of four neighbours add up to it, so that 16 bits hold every sum


class Rectification:
    """Raw pixels of a camera <-> those of its rectified image, which has the same size."""

    def __init__(
        self,
        lens: Lens | None,
        raw: Matrix,
        rotation: Matrix,
        rectified: Matrix,
        width: int,
        height: int,
    ):
        """`raw` and `rectified`: K on either side; `rotation`: rectified_from_raw, R."""
        self.lens, self.raw, self.rotation, self.rectified = lens, raw, rotation, rectified
        self.width, self.height = width, height
        self._remaps: dict[tuple, Remap] = {}

    def input_from_rectified(self, uv: UV) -> UV:
        """Raw pixels of rectified ones; NaN where the lens sends no light."""
        xy = _divided(_rays(self.rectified, uv) @ self.rotation)
        return _pixels(self.raw, xy if self.lens is None else self.lens.distort(xy))

    def rectified_from_input(self, uv: UV) -> UV:
        """Rectified pixels of raw ones; NaN where they see what no plane image can show."""
        xy = self.raw_directions(uv)
        ones = np.ones((*xy.shape[:-1], 1))
        return _pixels(
            self.rectified, _divided(np.concatenate([xy, ones], axis=-1) @ self.rotation.T)
        )

    def raw_directions(self, uv: UV) -> UV:
        """x / z and y / z of raw pixels, before R turns them; NaN as in `Lens.undistort`."""
        xy = _rays(self.raw, uv)[..., :2]
        return xy if self.lens is None else self.lens.undistort(xy)

    def remap(self, rectified_from_target: Matrix, width: int, height: int) -> "Remap":
        """Onto a grid of this size, `rectified_from_target` being affine; built once for each."""
        key = (width, height, rectified_from_target.tobytes())
        if key not in self._remaps:
            self._remaps[key] = Remap(self, rectified_from_target, width, height)
        return self._remaps[key]

    def image(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The rectified image at the raw one's size."""
        return self.remap(np.eye(3), self.width, self.height).image(rgb)


class Remap:
    """Where each pixel of a target grid is in the raw image.

    `uv`: raw pixels; `valid`: which of them lie in the raw image.
    """

    def __init__(self, of: Rectification, rectified_from_target: Matrix, width: int, height: int):
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        target = np.stack([columns, rows], axis=-1).astype(np.float64)
        matrix = rectified_from_target[:2]
        there = target @ matrix[:, :2].T + matrix[:, 2]
        uv = of.input_from_rectified(there)
        end = np.array([of.width, of.height]) - 0.5
        inside = (uv >= -0.5) & (uv <= end)  # False for NaN
        self.valid: Bool[np.ndarray, "h w"] = inside[..., 0] & inside[..., 1]
        self.uv: Float32[np.ndarray, "h w 2"] = np.where(self.valid[..., None], uv, -1.0).astype(
            np.float32
        )
        # Where the raw image is much finer than the target it would be sampled with gaps.
        density = _density(uv, self.valid)
        self._size: tuple[int, int] | None = None
        if density > 1.2 * DENSE:
            smaller = DENSE / density
            self._size = max(2, round(of.width * smaller)), max(2, round(of.height * smaller))
        self._taps = _Taps(uv, self.valid, (of.width, of.height), self._size)

    def image(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The rectified image on the target grid; black where the raw one does not reach."""
        if self._size is None:
            return self._taps.sample(rgb)
        reduced = Image.fromarray(rgb).resize(self._size, Image.Resampling.HAMMING)
        return self._taps.sample(np.asarray(reduced))

    @property
    def nearest(self) -> tuple[Int32[np.ndarray, "h w"], Int32[np.ndarray, "h w"]]:
        """Row and column of the nearest raw pixel; any where there is none."""
        at = np.rint(self.uv).astype(np.int32)
        return at[..., 1], at[..., 0]


class _Taps:
    """Four neighbours of each pixel in a source image, and their weights: bilinear, in integers."""

    def __init__(
        self,
        uv: UV,
        valid: Bool[np.ndarray, "h w"],
        raw: tuple[int, int],
        reduced: tuple[int, int] | None,
    ):
        width, height = reduced or raw
        scale = np.array([width / raw[0], height / raw[1]])
        at = np.where(valid[..., None], (uv + 0.5) * scale - 0.5, 0.0)
        at = np.clip(at, 0.0, [width - 1, height - 1])
        first = np.minimum(at.astype(np.int32), np.maximum([width - 2, height - 2], 0))
        right, down = np.moveaxis(np.rint((at - first) * ONE).astype(np.int64), -1, 0)
        self._row = width
        self._first = (first[..., 1] * width + first[..., 0]).ravel().astype(np.int32)
        corner = right * down // ONE
        weights = np.stack([ONE - right - down + corner, right - corner, down - corner, corner])
        weights = np.where(valid, weights, 0)
        self._weights = weights.astype(np.uint16).reshape(4, -1, 1)
        self._shape = valid.shape

    def sample(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """One gather a neighbour: the three channels travel as one number."""
        packed = np.zeros((*rgb.shape[:2], 4), np.uint8)
        packed[..., :3] = rgb
        flat = packed.view(np.uint32).reshape(-1)
        sampled = np.empty((len(self._first), 3), np.uint8)
        steps = (0, 1, self._row, self._row + 1)
        for begin in range(0, len(sampled), CHUNK):
            part = np.s_[begin : begin + CHUNK]
            first, total = self._first[part], np.uint16(ONE // 2)
            for step, weight in zip(steps, self._weights[:, part], strict=True):
                tap = flat[step:].take(first, mode="clip").view(np.uint8).reshape(-1, 4)
                total = total + tap * weight
            np.right_shift(total[:, :3], 8, out=sampled[part], casting="unsafe")
        return sampled.reshape(*self._shape, 3)


def _rays(matrix: Matrix, uv: UV) -> Float64[np.ndarray, "*n 3"]:
    ones = np.ones((*uv.shape[:-1], 1))
    return np.concatenate([uv, ones], axis=-1) @ np.linalg.inv(matrix).T


def _divided(rays: Float64[np.ndarray, "*n 3"]) -> UV:
    """x / z and y / z; NaN for what is not ahead."""
    ahead = np.where(rays[..., 2:] > 1e-9, rays[..., 2:], np.nan)
    return rays[..., :2] / ahead


def _pixels(matrix: Matrix, xy: UV) -> UV:
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def _density(uv: UV, valid: Bool[np.ndarray, "h w"]) -> float:
    """Raw pixels from one target pixel to the next: the median over the image."""
    uv = np.where(valid[..., None], uv, np.nan)  # others may be anything
    across = np.linalg.norm(np.diff(uv, axis=1), axis=-1)[valid[:, 1:] & valid[:, :-1]]
    down = np.linalg.norm(np.diff(uv, axis=0), axis=-1)[valid[1:] & valid[:-1]]
    steps = np.concatenate([across, down])
    return float(np.median(steps)) if len(steps) else 1.0
