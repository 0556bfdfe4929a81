# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages whose size grows with the run, published as bytes.

Ten thousand poses as objects take rclpy some 100 ms to build and to convert; as one array they are
copied. The layout is not known here: it is read off rclpy's own bytes of a short message.
"""

import struct
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, PoseStamped
from jaxtyping import Float, Shaped
from nav_msgs.msg import Path
from rclpy.serialization import serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.ros.messages import header

ENCAPSULATION = 4  # bytes before the message: which encoding
POSE = 7 * 8  # bytes: position and quaternion x y z w
MARKS = 0.12345678912345, -9.8765432198765, 3.3333777711115  # a point that no map has
COUNTS = 7, 11, 13  # of such points, which differ from what may stand there by accident


class PathBytes:
    """A `nav_msgs/Path` whose poses are all in one frame, as bytes of records.

    A record is one pose with its header. All have the same size, but for the first, which is
    aligned in another way.
    """

    def __init__(self, frame_id: str):
        none, two, three = (
            serialize_message(
                Path(header=header(0, frame_id), poses=[_pose(frame_id) for _ in range(count)])
            )
            for count in (0, 2, 3)
        )
        size = len(three) - len(two)
        self._before, self._first = none[:-4], two[len(none) : len(two) - size]
        self._record = two[-size:]
        self.dtype = np.dtype(
            {
                "names": ["seconds", "nanoseconds", "position", "quaternion"],
                "formats": ["i4", "u4", "(3,)f8", "(4,)f8"],
                "offsets": [0, 4, size - POSE, size - POSE + 24],
                "itemsize": size,
            }
        )

    def records(self, count: int) -> Shaped[np.ndarray, "n"]:
        """Poses to be filled in, of type `dtype`."""
        return np.frombuffer(bytearray(self._record * count), self.dtype)

    def message(self, records: Shaped[np.ndarray, "n"]) -> bytes:
        """A message of these records, of `dtype`; its header has the last one's stamp."""
        before, first = bytearray(self._before), bytearray(self._first)
        count = len(records)
        if count == 0:
            return bytes(before) + struct.pack("=I", 0)
        raw = records.view(np.uint8).reshape(count, -1)
        before[ENCAPSULATION : ENCAPSULATION + 8] = raw[-1, :8].tobytes()
        first[:8], first[-POSE:] = raw[0, :8].tobytes(), raw[0, -POSE:].tobytes()
        return b"".join([before, struct.pack("=I", count), first, np.ascontiguousarray(raw[1:])])


def _pose(frame_id: str) -> PoseStamped:
    return PoseStamped(header=header(0, frame_id))


def marker_bytes(markers: Sequence[Marker], points: Sequence[Float[np.ndarray, "_ 3"]]) -> bytes:
    """A MarkerArray of these markers, each with its points; `Marker.points` is overwritten."""
    for count in COUNTS:
        for i, (marker, mine) in enumerate(zip(markers, points, strict=True)):
            x, y, z = (float(i) + value for value in MARKS)
            marker.points = [Point(x=x, y=y, z=z)] * count if len(mine) else []
        found = _spliced(serialize_message(MarkerArray(markers=list(markers))), points, count)
        if found is not None:
            return found
    raise AssertionError("rclpy serialises markers in a way that is not known")


def _spliced(short: bytes, points: Sequence[Float[np.ndarray, "_ 3"]], count: int) -> bytes | None:
    """The bytes with each list of `count` marks replaced by points; None: it is not clear where.

    Points are of eight-byte numbers, so that what follows them stays aligned.
    """
    parts, done = [], 0
    for i, mine in enumerate(points):
        if not len(mine):
            continue
        marks = struct.pack("=3d", *(float(i) + value for value in MARKS)) * count
        start = short.find(marks, done)
        # The number of points is right before them, or four bytes of padding lie between.
        places = [
            at for at in (start - 4, start - 8) if short[at : at + 4] == struct.pack("=I", count)
        ]
        if start < 0 or len(places) != 1:
            return None
        (at,) = places
        parts += [short[done:at], struct.pack("=I", len(mine)), short[at + 4 : start]]
        parts.append(np.ascontiguousarray(mine, np.float64).tobytes())
        done = start + len(marks)
    return b"".join([*parts, short[done:]])
