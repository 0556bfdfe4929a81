# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service: what publishers offer, and what users override by parameters.

Every topic of the node has `qos_overrides.<topic>.<subscription or publisher>.<policy>`, with the
policies reliability, history and depth.
"""

from collections.abc import Sequence
from typing import Literal

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vggt_ros.errors import UserError

Reliability = Literal["auto", "best_effort", "reliable"]


def is_kept(publisher: TopicEndpointInfo) -> bool:
    """Whether its last messages are kept for subscribers that come later (transient local)."""
    return publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def offered(endpoint: TopicEndpointInfo) -> str:
    """The node of a publisher or subscription, and its settings; see `ros2 topic info -v`."""
    return f"{endpoint.node_name} ({settings(endpoint.qos_profile)})"


def settings(qos: QoSProfile) -> str:
    """Reliability and durability, for people."""
    durability = "transient local" if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL else ""
    return f"{ReliabilityPolicy(qos.reliability).name.lower()}, {durability or 'volatile'}"


def unserved(
    publisher: Publisher, subscriptions: Sequence[TopicEndpointInfo]
) -> list[TopicEndpointInfo]:
    """Subscriptions that ask for more than is offered, and so receive nothing."""
    qos = publisher.qos_profile
    is_strong = qos.reliability == ReliabilityPolicy.RELIABLE
    keeps = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return [
        s for s in subscriptions
        if (is_reliable(s) and not is_strong) or (is_kept(s) and not keeps)
    ]  # fmt: skip


def unmet(asked: QoSProfile, publishers: Sequence[TopicEndpointInfo]) -> list[TopicEndpointInfo]:
    """Publishers that offer less than a subscription asks for, and so are not heard."""
    needs_reliable = asked.reliability == ReliabilityPolicy.RELIABLE
    needs_kept = asked.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return [
        p for p in publishers
        if (needs_reliable and not is_reliable(p)) or (needs_kept and not is_kept(p))
    ]  # fmt: skip


def is_reliable(publisher: TopicEndpointInfo) -> bool:
    """Whether it sends again what a subscriber lacks."""
    return publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def overridden(node: Node, topic: str, reliability: Reliability) -> Reliability:
    """The reliability that the user asks for: by ROS's parameter for this topic, else by ours."""
    name = f"qos_overrides.{topic}.subscription.reliability"
    if not node.has_parameter(name):
        about = ParameterDescriptor(read_only=True, description="auto, best_effort or reliable")
        node.declare_parameter(name, reliability, about)
    found = node.get_parameter(name).value
    if found not in ("auto", "best_effort", "reliable"):
        raise UserError(f"{name} is '{found}'; choose one of: auto, best_effort, reliable")
    return found
