# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Why does no image come?  The most asked question of all; the graph knows the answer."""

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

PATIENCE = 3.0  # seconds without an image


def why_silent(node: Node, topic: str, seconds: float) -> str:
    """One sentence for the diagnostics; empty while images come."""
    if seconds < PATIENCE:
        return ""
    said = f"no image for {seconds:.0f} s on {topic}"
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"{said}: nobody publishes it; remap image to the camera's topic"
    offers = ", ".join(
        f"{publisher.node_name} ({publisher.qos_profile.reliability.name.lower()})"
        for publisher in publishers
    )
    ours = node.get_subscriptions_info_by_topic(topic)
    reliable = any(mine.qos_profile.reliability == ReliabilityPolicy.RELIABLE for mine in ours)
    weak = any(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers)
    if reliable and weak:
        return f"{said}: published by {offers}, but asked for reliable; set image_reliability"
    return (
        f"{said}: published by {offers}; if it sends (ros2 topic hz {topic}), best-effort images"
        " above 0.5 MB are lost unless its process has the Fast DDS profile config/fastdds.xml"
    )
