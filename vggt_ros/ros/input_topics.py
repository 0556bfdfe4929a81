# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All topics that the node reads, and the faults of each as a warning."""

import time

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.ros.input_topic import InputTopic, Receive, Warn
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.qos import Reliability
from vggt_ros.ros.topic_types import type_name

COMPRESSED = "/compressed"  # what image_transport appends
START_UP = 5.0  # seconds in which other nodes start


class InputTopics:
    """All of them.  `warn` is told of faults that last, and of their end."""

    def __init__(self, node: Node, parameters: Parameters, warn: Warn, *, is_on: bool = True):
        """`is_on`: topics are subscribed as they are named; else by `switch`."""
        self._node, self._parameters, self._warn = node, parameters, warn
        self._topics: list[InputTopic] = []
        self._is_on, self._began = is_on, time.monotonic()

    def switch(self, *, is_on: bool) -> None:
        """Subscribe to all topics, or end that and its warnings."""
        if is_on == self._is_on:
            return
        self._is_on, self._began = is_on, time.monotonic()
        for topic in self._topics:
            topic.switch(is_on=is_on)
            if not is_on:
                self._report(topic)

    def _add(self, topic: InputTopic) -> InputTopic:
        self._topics.append(topic)
        if self._is_on:
            topic.switch(is_on=True)
        return topic

    def subscribe(
        self,
        kind: type,
        name: str,
        receive: Receive,
        depth: int = 10,
        *,
        reliability: Reliability = "auto",
        kept: bool = False,
    ) -> InputTopic:
        """Read a topic of small messages."""
        topics = (self.resolve(name),)
        self._check_types(kind, name, topics[0])
        return self._add(
            InputTopic(
                self._node, kind, name, receive, topics, self._warn,
                depth=depth, reliability=reliability, kept=kept,
            )
        )  # fmt: skip

    def subscribe_to_images(
        self, name: str, receive: Receive, *, raw: bool = False, watched: bool = True
    ) -> InputTopic:
        """Read images, transported as the parameters say; with `raw` they never are compressed.

        Those that come with a steady rate are `watched` for losses.
        """
        topic = self.resolve(name)
        kind, topics = Image, (topic,)
        if self._parameters.image_transport == "compressed" and not raw:
            kind = CompressedImage
            topics = (topic,) if topic.endswith(COMPRESSED) else (topic + COMPRESSED, topic)
        self._check_types(kind, name, topics[0])
        return self._add(
            InputTopic(
                self._node, kind, name, receive, topics, self._warn, depth=5,
                reliability=self._parameters.image_reliability, watched=watched,
            )
        )  # fmt: skip

    def resolve(self, name: str) -> str:
        """The topic that an input is remapped to."""
        return self._node.resolve_topic_name(name)

    def _check_types(self, kind: type, name: str, topic: str) -> None:
        """Raises `UserError` where the topic is another input's, of another type.

        The middleware refuses that too, without a name.
        """
        for other in self._topics:
            if other.topic == topic and other.kind is not kind:
                raise UserError(
                    f"{name} and {other.name} are both remapped to {topic}, but one is a"
                    f" {type_name(kind)} and the other a {type_name(other.kind)}"
                )

    def follow(self) -> None:
        """Read the graph; called once a second or so, in the thread of the callbacks."""
        for topic in self._topics if self._is_on else ():
            topic.follow()
            found = {"losses": topic.losses}
            if topic.name != "image":  # that no image comes has its own status
                found |= {"type": topic.mismatch, "qos": topic.unmatched}
                if time.monotonic() - self._began > START_UP:
                    found["silence"] = topic.silence
            self._report(topic, **found)

    def _report(self, topic: InputTopic, **faults: str) -> None:
        for kind in ("type", "qos", "silence", "losses"):
            self._warn(f"{kind} of {topic.name}", faults.get(kind, ""))

    @property
    def traffic(self) -> dict[str, str]:
        """Rate and age of what arrives, by topic, for /diagnostics."""
        return {key: text for topic in self._topics for key, text in topic.traffic.rows(topic.name)}
