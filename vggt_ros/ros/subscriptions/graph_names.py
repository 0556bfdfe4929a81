# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names: what a topic is remapped to, topics of a type in the graph, and nodes of one name."""

from collections.abc import Sequence

from rclpy.node import Node

from vggt_ros.ros.subscriptions.topic_types import type_name

NAMED = 3  # topics that are named


def is_remapped(node: Node, name: str) -> bool:
    """Whether the user gave a topic another name."""
    return node.resolve_topic_name(name) != node.resolve_topic_name(name, only_expand=True)


def publishing(node: Node, kind: type) -> list[str]:
    """Topics of a type that have a publisher, without those of the node itself, sorted."""
    own = node.get_fully_qualified_name().rstrip("/") + "/"
    return [
        topic
        for topic, types in sorted(node.get_topic_names_and_types())
        if type_name(kind) in types and not topic.startswith(own) and node.count_publishers(topic)
    ]


def listed(topics: Sequence[str]) -> str:
    """The first few, and that there are more; empty for none."""
    return ", ".join(topics[:NAMED]) + (" and more" if len(topics) > NAMED else "")


def namesakes(node: Node) -> str:
    """That other nodes have the node's own name, whose topics and services mix; empty: none."""
    own = node.get_name(), node.get_namespace()
    count = node.get_node_names_and_namespaces().count(own)
    if count < 2:
        return ""
    return (
        f"{count} nodes are called {node.get_fully_qualified_name()}: their outputs are mixed, and"
        " services are answered by any of them; end all but one, or give each a namespace (one that"
        " was killed is listed for some seconds)"
    )


def clocks(node: Node) -> str:
    """That several nodes publish simulated time, which then goes to and fro; empty: one does."""
    if not node.get_parameter("use_sim_time").value:
        return ""
    publishers = node.get_publishers_info_by_topic("/clock")
    if len(publishers) < 2:
        return ""
    names = ", ".join(sorted(p.node_name for p in publishers))
    return (
        f"{len(publishers)} publishers have /clock ({names}): time goes to and fro between them,"
        " and each step back starts a new map; end all but one (of a bag: play it without --clock)"
    )
