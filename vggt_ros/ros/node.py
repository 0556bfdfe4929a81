# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node: callbacks only store, one thread looks, another publishes.  Wiring, no more."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockChange, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from vggt_ros.errors import UserError
from vggt_ros.frames import FrameError
from vggt_ros.msg import QueryPoints
from vggt_ros.ros.diagnostics import Health
from vggt_ros.ros.inference import Job, Looker, OpenEngine, Seen
from vggt_ros.ros.inputs import Admission, Calibration, Door
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.no_image import why_silent
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.parameters import LiveParameters, Parameters
from vggt_ros.ros.process import run
from vggt_ros.ros.robot import Robot
from vggt_ros.ros.tf_cache import open_frames
from vggt_ros.ros.transforms import open_transforms
from vggt_ros.ros.worker import Worker

SAVING = 30.0  # seconds that ~/save_map waits for the file


def open_engine(parameters: Parameters, progress: Callable[[str], None]) -> Any:
    """The network that the parameters name."""
    # Read by JAX when it first touches the accelerator, which is within this call.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(parameters.memory_fraction))
    from vggt_ros.engine import engine

    return engine.open_engine(
        parameters.model,
        dtype=parameters.dtype,
        device=parameters.device,
        cache_dir=Path(parameters.cache_dir).expanduser() if parameters.cache_dir else None,
        seed=parameters.seed,
        background=True,
        progress=progress,
    )


class VggtNode(Node):
    """Image in; depth, clouds, poses and tracks out.  Raises `UserError` for wrong parameters.

    `open_engine` makes the network (tests give an oracle), `on_death` hears of a worker that could
    not begin or go on; the rest goes to `rclpy.node.Node`.
    """

    def __init__(
        self,
        *,
        open_engine: OpenEngine = open_engine,
        on_death: Callable[[BaseException], object] | None = None,
        **node_options: Any,
    ):
        super().__init__("vggt", **node_options)
        log = self.get_logger()
        self.health = Health(time.monotonic, log.warning, log.info)
        self.parameters = LiveParameters(self)
        self._door = Door()
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_jump,
        )
        self.worker, self.sender = Worker[Job](), Worker[Seen]()
        say = self.health.notice
        frames = open_frames(self, self.parameters.now.tf_wait)
        self.robot = Robot(self, self.parameters.now, frames, say)
        self.transforms = open_transforms(self, self.parameters.now, frames, say)
        self._outputs = Outputs(self, self.parameters, self.transforms, self.robot, self.sender.ask)
        self.looker = Looker(
            self.parameters.now,
            open_engine,
            self._outputs,
            self.sender,
            self.health,
            self.robot,
            lambda: self.worker.stopping,
        )
        self._subscribe(self.parameters.now)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/save_map", self._on_save_map)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Simulated time may stand still; health is told all the same.
        self.create_timer(1.0, self._tell, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._on_death = on_death or (lambda error: log.fatal(str(error)))
        self.sender.start(lambda: None, self.looker.publish, self._die)
        self.worker.start(self.looker.begin, self.looker.look, self._die)

    def close(self, timeout: float) -> bool:
        """End what works, publishes and compiles; True if all of it did end in time."""
        end = time.monotonic() + timeout
        parts = (self.sender.stop, self.worker.stop, self.looker.close)
        return all([part(max(end - time.monotonic(), 0.0)) for part in parts])

    def _die(self, error: BaseException) -> None:
        """In a thread that cannot go on: told to the world before the process ends."""
        self.health.die(str(error) if isinstance(error, UserError) else repr(error))
        try:
            self._tell()
            self._diagnostics.wait_for_all_acked(Duration(seconds=1))
        finally:
            self._on_death(error)

    def _subscribe(self, parameters: Parameters) -> None:
        reliability = ReliabilityPolicy[parameters.image_reliability.upper()]
        qos = QoSProfile(depth=1, reliability=reliability)
        overriding = QoSOverridingOptions.with_default_policies()
        if parameters.image_transport == "compressed":
            kind, self.image_topic = (
                CompressedImage,
                self.resolve_topic_name("image") + "/compressed",
            )
        else:
            kind, self.image_topic = Image, "image"
        image = self.create_subscription(
            kind, self.image_topic, self._on_image, qos, qos_overriding_options=overriding
        )
        self.image_topic = image.topic_name
        self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, qos)
        self.create_subscription(QueryPoints, "~/query_points", self._on_query, 10)

    def _on_image(self, msg: Image | CompressedImage) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self.health.image_arrived((now_ns - stamp_ns(msg.header.stamp)) * 1e-9)
        try:
            admission = self._door.admit(
                stamp_ns(msg.header.stamp), self.parameters.now.max_rate_hz
            )
        except FrameError as error:
            self.health.refuse(str(error))
            return
        if admission is Admission.SKIP:
            self.health.count("skipped")
            return
        if admission is Admission.RESTART:
            self._reset("the images' stamps went back and stay there: a new map begins")
        if self.worker.offer(Job(msg, time.monotonic())):
            self.health.count("dropped")

    def _on_camera_info(self, msg: CameraInfo) -> None:
        try:
            self.looker.calibration = Calibration.of(msg)
        except UserError as error:
            self.looker.calibration = None
            wanted = self.parameters.now.intrinsics == "camera_info"
            (self.health.refuse if wanted else self.health.notice)(str(error))

    def _on_query(self, msg: QueryPoints) -> None:
        self.worker.ask(lambda: self.looker.query(msg))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._door.reset()
        self._reset("")
        response.success = True
        response.message = "window, tracks and path are empty; the compiled network stays"
        return response

    def _on_save_map(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The sender owns the map; between two updates it is asked to write it."""
        done = Event()

        def save() -> None:
            try:
                response.message, response.success = self._outputs.map.save(), True
            except UserError as error:
                response.message, response.success = str(error), False
            done.set()

        self.sender.ask(save)
        if not done.wait(SAVING):
            response.message = f"the map was not written within {SAVING:.0f} s"
        return response

    def _on_jump(self, jump: TimeJump) -> None:
        if jump.clock_change == ClockChange.ROS_TIME_NO_CHANGE:
            self._door.reset()
            self._reset("the clock went back: a new map begins")

    def _reset(self, why: str) -> None:
        if why:
            self.health.notice(why)
        self.looker.forget()
        self.worker.clear()
        self.worker.ask(self.looker.reset)

    def _tell(self) -> None:
        self.health.geometry["tf"] = self.transforms.state
        self.health.compiles(self.looker.compiling)
        silence = why_silent(self, self.image_topic, self.health.silent_for)
        message = DiagnosticArray(
            status=self.health.report(self.get_fully_qualified_name(), silence)
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run("vggt", lambda on_death: VggtNode(on_death=on_death), VggtNode.close)
