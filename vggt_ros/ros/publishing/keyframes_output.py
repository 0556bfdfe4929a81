# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The keyframes of the map for RViz: each a small camera, a line for each loop, and its state."""

import numpy as np
from jaxtyping import Float
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.ros import messages
from vggt_ros.ros.publishing.serialised import marker_bytes

CAMERA = np.array([[0.0, 0, 0], [-1, 0, 2], [1, 0, 2]])  # apex and edge of the picture
SIZE = 0.15  # of a camera, in typical steps between two keyframes
KEYFRAME, LOOP = (1.0, 0.6, 0.0), (0.9, 0.1, 0.6)  # red, green, blue


def keyframes_message(
    keyframes: KeyframePoses,
    segment: int,
    stamp_ns: int,
    frame_id: str,
    newest: int | None = None,
    text: str = "",
) -> bytes:
    """A serialised MarkerArray: keyframes and loops of one segment, in the map's frame.

    None after `newest`, if given. Cameras have a fixed share of the usual step between two of them,
    whatever the unit. `text`, if any, stands above the last one.
    """
    shown = keyframes.segments == segment
    if newest is not None:
        shown &= keyframes.ids <= newest
    places = keyframes.translation[shown]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    step = float(np.median(steps)) if steps.any() else 1.0
    corners = np.einsum("nij,cj->nci", keyframes.rotation[shown], SIZE * step * CAMERA)
    corners += places[:, None]
    ids = keyframes.ids[shown]
    loops = keyframes.loops[np.isin(keyframes.loops, ids).all(axis=1)]
    ends = [
        corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 3),
        places[np.searchsorted(ids, loops)].reshape(-1, 3),
    ]
    head, width = messages.header(stamp_ns, frame_id), 0.05 * step
    kinds = ("keyframes", KEYFRAME), ("loops", LOOP)
    markers = [
        _lines(head, name, width, colour, any_points=len(mine) > 0)
        for (name, colour), mine in zip(kinds, ends, strict=True)
    ]
    if text and len(places):
        markers.append(_text(head, text, 2.0 * SIZE * step, places[-1]))
        ends.append(np.empty((0, 3)))
    return marker_bytes(markers, ends)


def no_keyframes_message(frame_id: str) -> MarkerArray:
    """Takes away all that was shown."""
    return MarkerArray(
        markers=[Marker(header=messages.header(0, frame_id), action=Marker.DELETEALL)]
    )


def _text(head: Header, text: str, height: float, below: Float[np.ndarray, "3"]) -> Marker:
    """The state of the map, three lines of it above a point; `height` is that of a capital."""
    marker = Marker(header=head, ns="status", type=Marker.TEXT_VIEW_FACING, text=text)
    x, y, z = (float(value) for value in below)
    marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = x, y, z + 3 * height
    marker.pose.orientation.w = 1.0
    marker.scale.z = height
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    return marker


def _lines(
    head: Header,
    name: str,
    width: float,
    colour: tuple[float, float, float],
    *,
    any_points: bool,
) -> Marker:
    """Lines between each two of the points; RViz refuses a marker without any."""
    marker = Marker(header=head, ns=name, type=Marker.LINE_LIST)
    marker.action = Marker.ADD if any_points else Marker.DELETE
    marker.pose.orientation.w = 1.0
    marker.scale.x = width
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=1.0)
    return marker
