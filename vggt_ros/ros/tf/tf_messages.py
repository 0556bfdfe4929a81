# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of /tf as they were received: names and stamps are read, transforms left packed.

rclpy takes a millisecond and more to turn thirty transforms into objects, most of which are
never needed. So the bytes are kept, and the seven numbers of a transform are read at a lookup.
"""

from collections.abc import Iterator, Sequence
from struct import Struct, error
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import TransformStamped
from jaxtyping import Float
from rclpy.serialization import deserialize_message

from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.mapping.metric.odometry import FARTHEST
from vggt_ros.ros.messages import stamp_ns

Pose = Float[np.ndarray, "4 4"]

PLAIN_CDR_LE = b"\x00\x01"  # how every rmw of today represents data on little-endian machines
HEADER = 4  # octets before the data, from which its alignment counts
MAX_LAYOUTS = 64  # of messages, that are kept; a publisher repeats its own
NO_POSE = f"is not finite, has a position beyond {FARTHEST:.0e} m, or no quaternion of length one"
UINT32, STAMP, NUMBERS = Struct("<I"), Struct("<iII"), Struct("<7d")


class Packed(NamedTuple):
    """A transform inside the octets of a message: x y z of the translation, x y z w."""

    data: bytes
    offset: int

    def pose(self) -> Pose | None:
        """As `parent_from_child`; None where it is not a pose, see `NO_POSE`."""
        return rigid(*NUMBERS.unpack_from(self.data, self.offset))

    @classmethod
    def of(cls, found: TransformStamped) -> "Packed":
        """The transform of a message that was converted already."""
        t, q = found.transform.translation, found.transform.rotation
        return cls(NUMBERS.pack(t.x, t.y, t.z, q.x, q.y, q.z, q.w), 0)


class Received(NamedTuple):
    """One transform of a message; names as they were sent."""

    parent: str
    child: str
    ns: int
    packed: Packed


class _Layout(NamedTuple):
    """What two messages about the same frames have in common."""

    struct: Struct  # count; of each: seconds, nanoseconds, length, parent, length, child
    equal: tuple[int | bytes, ...]  # of these values all but the stamps, see `_without_stamps`
    links: tuple[tuple[str, str], ...]  # parent and child
    offsets: tuple[int, ...]  # of the transforms' numbers


class Reader:
    """Reads serialized messages of type `message`, tf2_msgs/TFMessage."""

    def __init__(self, message: type):
        self._message = message
        self._layouts: dict[int, list[_Layout]] = {}  # by the message's length

    def read(self, raw: bytes) -> Iterator[Received]:
        """Its transforms; none of a message that is damaged."""
        try:
            if raw[:2] == PLAIN_CDR_LE:
                yield from self._read_packed(raw)
            else:
                yield from received(deserialize_message(raw, self._message).transforms)
        except (error, ValueError, RuntimeError):  # struct's, of text, and rclpy's
            return

    def _read_packed(self, raw: bytes) -> Iterator[Received]:
        layouts = self._layouts.setdefault(len(raw), [])
        for layout in layouts:
            values = layout.struct.unpack_from(raw, HEADER)
            if _without_stamps(values) == layout.equal:
                break
        else:
            layout = _layout_of(raw)
            values = layout.struct.unpack_from(raw, HEADER)
            if sum(map(len, self._layouts.values())) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts.setdefault(len(raw), []).append(layout)
        rows = zip(layout.links, values[1::6], values[2::6], layout.offsets, strict=True)
        for (parent, child), seconds, nanoseconds, offset in rows:
            yield Received(parent, child, seconds * 10**9 + nanoseconds, Packed(raw, offset))


def received(transforms: Sequence[TransformStamped]) -> Iterator[Received]:
    """The transforms of a message that was converted already."""
    for found in transforms:
        head = found.header
        yield Received(head.frame_id, found.child_frame_id, stamp_ns(head.stamp), Packed.of(found))


def rigid(x: float, y: float, z: float, qx: float, qy: float, qz: float, qw: float) -> Pose | None:
    """A translation and a quaternion as a matrix; None where they are none, see `NO_POSE`."""
    quaternion = np.array([qx, qy, qz, qw])
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    # Nothing overflows, here and in what is computed with it; false for what is not a number.
    valid = (np.abs(pose[:3, 3]) <= FARTHEST).all() and (np.abs(quaternion) < 2.0).all()
    if not valid or not 0.5 < float(np.linalg.norm(quaternion)) < 2.0:
        return None
    pose[:3, :3] = rotation_from_quaternion(quaternion)
    return pose


def pose_of(translation: Any, rotation: Any) -> Pose | None:
    """A message's translation and quaternion as a matrix; None where they are no pose."""
    t, q = translation, rotation
    return rigid(t.x, t.y, t.z, q.x, q.y, q.z, q.w)


def _layout_of(raw: bytes) -> _Layout:
    """Where things are in this message.  Raises `struct.error` or `ValueError` if damaged.

    CDR: numbers are aligned to their size; a string is its length with the final zero, then that
    many octets. OMG DDSI-RTPS 2.3, 10; fast-cdr and CycloneDDS write it so.
    """
    (count,), at = UINT32.unpack_from(raw, HEADER), HEADER + UINT32.size
    pattern, links, offsets = ["<I"], [], []
    for _ in range(count):
        at = _aligned(at, 4)
        _, _, size = STAMP.unpack_from(raw, at)
        parent, parent_end = _text(raw, at + STAMP.size, size)
        at = _aligned(parent_end, 4)
        (child_size,) = UINT32.unpack_from(raw, at)
        child, child_end = _text(raw, at + UINT32.size, child_size)
        numbers = _aligned(child_end, 8)
        NUMBERS.unpack_from(raw, numbers)  # raises where it is cut off
        links.append((parent[:-1].decode(), child[:-1].decode()))
        offsets.append(numbers)
        padding = at - parent_end
        at = numbers + NUMBERS.size
        pattern.append(f"iII{size}s{padding}xI{child_size}s{at - child_end}x")
    struct = Struct("".join(pattern))
    equal = _without_stamps(struct.unpack_from(raw, HEADER))
    return _Layout(struct, equal, tuple(links), tuple(offsets))


def _without_stamps(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of the values that a layout's struct reads."""
    return values[:1] + values[3::6] + values[4::6] + values[5::6] + values[6::6]


def _aligned(at: int, size: int) -> int:
    return at + (HEADER - at) % size


def _text(raw: bytes, at: int, size: int) -> tuple[bytes, int]:
    """A string of `size` octets with its final zero, and where it ends."""
    if not 0 < size <= len(raw) - at:
        raise ValueError("a string is cut off")
    return raw[at : at + size], at + size
