# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""All topics that the node reads, and the faults of each as a warning."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import UserError
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.subscriptions.graph_names import is_remapped
from vggt_ros.ros.subscriptions.held_topic import LONGEST_HOLD, HeldTopic
from vggt_ros.ros.subscriptions.input_topic import InputTopic, Source, Warn
from vggt_ros.ros.subscriptions.qos import Reliability
from vggt_ros.ros.subscriptions.receiver import Receiver
from vggt_ros.ros.subscriptions.topic_types import type_name

COMPRESSED = "/compressed"  # what image_transport appends
START_UP = 5.0  # seconds in which other nodes start


def beside(images: str) -> str:
    """The topic of the camera_info that belongs to images, raw or compressed, by their topic."""
    return images.removesuffix(COMPRESSED).rpartition("/")[0] + "/camera_info"


class InputTopics:
    """All of them.  `warn` is told of faults that last, and of their end."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        warn: Warn,
        *,
        is_on: bool = True,
        fail: Callable[[BaseException], object] | None = None,
    ):
        """`is_on`: topics are subscribed as they are named; else by `switch`.

        `fail` is called with an error of rclpy that ends the thread which receives; else it is
        logged.
        """
        log = node.get_logger()
        self._receiver = Receiver(node, fail or (lambda error: log.fatal(repr(error))))
        self._node, self._parameters, self._warn = node, parameters, warn
        self._topics: list[InputTopic] = []
        self._is_on, self._began = is_on, time.monotonic()

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while a message is taken in; others hold it for what they share with that."""
        return self._receiver.lock

    def close(self, timeout: float) -> bool:
        """Receive no more, for good; True if the thread ended within `timeout` seconds."""
        ended = self._receiver.stop(timeout)
        for topic in self._topics:
            if isinstance(topic, HeldTopic):
                topic.close()
        return ended

    def switch(self, *, is_on: bool) -> None:
        """Subscribe to all topics, or end that and its warnings."""
        if is_on == self._is_on:
            return
        with self.lock:
            self._is_on, self._began = is_on, time.monotonic()
            for topic in self._topics:
                topic.switch(is_on=is_on)
                if not is_on:
                    self._report(topic)

    def _add(self, topic: InputTopic) -> InputTopic:
        with self.lock:
            self._topics.append(topic)
            if self._is_on:
                topic.switch(is_on=True)
        return topic

    def subscribe(
        self,
        kind: type,
        name: str,
        receive: Callable[[Any], object],
        depth: int = 10,
        *,
        reliability: Reliability = "auto",
        kept: bool = False,
    ) -> InputTopic:
        """Read a topic of small messages."""
        sources = (Source(kind, self.resolve(name)),)
        self._check_types(kind, name, sources[0].topic)
        return self._add(
            InputTopic(
                self._node, name, receive, sources, self._warn, self._receiver,
                depth=depth, reliability=reliability, kept=kept,
            )
        )  # fmt: skip

    def subscribe_to_images(
        self,
        name: str,
        receive: Callable[..., Any],
        *,
        raw: bool = False,
        watched: bool = True,
        any_transport: bool = False,
        held: bool = False,
    ) -> InputTopic:
        """Read images, transported as the parameters say; with `raw` they never are compressed.

        Those that come with a steady rate are `watched` for losses. With `any_transport` what the
        parameters say comes first, and where nothing has it the other one is read. `held`: large
        ones are left in the middleware while they cannot be used, see `HeldTopic`.
        """
        topic = self.resolve(name)
        plain = [Source(Image, topic)]
        compressed = [Source(CompressedImage, topic)]
        if not topic.endswith(COMPRESSED):
            compressed.insert(0, Source(CompressedImage, topic + COMPRESSED))
        sources = plain
        if self._parameters.image_transport == "compressed" and not raw:
            sources = compressed + (plain if any_transport else [])
        elif any_transport:
            sources = plain + compressed
        self._check_types(sources[0].kind, name, sources[0].topic)
        kind = HeldTopic if held else InputTopic
        return self._add(
            kind(
                self._node, name, receive, sources, self._warn, self._receiver, depth=5,
                reliability=self._parameters.image_reliability, watched=watched,
            )
        )  # fmt: skip

    def subscribe_to_camera_info(
        self, name: str, images: str, receive: Callable[[Any], object]
    ) -> InputTopic:
        """Read the calibration of the camera whose images are the input `images`.

        Where `name` is not remapped and nothing is published on it, the one beside the images is
        read, where drivers have it and image_transport expects it.
        """
        topics = [self.resolve(name)]
        if not is_remapped(self._node, name):
            topics.append(beside(self.resolve(images)))
        sources = [Source(CameraInfo, topic) for topic in dict.fromkeys(topics)]
        self._check_types(CameraInfo, name, topics[0])
        return self._add(
            InputTopic(
                self._node, name, receive, sources, self._warn, self._receiver, depth=1,
                reliability="best_effort", kept=True,
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

    def fetch(self) -> None:
        """Take what is left in the middleware: it can be used now.  Any thread."""
        for topic in self._topics:
            if isinstance(topic, HeldTopic):
                topic.fetch()

    def take_after_silence(self, seconds_without_image: float) -> None:
        """Take what is left there before silence is said: the image may have come long ago."""
        if seconds_without_image > LONGEST_HOLD:
            self.fetch()

    def follow(self) -> None:
        """Read the graph; called once a second or so."""
        with self.lock:
            self._follow()

    def _follow(self) -> None:
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
