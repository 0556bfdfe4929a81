# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The keyframes of the map for RViz: each a small camera, and a line for each loop."""

import numpy as np
from geometry_msgs.msg import Point
from jaxtyping import Float
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.ros import messages

CAMERA = np.array([[0.0, 0, 0], [-1, 0, 2], [1, 0, 2]])  # apex and edge of the picture
SIZE = 0.15  # of a camera, in typical steps between two keyframes
KEYFRAME, LOOP = (1.0, 0.6, 0.0), (0.9, 0.1, 0.6)  # red, green, blue


def keyframes_message(
    keyframes: KeyframePoses,
    segment: int,
    stamp_ns: int,
    frame_id: str,
    newest: int | None = None,
) -> MarkerArray:
    """Keyframes and loops of one segment, in the map's frame; none after `newest`, if given.

    Cameras have a fixed share of the usual step between two of them, whatever the unit.
    """
    shown = keyframes.segments == segment
    if newest is not None:
        shown &= keyframes.ids <= newest
    places = keyframes.translation[shown]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    step = float(np.median(steps)) if steps.any() else 1.0
    corners = np.einsum("nij,cj->nci", keyframes.rotation[shown], SIZE * step * CAMERA)
    corners += places[:, None]
    place_of = dict(zip(keyframes.ids[shown].tolist(), places, strict=True))
    loops = [
        (place_of[one], place_of[other])
        for one, other in keyframes.loops.tolist()
        if one in place_of and other in place_of
    ]
    head, width = messages.header(stamp_ns, frame_id), 0.05 * step
    cameras = corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 3)
    return MarkerArray(
        markers=[
            _lines(head, "keyframes", cameras, width, KEYFRAME),
            _lines(head, "loops", np.array(loops).reshape(-1, 3), width, LOOP),
        ]
    )


def _lines(
    head: Header,
    name: str,
    ends: Float[np.ndarray, "n 3"],
    width: float,
    colour: tuple[float, float, float],
) -> Marker:
    """Lines between each two of the points; RViz refuses a marker without any."""
    marker = Marker(header=head, ns=name, type=Marker.LINE_LIST)
    marker.action = Marker.ADD if len(ends) else Marker.DELETE
    marker.pose.orientation.w = 1.0
    marker.scale.x = width
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=1.0)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in ends.tolist()]
    return marker
