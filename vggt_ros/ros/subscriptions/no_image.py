# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Why no image arrives, as far as the ROS graph shows."""

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from vggt_ros.ros.subscriptions.graph_names import listed, publishing
from vggt_ros.ros.subscriptions.input_topic import InputTopic
from vggt_ros.ros.subscriptions.input_topics import COMPRESSED
from vggt_ros.ros.subscriptions.qos import is_kept, offered
from vggt_ros.ros.subscriptions.topic_types import COMPRESSED as COMPRESSED_IMAGE
from vggt_ros.ros.subscriptions.topic_types import IMAGE, type_name

TIMEOUT = 3.0  # seconds without an image
LOGGED_AGAIN = 300.0  # seconds after a line, for the same reason once images came in between


class MissingImages:
    """The reason for the diagnostics, and once an outage for the log.  `clock` counts seconds."""

    def __init__(
        self,
        node: Node,
        image: InputTopic,
        log: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._node, self._image, self._log, self._clock = node, image, log, clock
        self._logged: dict[str, float] = {}  # reasons, and when

    def diagnose(self, seconds: float) -> str:
        """Why no image has arrived for so long, in one sentence; empty while images arrive."""
        now = self._clock()
        if seconds < TIMEOUT:
            self._logged = {r: t for r, t in self._logged.items() if now - t < LOGGED_AGAIN}
            return ""
        reason = f"on {self._image.topic}: {self._reason()}"
        if reason not in self._logged:
            self._logged[reason] = now
            self._log(f"no image {reason}")
        return f"no image for {seconds:.0f} s {reason}"

    def _reason(self) -> str:
        image = self._image
        if image.mismatch:
            return image.mismatch
        if not image.publishers:
            return self._without_publisher()
        publishers = image.matching
        offers = "published by " + ", ".join(map(offered, publishers))
        weak = any(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers)
        if image.is_reliable and weak:
            return f"{offers}, but subscribed as reliable; set image_reliability to auto"
        if all(is_kept(p) for p in publishers):
            return (
                f"{offers}, which keeps its last image for later subscribers (transient local);"
                " images from before the start are not read: publish it again"
            )
        received = f"{offers}; if ros2 topic hz {image.topic} receives some"
        if image.is_reliable:
            return f"{received}, this process has another ROS_DOMAIN_ID or network than that shell"
        return (
            f"{received}, best-effort images above 0.5 MB are lost unless their publisher uses the"
            " Fast DDS profile config/fastdds.xml"
        )

    def _without_publisher(self) -> str:
        """What else could be meant: the other transport of the same camera, or another topic."""
        topic = self._image.topic
        known = dict(self._node.get_topic_names_and_types())
        is_compressed = type_name(self._image.kind) == COMPRESSED_IMAGE
        other, kind, transport = topic + COMPRESSED, COMPRESSED_IMAGE, "compressed"
        if is_compressed:
            other, kind, transport = topic.removesuffix(COMPRESSED), IMAGE, "raw"
        if kind in known.get(other, []) and self._node.count_publishers(other):
            return f"it has no publisher, but {other} has; set image_transport to {transport}"
        topics = publishing(self._node, self._image.kind)
        if not topics:
            return f"it has no publisher; remap {self._image.name} to the camera's topic"
        if is_compressed:
            topics = [topic.removesuffix(COMPRESSED) for topic in topics]
        return f"it has no publisher; remap {self._image.name} to one that has: {listed(topics)}"
