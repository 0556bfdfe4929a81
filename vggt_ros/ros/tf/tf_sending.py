# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What all modes of `tf_mode` share: one transform a stamp, and what is said where none is sent."""

from collections.abc import Callable, Mapping, Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile

from vggt_ros.frames import Update, View
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.output import open_publisher
from vggt_ros.ros.tf.tf_cache import Frames
from vggt_ros.ros.tf.tf_repeat import SlowTransform
from vggt_ros.ros.tf.when_lost import PoseGate

Say = Callable[[str], object]


class Transforms:
    """Base of the modes; this one sends nothing, and poses are published as topics only."""

    def __init__(self, state: str):
        self.state = state  # for /diagnostics
        self.is_on = True  # while the node is active

    @property
    def parents(self) -> Mapping[str, str]:
        """Of frames that other nodes publish, by child; empty where no transform is sent."""
        return {}

    def send(self, update: Update) -> None:
        """Publish the transforms of the new views, none of which was sent before; oldest first."""

    def reset(self) -> None:
        """A new timeline starts."""


class SendingTransforms(Transforms):
    """A mode that publishes.  `notify` is for events; `warn` for what lasts, until it is empty."""

    def __init__(
        self,
        node: Node,
        message: type,
        frames: Frames,
        parameters: Parameters,
        notify: Say,
        warn: Say,
        *,
        state: str,
    ):
        super().__init__(state)
        self._message, self._frames, self._parameters = message, frames, parameters
        self._notify, self._warn = notify, warn
        self._gate = PoseGate(parameters.tf_when_lost)
        self._last_ns = -1  # of the images
        self._problems: list[str] = []  # of the update that is being sent
        self._warned = ""
        self._publisher = open_publisher(node, message, "/tf", QoSProfile(depth=100))
        clock, rate = node.get_clock(), parameters.transform_rate_hz
        self._slow = SlowTransform(
            lambda: clock.now().nanoseconds,
            self._publish,
            tolerance=parameters.transform_tolerance,
            resends=rate > 0,
            keeps=parameters.tf_when_lost == "freeze",
        )
        if rate > 0:
            node.create_timer(1.0 / rate, self._slow.resend)

    @property
    def parents(self) -> Mapping[str, str]:
        return self._frames.tree.parents

    def send(self, update: Update) -> None:
        fresh = update.views[len(update.views) - update.fresh :]
        if fresh and fresh[-1].stamp_ns < self._last_ns:  # time went back: all stamps are to come
            self._last_ns = -1
            self._slow.reset()
        views = [view for view in fresh if view.stamp_ns > self._last_ns]
        if not views:
            return
        self._problems, self._last_ns = [], views[-1].stamp_ns
        transforms = self._transforms(update, views)
        if transforms:
            self._publish(transforms)
        text = "; ".join(dict.fromkeys(self._problems))
        if text != self._warned:
            self._warned = text
            self._warn(text)

    def reset(self) -> None:
        """Another map: stamps that were sent are not sent again, unless time goes back."""
        self._gate.reset()
        self._slow.stop()

    def _transforms(self, update: Update, views: Sequence[View]) -> list[TransformStamped]:
        """Of the new views, oldest first; appends to `_problems` why one is not sent."""
        raise NotImplementedError

    def _publish(self, transforms: list[TransformStamped]) -> None:
        if not self.is_on:
            return
        self._frames.expect(transforms)
        self._publisher.publish(self._message(transforms=transforms))

    def _is_off(self, state: str, problem: str) -> bool:
        """Nothing is sent, and that is said; False."""
        self.state = f"off: {state}"
        self._problems.append(f"no transform is sent, since {problem}")
        return False

    def _check_slow(self, is_slow: bool, name: str) -> None:
        """Says where `transform_tolerance` and the rate are of no use."""
        if self._slow.is_on and not is_slow:
            self._problems.append(
                "transform_tolerance and transform_rate_hz are not used: they are for a transform"
                f" to {self._parameters.odom_frame}, and {name} moves with the robot; post-dated,"
                " it would say that the robot stands still"
            )
        elif self._slow.problem:
            self._problems.append(self._slow.problem)


def instead(located: bool, pose: object) -> str:
    """What is sent of a place that is not known, for /diagnostics."""
    if located:
        return ""
    return ": withheld, the camera is not located" if pose is None else ": not measured now"
