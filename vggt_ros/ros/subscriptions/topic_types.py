# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What to do about a topic that carries another type than the input that is remapped to it.

ROS itself says nothing of it: publisher and subscription with different types share a name and
never meet.
"""

from collections.abc import Sequence

from rclpy.topic_endpoint_info import TopicEndpointInfo

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CLOUD = "sensor_msgs/msg/PointCloud2"
TRANSPORTED = ("image", "baseline_image")  # inputs that image_transport is for
ENCODED = ("FFMPEGPacket", "CompressedVideo", "Packet", "H264")  # parts of names of video types
# Inputs of the node by type, as advice where another one was remapped.
INPUTS = {
    IMAGE: "image",
    CLOUD: "scale_points",
    "sensor_msgs/msg/CameraInfo": "camera_info",
    "sensor_msgs/msg/Imu": "imu",
    "nav_msgs/msg/Odometry": "odom",
    "vggt_ros/msg/QueryPoints": "~/query_points",
}


def type_name(kind: type) -> str:
    """The name of a message class, such as sensor_msgs/msg/Image."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def mismatch(name: str, expected: str, topic: str, publishers: Sequence[TopicEndpointInfo]) -> str:
    """The type that is published on the topic of an input, by whom, and the cure."""
    found = publishers[0].topic_type
    return (
        f"{name} is of another type: {topic} carries {found}, published by"
        f" {publishers[0].node_name}, and not {expected}; {cure(name, expected, found)}"
    )


def cure(name: str, expected: str, found: str) -> str:
    """What to set or remap, where `found` is published for an input of type `expected`."""
    if name in TRANSPORTED and {expected, found} == {IMAGE, COMPRESSED}:
        transport = "compressed" if found == COMPRESSED else "raw"
        return f"set image_transport to {transport}"
    if expected == IMAGE and (found == COMPRESSED or any(part in found for part in ENCODED)):
        return "decode it (ros2 run image_transport republish), and remap to the decoded topic"
    if name == "scale_depth" and found == CLOUD:
        return "remap scale_points to it, in place of scale_depth"
    if name == "scale_points" and found == IMAGE:
        return "remap scale_depth to it, in place of scale_points"
    if found in INPUTS:
        return f"remap {INPUTS[found]} to that topic, and {name} to one of type {expected}"
    return f"remap {name} to a topic of type {expected}"
