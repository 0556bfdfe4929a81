# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of views whose place is known: alike where the places are close together."""

import numpy as np
from jaxtyping import Float, Float32

from fakes.room import APART, room_of

CHANNELS = 256
PLACE, DIRECTION = 0.8, 0.45  # metres and radians that make two views look different (0.6 alike)


def appearance(place: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "d"]:
    """A unit vector; the product of two is near exp(-r^2 / 2), r being how far they are apart.

    A. Rahimi and B. Recht, Random features for large-scale kernel machines, NIPS 2007.
    """
    random = np.random.default_rng(5)
    waves = random.standard_normal((len(place), CHANNELS))
    features = np.cos(place @ waves + random.uniform(0.0, 2.0 * np.pi, CHANNELS))
    return (features / np.linalg.norm(features)).astype(np.float32)


def appearance_in_room(world_from_camera: Float[np.ndarray, "4 4"]) -> Float32[np.ndarray, "d"]:
    """Of what a camera sees: by its place in the room, its direction, and the kind of room.

    Even rooms are furnished alike, and so are odd ones: the same place in them looks the same.
    """
    room = room_of(world_from_camera)
    place = world_from_camera[:3, 3] - [APART * room, 0.0, 0.0]
    kind = 5.0 * (room % 2)  # far apart
    return appearance(np.r_[place / PLACE, world_from_camera[:3, 2] / DIRECTION, kind])
