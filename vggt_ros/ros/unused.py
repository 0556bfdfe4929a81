# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the user gave and nothing uses: of a rig or of one camera, or of another scale source."""

from dataclasses import fields

from rclpy.node import Node

from vggt_ros.mapping.metric.scale import parse_sources
from vggt_ros.ros.parameters import Parameters

OF_ONE_CAMERA = ("image", "camera_info", "mask", "baseline_image", "baseline_camera_info")
OF_A_RIG = ("sync_tolerance",)  # `min_cameras` is refused without cameras
# Topics that are read for a source of scale alone.
OF_SOURCES = {
    "baseline": ("baseline_image", "baseline_camera_info"),
    "depth": ("scale_depth", "scale_points", "scale_depth_info"),
}


def unused(node: Node, parameters: Parameters) -> list[str]:
    """A text for each topic that is remapped, or parameter that is set, in vain."""
    names, sources = parameters.camera_names, parse_sources(parameters.scale_source)
    found = [
        f"{_remapped(node, name)}, but not used: scale_source is '{parameters.scale_source}'; add"
        f" {source} to it"
        for source, topics in OF_SOURCES.items()
        for name in topics
        if source not in sources and not (names and name in OF_ONE_CAMERA)
        if _remapped(node, name)
    ]
    if not names:
        defaults = {row.name: row.default for row in fields(Parameters)}
        return found + [
            f"{name} is {getattr(parameters, name):g}, but not used: it is of a rig, and cameras is"
            " empty"
            for name in OF_A_RIG
            if getattr(parameters, name) != defaults[name]
        ]
    for name in OF_ONE_CAMERA:
        if not (remapped := _remapped(node, name)):
            continue
        instead = f"remap {names[0]}/{name} of each camera"
        if name.startswith("baseline"):
            instead = "every two cameras of a rig are a baseline: name the second one in cameras"
        found.append(f"{remapped}, but not used: cameras is {', '.join(names)}; {instead}")
    return found


def _remapped(node: Node, name: str) -> str:
    """What the user remapped an input to; empty: it has its own name."""
    topic = node.resolve_topic_name(name)
    is_own = topic == node.resolve_topic_name(name, only_expand=True)
    return "" if is_own else f"{name} is remapped to {topic}"
