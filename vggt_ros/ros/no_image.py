# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Why no image arrives, as far as the ROS graph shows."""

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

TIMEOUT = 3.0  # seconds without an image


def diagnose_missing_images(node: Node, topic: str, seconds: float) -> str:
    """The reason in one sentence, for the diagnostics; empty while images arrive."""
    if seconds < TIMEOUT:
        return ""
    fault = f"no image for {seconds:.0f} s on {topic}"
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"{fault}: it has no publisher; remap image to the camera's topic"
    offers = ", ".join(
        f"{publisher.node_name} ({publisher.qos_profile.reliability.name.lower()})"
        for publisher in publishers
    )
    ours = node.get_subscriptions_info_by_topic(topic)
    reliable = any(mine.qos_profile.reliability == ReliabilityPolicy.RELIABLE for mine in ours)
    weak = any(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers)
    if reliable and weak:
        return f"{fault}: published by {offers}, but subscribed as reliable; set image_reliability"
    return (
        f"{fault}: published by {offers}; if ros2 topic hz {topic} receives some, best-effort"
        " images above 0.5 MB are lost unless their publisher uses the Fast DDS profile"
        " config/fastdds.xml"
    )
