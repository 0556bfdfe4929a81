# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a lens does to the directions that a camera sees: the models of sensor_msgs/CameraInfo.

Directions are `xy`, a ray's x / z and y / z in the optical frame; a pinhole of focal length 1 has
them as its image. `distort` gives where the lens puts them, `undistort` the way back.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError

WIDEST = np.deg2rad(89.5)  # from the axis; a pinhole sees no ray at 90 degrees
SAMPLES = 4096  # of the angle to the axis, for the first guess of the way back
NEWTON_STEPS = 12
EXACT = 1e-9  # of a focal length, at which the way back is found
LARGEST = 1e6  # of a coefficient; no lens comes near it, and nothing overflows below
FISHEYE = {"equidistant", "fisheye", "kannala_brandt4"}
POLYNOMIAL = {"plumb_bob", "rational_polynomial", "radtan", ""}
COUNTS = {4, 5, 8, 12, 14}  # of coefficients, each model with those of the one before

XY = Float64[np.ndarray, "*n 2"]


class Lens:
    """A lens that is known by the coefficients D of camera_info."""

    def __init__(self, model: str, coefficients: tuple[float, ...]):
        """Raises `UserError` for a model, a number of coefficients or values that are unknown."""
        named, model = model, model.lower()
        self.is_fisheye = model in FISHEYE
        self.model, self.coefficients = model or "plumb_bob", coefficients
        counts = {4} if self.is_fisheye else COUNTS
        if model not in FISHEYE | POLYNOMIAL:
            raise UserError(
                f"camera_info has the distortion model '{named}', which is not known here; rectify"
                " the image elsewhere, or calibrate with plumb_bob, rational_polynomial or"
                " equidistant"
            )
        if len(coefficients) not in counts:
            raise UserError(
                f"camera_info has {len(coefficients)} coefficients D for its distortion model"
                f" '{self.model}', which has {' or '.join(map(str, sorted(counts)))}"
            )
        if not (np.abs(coefficients) < LARGEST).all():
            raise UserError(
                f"camera_info's D is not finite, or beyond {LARGEST:.0e}; calibrate the camera"
            )

    def __str__(self) -> str:
        return f"{self.model}, {len(self.coefficients)} coefficients"

    def distort(self, xy: XY) -> XY:
        """Where the lens puts directions; NaN where it has no image of them.

        Beyond the angle from which on its polynomial turns back, a model says nothing.
        """
        radius = np.linalg.norm(xy, axis=-1, keepdims=True)
        with np.errstate(all="ignore"):
            seen = self._equidistant(xy, radius) if self.is_fisheye else self._polynomial(xy)
        return np.where(radius <= self._reach, seen, np.nan)

    def undistort(self, xy: XY) -> XY:
        """The directions that the lens puts there; NaN where there is none.

        Newton's method from the radial part alone, until the image is met.
        """
        straight = self._untilted(xy)
        radius = np.linalg.norm(straight, axis=-1, keepdims=True)
        ideal, seen = self._radii
        inside = np.minimum(radius, seen[-1])
        found = straight * np.interp(inside, seen, ideal) / np.maximum(radius, 1e-12)
        found = np.where(radius > 1e-12, found, straight)
        free = self._equidistant_of(found) if self.is_fisheye else self._polynomial
        with np.errstate(all="ignore"):
            for _ in range(NEWTON_STEPS):
                error = free(found) - xy
                if not (np.abs(error) > EXACT).any():
                    break
                found = found - _solved(free, found, error)
            missed = np.abs(free(found) - xy).max(axis=-1, keepdims=True)
        met = (missed < 1e-6) & (np.linalg.norm(found, axis=-1, keepdims=True) <= self._reach)
        return np.where(met, found, np.nan)

    # ---- the models

    def _equidistant_of(self, _: XY) -> Callable[[XY], XY]:
        return lambda xy: self._equidistant(xy, np.linalg.norm(xy, axis=-1, keepdims=True))

    def _equidistant(self, xy: XY, radius: Float64[np.ndarray, "*n 1"]) -> XY:
        """Kannala and Brandt, PAMI 28(8), 2006: the image's radius is a polynomial of the angle.

        theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8), as OpenCV's fisheye has it.
        """
        theta = np.arctan(radius)
        stretched = self._of_angle(theta)
        return xy * np.where(radius > 1e-12, stretched / np.maximum(radius, 1e-12), 1.0)

    def _of_angle(self, theta: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        square = theta**2
        k1, k2, k3, k4 = self.coefficients
        return theta * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))

    def _polynomial(self, xy: XY) -> XY:
        """Brown-Conrady with a rational radial part, thin prisms and a tilted sensor.

        The order of D is OpenCV's: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tau_x tau_y]]]].
        """
        _, _, p1, p2, *_ = self.coefficients
        s1, s2, s3, s4 = self._padded[8:12]
        x, y = xy[..., 0], xy[..., 1]
        square = x**2 + y**2
        radial = self._radial(square)
        seen_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2)
        seen_y = y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y
        seen_x = seen_x + s1 * square + s2 * square**2
        seen_y = seen_y + s3 * square + s4 * square**2
        return _projected(self._tilt, np.stack([seen_x, seen_y], axis=-1))

    def _radial(self, square: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        k1, k2, _, _, k3, k4, k5, k6 = self._padded[:8]
        above = 1 + square * (k1 + square * (k2 + square * k3))
        return above / (1 + square * (k4 + square * (k5 + square * k6)))

    @property
    def _padded(self) -> tuple[float, ...]:
        return (*self.coefficients, *(14 - len(self.coefficients)) * (0.0,))

    @cached_property
    def _tilt(self) -> Float64[np.ndarray, "3 3"]:
        """Of the sensor about x, then y, projected back along the axis (Scheimpflug)."""
        tau_x, tau_y = self._padded[12:]
        about_x, about_y = np.eye(3), np.eye(3)
        about_x[1:, 1:] = [[np.cos(tau_x), np.sin(tau_x)], [-np.sin(tau_x), np.cos(tau_x)]]
        about_y[::2, ::2] = [[np.cos(tau_y), -np.sin(tau_y)], [np.sin(tau_y), np.cos(tau_y)]]
        turned = about_y @ about_x
        along = np.array([[turned[2, 2], 0, -turned[0, 2]], [0, turned[2, 2], -turned[1, 2]],
                          [0, 0, 1]])  # fmt: skip
        return along @ turned

    def _untilted(self, xy: XY) -> XY:
        if self.is_fisheye or not any(self._padded[12:]):
            return xy
        return _projected(np.linalg.inv(self._tilt), xy)

    # ---- how far a model holds

    @cached_property
    def _radii(self) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
        """Radii of directions and of their images, both rising, up to where the model holds."""
        theta = np.linspace(0.0, WIDEST, SAMPLES)
        ideal = np.tan(theta)
        with np.errstate(all="ignore"):
            seen = self._of_angle(theta) if self.is_fisheye else ideal * self._radial(ideal**2)
            turns = np.flatnonzero(~(np.diff(seen) > 0))
        last = int(turns[0]) if len(turns) else SAMPLES - 1
        return ideal[: last + 1], seen[: last + 1]

    @cached_property
    def _reach(self) -> float:
        return float(self._radii[0][-1])


def lens_of(model: str, d: tuple[float, ...]) -> Lens | None:
    """The lens of a camera_info; None where D is empty or zero.  Raises `UserError`."""
    return Lens(model, d) if any(d) else None


def _projected(homography: Float64[np.ndarray, "3 3"], xy: XY) -> XY:
    ones = np.ones((*xy.shape[:-1], 1))
    moved = np.concatenate([xy, ones], axis=-1) @ homography.T
    return moved[..., :2] / moved[..., 2:]


def _solved(of: Callable[[XY], XY], at: XY, error: XY) -> XY:
    """The step by which `of` changes by `error`, by central differences."""
    h = 1e-6
    dx = (of(at + [h, 0.0]) - of(at - [h, 0.0])) / (2 * h)
    dy = (of(at + [0.0, h]) - of(at - [0.0, h])) / (2 * h)
    (a, c), (b, d) = np.moveaxis(dx, -1, 0), np.moveaxis(dy, -1, 0)
    x, y = np.moveaxis(error, -1, 0)
    return np.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)[..., None]
