# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the user gave and a rig does not use, or what only a rig would use."""

from dataclasses import fields

from rclpy.node import Node

from vggt_ros.ros.parameters import Parameters

OF_ONE_CAMERA = ("image", "camera_info", "mask", "baseline_image", "baseline_camera_info")
OF_A_RIG = ("sync_tolerance",)  # `min_cameras` is refused without cameras


def unused(node: Node, parameters: Parameters) -> list[str]:
    """A text for each topic of one camera that is remapped beside `cameras`, and the reverse."""
    names = parameters.camera_names
    if not names:
        defaults = {row.name: row.default for row in fields(Parameters)}
        return [
            f"{name} is {getattr(parameters, name):g}, but not used: it is of a rig, and cameras is"
            " empty"
            for name in OF_A_RIG
            if getattr(parameters, name) != defaults[name]
        ]
    found = []
    for name in OF_ONE_CAMERA:
        topic = node.resolve_topic_name(name)
        if topic == node.resolve_topic_name(name, only_expand=True):
            continue
        instead = f"remap {names[0]}/{name} of each camera"
        if name.startswith("baseline"):
            instead = "every two cameras of a rig are a baseline: name the second one in cameras"
        found.append(
            f"{name} is remapped to {topic}, but not used: cameras is {', '.join(names)}; {instead}"
        )
    return found
