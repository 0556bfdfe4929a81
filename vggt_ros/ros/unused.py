# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the user gave and nothing uses, since another parameter says otherwise."""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

from rclpy.node import Node

from vggt_ros.mapping.metric.scale import parse_sources
from vggt_ros.ros.parameters import Parameters

OF_ONE_CAMERA = ("image", "camera_info", "mask", "baseline_image", "baseline_camera_info")


class Use(NamedTuple):
    """When a parameter has an effect, and what to say where it has none."""

    holds: Callable[[Parameters], bool]
    otherwise: str


MAPS = Use(
    lambda p: p.settings().has_map,
    "windows share no frame and make no map: set window_size above stride",
)
CLOUD = Use(lambda p: p.map_voxel > 0, "map_voxel is 0: no cloud of the map is kept")
SENT = Use(lambda p: p.tf_mode != "none", "tf_mode is none: nothing is sent to /tf")
# Parameters that have an effect beside some values of others only, if these do not refuse them.
# What a message or the network decides is said where that is known: `Settings.cautions`,
# `opening.network_cautions`, and who reads the message.
USES = {
    "bond_timeout": Use(
        lambda p: not p.autostart,
        "autostart is true: it is of a node that waits for a manager (autostart false)",
    ),
    "max_keyframes": MAPS,
    "loop_period": Use(
        lambda p: p.loops and p.settings().has_map,
        "no loop is sought: set loops to true, and window_size above stride",
    ),
    "sync_tolerance": Use(
        lambda p: bool(p.camera_names), "it is of a rig, and cameras is empty: name them in it"
    ),
    "agreement_tolerance": Use(
        lambda p: p.min_agreement > 0, "min_agreement is 0: no other view is asked to agree"
    ),
    "map_points_max": CLOUD,
    "map_clearing": CLOUD,
    "map_fusion": CLOUD,
    "odom_frame": SENT,
    "visual_odom_frame": Use(
        lambda p: p.tf_mode != "odom_to_base",
        "with tf_mode odom_to_base ~/odometry is in odom_frame: set that",
    ),
    "camera_frame": Use(
        lambda p: p.tf_mode in ("auto", "camera"), "it is of tf_mode camera: set that, or auto"
    ),
    "transform_tolerance": SENT,
    "transform_rate_hz": SENT,
}
# Topics that are read for a source of scale alone.
OF_SOURCES = {
    "baseline": ("baseline_image", "baseline_camera_info"),
    "depth": ("scale_depth", "scale_points", "scale_depth_info"),
}


def unused_parameters(parameters: Parameters) -> list[str]:
    """A text for each parameter that is set in vain."""
    defaults = {row.name: row.default for row in fields(Parameters)}
    return [
        f"{name} is {getattr(parameters, name)}, but not used: {use.otherwise}"
        for name, use in USES.items()
        if getattr(parameters, name) != defaults[name] and not use.holds(parameters)
    ]


def unused_topics(node: Node, parameters: Parameters) -> list[str]:
    """A text for each topic that is remapped in vain."""
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
        return found
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
