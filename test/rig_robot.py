# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A simulated robot with several cameras on topics: its frames, its images, and an `Oracle`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fakes.oracle import Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, HEIGHT, INTRINSICS, WIDTH, drive, numbered_image, turn
from jaxtyping import Float
from node_rig import PERIOD, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import camera_info_message, header, image_message, transform_message
from vggt_ros.ros.node import VggtNode

START = 1_700_000_000_000_000_001
NAMES = ("front", "left", "right")
ASIDE = np.radians(72.0)


def mounted(angle: float, ahead: float = 0.1) -> Float[np.ndarray, "4 4"]:
    """`reference_from_camera` of a camera that is turned to the left by an angle (radians)."""
    pose = np.eye(4)
    pose[:3, :3] = turn(np.array([0.0, -angle, 0.0]))
    pose[:3, 3] = [-ahead * np.sin(angle), 0.0, ahead * (np.cos(angle) - 1.0)]
    return pose


MOUNTS = {"front": np.eye(4), "left": mounted(ASIDE), "right": mounted(-ASIDE)}


class RigRobot:
    """Publishes base -> camera and the images of its cameras, along a known path."""

    def __init__(
        self,
        rig: Rig,
        names: Sequence[str] = NAMES,
        mounts: Mapping[str, Float[np.ndarray, "4 4"]] = MOUNTS,
        kind: str = "arc",
        frames: int = 40,
    ):
        self.rig, self.names, self.mounts = rig, tuple(names), mounts
        self.base = drive(kind, 300)[:frames]  # world_from_base
        self.engine = Oracle(
            self.base @ BASE_FROM_CAMERA, Faults(), rig=[mounts[name] for name in names]
        )
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static = rig.peer.create_publisher(TFMessage, "/tf_static", latched)
        self.images = {n: rig.peer.create_publisher(Image, f"/{n}/image", 10) for n in names}
        self.infos = {
            n: rig.peer.create_publisher(CameraInfo, f"/{n}/camera_info", 10) for n in names
        }

    def frame(self, name: str) -> str:
        """The camera's frame_id."""
        return f"{name}_optical"

    def start(self, *, described: Sequence[str] | None = None, **parameters: Any) -> VggtNode:
        """Start the node; `described`: cameras whose place is on /tf, all of them if not given."""
        for name in self.names if described is None else described:
            self.describe(name, self.mounts[name])
        parameters = {"cameras": ",".join(self.names), "network_width": WIDTH, **parameters}
        node = self.rig.open(engine=lambda *_: self.engine, **parameters)
        for name in self.names:
            self.rig.wait_until(
                lambda n=name: self.images[n].get_subscription_count() == 1, f"{name} is read"
            )
        return node

    def describe(self, name: str, reference_from_camera: Float[np.ndarray, "4 4"]) -> None:
        """Publish where a camera is mounted."""
        pose = BASE_FROM_CAMERA @ reference_from_camera
        transform = transform_message(header(START, "base_link"), self.frame(name), pose)
        self.static.publish(TFMessage(transforms=[transform]))

    def publish(
        self, name: str, i: int, *, ns: int | None = None, frame_id: str | None = None,
        image: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Image `i` of a camera, at its stamp or another; waits until it arrives."""
        ns = START + i * PERIOD if ns is None else ns
        head = header(ns, self.frame(name) if frame_id is None else frame_id)
        if image is None:
            image = numbered_image(i, camera=self.names.index(name))
        received = self.account(name)["received"]
        self.images[name].publish(image_message(head, image))
        self.rig.wait_until(
            lambda: self.account(name)["received"] > received, f"image {i} of {name} arrives"
        )
        return ns

    def calibrate(self, *names: str) -> None:
        """The cameras' camera_info, until the node has it."""
        assert self.rig.node is not None
        for name in names:
            msg = camera_info_message(
                header(START, self.frame(name)), INTRINSICS, width=WIDTH, height=HEIGHT
            )
            camera = self.rig.node.rig.cameras[name]

            def arrived(n=name, m=msg, c=camera) -> bool:
                self.infos[n].publish(m)
                return c.lens.calibration is not None

            self.rig.wait_until(arrived, f"the calibration of {name} arrives")

    def infer(self, *frames: int, names: Sequence[str] | None = None, offsets_ns=()) -> None:
        """Publish the images of each instant, and wait for its inference."""
        names = self.names if names is None else names
        for i in frames:
            done = self.rig.count("inferences")
            for k, name in enumerate(names):
                shift = offsets_ns[k] if offsets_ns else 0
                self.publish(name, i, ns=START + i * PERIOD + shift)
            self.rig.wait_until(
                lambda n=done: self.rig.count("inferences") > n, f"inference of instant {i}"
            )

    def account(self, name: str) -> dict[str, int]:
        """What became of a camera's images."""
        assert self.rig.node is not None
        return self.rig.node.rig.cameras[name].counts
