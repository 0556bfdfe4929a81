# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The tree of frames that other nodes publish, at a stamp.

The cache holds static transforms and the last seconds of moving ones, interpolates between two
stamps and never extrapolates. It also has each frame's parent, which tf2 does not offer in time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from threading import RLock

import numpy as np
from geometry_msgs.msg import TransformStamped
from jaxtyping import Float
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vggt_ros.geometry import inverse_rigid
from vggt_ros.ros.frame_names import FrameNames, frame_name
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.subscriptions.polled import PolledSubscription
from vggt_ros.ros.tf.tf_link import KEPT_NS, Link
from vggt_ros.ros.tf.tf_messages import NO_POSE, Packed, Reader, Received, pose_of, received
from vggt_ros.ros.waiting import Waiting

__all__ = ["Frames", "TfCache", "open_frames", "pose_of"]

TF_STATIC = "/tf_static"
KEPT_MESSAGES = 2000  # by the middleware, until they are taken: ten seconds of 200 Hz
# Transforms that were sent and did not come back yet: all that may still be taken, or those would
# pass for another node's. Between two images one may be sent in a message of its own, many times.
KEPT_OWN = KEPT_MESSAGES + 1000
MAX_FRAMES = 4096  # with a parent; more are a publisher that makes up names

Pose = Float[np.ndarray, "4 4"]
Notify = Callable[[str], object]


class TfCache:
    """The frames of /tf and /tf_static.  Any thread adds, any thread looks up.

    Names are compared without leading slashes. What this node sends itself is left out (`expect`),
    so that every parent is another node's.
    """

    def __init__(self, notify: Notify = lambda _: None) -> None:
        self.static_topic = TF_STATIC  # what that is remapped to, for advice
        self._links: dict[str, Link] = {}
        self._own: dict[tuple[str, str, int], None] = {}  # parent, child, stamp; oldest first
        self._former: dict[str, tuple[str, int]] = {}  # by child: the parent before, until when
        self._names, self._notify = FrameNames(notify), notify
        self._lock = RLock()

    def add(self, transforms: Sequence[TransformStamped], *, is_static: bool) -> None:
        """Add the transforms of one message; those that are no poses are left out, and named."""
        self.add_received(received(transforms), is_static=is_static)

    def add_received(self, transforms: Iterable[Received], *, is_static: bool) -> None:
        """The same, of a message as it was received."""
        with self._lock:
            for parent, child, ns, packed in transforms:
                link = self._links.get(child)
                if (
                    link is None
                    or link.parent != parent
                    or link.is_static != is_static
                    or self._own
                ):
                    link = self._link(parent, child, ns, packed, is_static)
                if link is None:
                    continue
                if is_static and packed.pose() is None:  # there is no other one beside it
                    self._leave_out(link.parent, child)
                else:
                    link.add(ns, packed)

    def _link(
        self, parent: str, child: str, ns: int, packed: Packed, is_static: bool
    ) -> Link | None:
        """The link that a transform belongs to, a new one if needed; None if it is not to be kept.

        Only whole transforms begin a link: a damaged one must not end what was known.
        """
        parent, child = self._names.of("/tf", parent), self._names.of("/tf", child)
        if (parent, child, ns) in self._own:
            del self._own[parent, child, ns]
            return None
        link = self._links.get(child)
        if link is not None and link.parent == parent and link.is_static == is_static:
            return link
        if not child or not parent or child == parent:
            return None
        if packed.pose() is None:
            self._leave_out(parent, child)
            return None
        if link is None and len(self._links) >= MAX_FRAMES:
            self._notify(
                f"/tf has more than {MAX_FRAMES} frames: new ones are left out; find the publisher"
                f" that makes up names, such as '{child}'"
            )
            return None
        if link is not None and link.parent != parent:
            self._note_parents(child, link.parent, parent, ns)
        link = self._links[child] = Link(parent, is_static)
        return link

    def _leave_out(self, parent: str, child: str) -> None:
        self._notify(
            f"/tf: '{parent}' -> '{child}' {NO_POSE}: such transforms are left out; check their"
            " publisher"
        )

    def _note_parents(self, child: str, before: str, parent: str, ns: int) -> None:
        """Says that two nodes place a frame, which tf2 takes without a word: it goes to and fro."""
        was, until = self._former.get(child, ("", 0))
        self._former[child] = before, ns
        if was == parent and abs(ns - until) <= KEPT_NS:
            self._notify(
                f"/tf has two parents of '{child}': '{before}' and '{parent}' by turns, so that"
                " what is between them is unknown at most stamps; stop one of the nodes that"
                " publish it"
            )

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: what was known from it on was of another time."""
        with self._lock:
            for link in self._links.values():
                if not link.is_static:
                    link.forget_from(ns)

    def expect(self, transforms: Sequence[TransformStamped]) -> None:
        """These are sent by this node, and are left out when they come back."""
        with self._lock:
            for found in transforms:
                ns = stamp_ns(found.header.stamp)
                self._own[found.header.frame_id, found.child_frame_id, ns] = None
            while len(self._own) > KEPT_OWN:
                del self._own[next(iter(self._own))]

    @property
    def parents(self) -> dict[str, str]:
        """The parent of each frame that has one."""
        with self._lock:
            return {child: link.parent for child, link in self._links.items()}

    def is_known(self, frame: str) -> bool:
        """Whether the frame has a parent or a child."""
        name = frame_name(frame)
        return name in (parents := self.parents) or name in parents.values()

    def parent(self, frame: str) -> str | None:
        """The frame's parent; None where it is not known."""
        link = self._links.get(frame_name(frame))
        return link.parent if link else None

    def placed_below(self, frame: str, ns: int) -> str | None:
        """The frame's parent, as long as its publisher sends; see `Link.has_ended`."""
        with self._lock:
            link = self._links.get(frame_name(frame))
            return None if link is None or link.has_ended(ns) else link.parent

    def is_static(self, frame: str) -> bool:
        """Whether the transform to the frame's parent is known, and static."""
        link = self._links.get(frame_name(frame))
        return link is not None and link.is_static

    def ancestors(self, frame: str) -> tuple[str, ...]:
        """The frame, its parent and so on up to the root; where frames form a circle, each once."""
        with self._lock:
            found = {frame_name(frame): None}
            last = frame_name(frame)
            while (parent := self.parent(last)) is not None and parent not in found:
                found[parent] = None
                last = parent
        return tuple(found)

    def stamps(self, frame: str) -> tuple[int, ...]:
        """Stamps at which the transform to the parent is known; none for static ones."""
        with self._lock:
            link = self._links.get(frame_name(frame))
            return tuple(link.stamps) if link and not link.is_static else ()

    def lookup(self, target: str, source: str, ns: int) -> Pose | None:
        """`target_from_source` at a stamp; None where the tree does not connect them."""
        target, source = frame_name(target), frame_name(source)
        with self._lock:
            of_target, of_source = self._poses(target, ns), self._poses(source, ns)
        common = next((frame for frame in of_source if frame in of_target), None)
        if common is None:
            return None
        return inverse_rigid(of_target[common]) @ of_source[common]

    def _poses(self, frame: str, ns: int) -> dict[str, Pose]:
        """The frame and its ancestors in this order, as `ancestor_from_frame`, as known at `ns`."""
        found = {frame: np.eye(4)}
        while (link := self._links.get(frame)) is not None and link.parent not in found:
            pose = link.at(ns)
            if link.damaged:
                self._leave_out(link.parent, frame)
                link.damaged = 0
            if pose is None:
                break
            found[link.parent] = pose @ found[frame]
            frame = link.parent
        return found


class Frames:
    """Transforms between the robot's frames, with a bounded wait for late ones.

    Messages wait in the middleware until a frame is looked up: on a busy /tf, waking this
    process for each message costs more than reading it.
    """

    def __init__(self, node: Node, message: type, wait: float, notify: Notify = lambda _: None):
        self._tree, self._reader = TfCache(notify), Reader(message)
        self._node, self._wait = node, wait
        self._waiting: dict[tuple[str, str], Waiting] = {}  # for one transform each
        qos = QoSProfile(depth=KEPT_MESSAGES)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._moving = PolledSubscription(node, message, "/tf", qos)
        self._static = PolledSubscription(node, message, TF_STATIC, latched)
        self._tree.static_topic = self._static.topic
        self._taking = RLock()

    @property
    def tree(self) -> TfCache:
        """The frames, with all that has arrived by now."""
        with self._taking:  # a message must not be overtaken by a later one
            for subscription in (self._static, self._moving):
                for raw in subscription.take():
                    found = self._reader.read(raw)
                    self._tree.add_received(found, is_static=subscription is self._static)
        return self._tree

    def expect(self, transforms: Sequence[TransformStamped]) -> None:
        """These are sent by this node, and are left out when they come back."""
        self._tree.expect(transforms)

    @property
    def unmatched(self) -> str:
        """From any thread: nodes whose frames do not arrive, by their QoS; empty: none."""
        return "; ".join(filter(None, (s.unmatched for s in (self._static, self._moving))))

    def lookup(self, target: str, source: str, ns: int) -> Pose | None:
        """`target_from_source` at a stamp, if it is known now."""
        return self.tree.lookup(target, source, ns)

    def wait_for(self, target: str, source: str, ns: int) -> Pose | None:
        """The same, after a short wait; see `Waiting` for what is late too often."""
        waiting = self._waiting.setdefault((target, source), Waiting(self._wait))
        return waiting.until(
            lambda: self.lookup(target, source, ns), lambda found: found is not None
        )

    def settle(self) -> None:
        """A short wait for the first message of publishers that were not heard yet."""
        end = time.monotonic() + self._wait
        while time.monotonic() < end and self._is_silent():
            time.sleep(0.005)

    def _is_silent(self) -> bool:
        self.tree  # noqa: B018  takes what arrived
        return any(
            subscription.taken == 0 and self._node.count_publishers(subscription.topic) > own
            for subscription, own in ((self._static, 0), (self._moving, 1))
        )


def open_frames(node: Node, wait: float, notify: Notify = lambda _: None) -> Frames | None:
    """The robot's frames; None where tf2_msgs is not installed.  `wait` is in seconds."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return Frames(node, TFMessage, wait, notify)
