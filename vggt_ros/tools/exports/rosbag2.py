# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run as a rosbag2 with the node's topics, to be replayed without a GPU: `ros2 bag play`.

The tree of frames is that of a robot: map -> odom (fixed, the same) -> base_link -> camera. The
base is level (REP 105: its x is where the camera looks, seen from above) and stands below the
camera, by `camera_height` where the run was told one, else at the camera. Transforms of a stamp
come before its images, as the node sends them.

Of a rig the base is that of its reference camera. Other cameras hang on the base at their own
stamps, and each has topics of its own, as those of the node do.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError, install_extra
from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.cloud.flat import Band, scan
from vggt_ros.tools.exports.ros_messages import Messages
from vggt_ros.tools.runs.format import Run, RunFrame

NODE = "/vggt"
MAP, ODOM, BASE, CAMERA = "map", "odom", "base_link", "camera_optical_frame"
BAND = Band(0.1, 1.6, 5.0)  # metres, those of the node's scan by default
NEAREST = 0.05


class Written(NamedTuple):
    """What was written, and what was not, for the user."""

    messages: int
    note: str


def write_rosbag2(folder: Path, run: Run, frames: Sequence[int], advance: Any) -> Written:
    """metadata.yaml and the storage file (mcap) in `folder`; `advance()` is called for each frame.

    Raises `UserError` without rosbags, and for stamps that do not increase.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore
    except ModuleNotFoundError:
        raise UserError(f"rosbags is missing; install it {install_extra('tools')}") from None
    store = get_typestore(Stores.ROS2_JAZZY)
    inside, count = folder / "bag", 0
    metric, height = _scale(run)
    with Writer(inside, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        topics: dict[str, Any] = {}
        for topic, stamp, message in _messages(Messages(store.types), run, frames, advance):
            kind = message.__msgtype__
            if topic not in topics:
                latched = topic in ("/tf_static", f"{NODE}/path")
                topics[topic] = bag.add_connection(
                    topic, kind, typestore=store, offered_qos_profiles=_qos(latched=latched)
                )
            bag.write(topics[topic], stamp, store.serialize_cdr(message, kind))
            count += 1
    for file in inside.iterdir():
        file.rename(folder / file.name)
    inside.rmdir()
    if not metric:
        return Written(count, "units are arbitrary, and nav2 takes them for metres: run again with"
                       " --scale-source height or fixed for metres and a scan")  # fmt: skip
    if not height:
        return Written(count, "no scan, since the floor is not known: run again with"
                       " --scale-source height --camera-height METRES")  # fmt: skip
    return Written(count, "")


def base_frame(
    world_from_camera: Float[np.ndarray, "4 4"], height: float
) -> Float[np.ndarray, "4 4"]:
    """World from a level base, `height` below the camera, whose x is where the camera looks."""
    ahead = world_from_camera[:3, 2]
    if np.hypot(ahead[0], ahead[1]) < 1e-6:  # straight up or down: the upper rim of the image
        ahead = -world_from_camera[:3, 1]
    yaw = np.arctan2(ahead[1], ahead[0])
    cos, sin = np.cos(yaw), np.sin(yaw)
    base = np.eye(4)
    base[:2, :2] = [[cos, -sin], [sin, cos]]
    base[:3, 3] = world_from_camera[:3, 3] - [0, 0, height]
    return base


def _scale(run: Run) -> tuple[bool, float]:
    """Whether units are metres, and the camera's height above the floor in metres; 0: unknown."""
    metric = bool(run.summary.get("scale", {}).get("metric"))
    height = float(run.summary.get("settings", {}).get("camera_height", 0.0))
    return metric, height if metric else 0.0


def _messages(
    make: Messages, run: Run, frames: Sequence[int], advance: Any
) -> Iterator[tuple[str, int, Any]]:
    """Topic, stamp and message, in the order of time."""
    stamps, poses = run.trajectory()
    of_body = set(run.body_frames())
    body = [index for index in frames if index in of_body]
    if not body:
        raise UserError(f"{run.reference}, the rig's reference, has no frame in this segment")
    if (np.diff(stamps[np.array(body)]) <= 0).any():
        raise UserError(f"the stamps of {run.path} do not increase; a bag needs that they do")
    metric, height = _scale(run)
    first = int(stamps[body[0]])
    same = make.transform(make.header(first, MAP), ODOM, np.eye(4))
    yield "/tf_static", first, make.tf(same)
    poses_in_map = [make.pose(make.header(int(stamps[i]), MAP), poses[i]) for i in body]
    yield f"{NODE}/path", first, make.path(make.header(int(stamps[body[-1]]), MAP), poses_in_map)
    optical = {c["name"]: c["optical_frame"] for c in run.summary.get("rig", {}).get("cameras", ())}
    base = base_frame(poses[body[0]], height)
    for index in frames:
        frame, stamp = run.frame(index), int(stamps[index])
        camera = make.header(stamp, optical.get(frame.camera) or CAMERA)
        transforms, found = [], {}
        if index in of_body:
            base = base_frame(frame.world_from_camera, height)
            transforms.append(make.transform(make.header(stamp, ODOM), BASE, base))
            found = {
                "pose": make.pose(make.header(stamp, MAP), frame.world_from_camera),
                "odometry": make.odometry(make.header(stamp, ODOM), BASE, base),
            }
        base_from_camera = inverse_rigid(base) @ frame.world_from_camera
        transforms.append(
            make.transform(make.header(stamp, BASE), camera.frame_id, base_from_camera)
        )
        yield "/tf", stamp, make.tf(*transforms)
        found = {**_of_camera(make, camera, frame), **found}
        if metric and height:
            seen = scan(frame.depth, frame.intrinsics, base_from_camera, BAND, NEAREST)
            found["scan"] = make.scan(make.header(stamp, BASE), seen, NEAREST, BAND.reach)
        for name, message in found.items():
            yield f"{NODE}/{name}", stamp, message
        advance()


def _of_camera(make: Messages, header: Any, frame: RunFrame) -> dict[str, Any]:
    """What a frame shows, by topic."""
    own, info = f"{frame.camera}/" if frame.camera else "", make.camera_info(header, frame)
    return {
        f"{own}depth/camera_info": info,
        f"{own}depth/image": make.image(header, frame.depth),
        f"{own}depth/confidence": make.image(header, frame.confidence),
        f"{own}rgb/camera_info": info,
        f"{own}rgb/image_rect_color": make.image(header, frame.image),
        f"{own}points": make.points(header, frame),
    }


def _qos(*, latched: bool) -> list[Any]:
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    never = QosTime(2147483647, 4294967295)
    return [
        Qos(
            QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            never, never, QosLiveliness.AUTOMATIC, never, False,
        )
    ]  # fmt: skip
