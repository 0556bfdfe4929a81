# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node: one thread receives and stores messages, another infers, a third publishes."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockChange, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from vggt_ros.errors import UserError
from vggt_ros.msg import QueryPoints
from vggt_ros.ros.bond import open_bond
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.health.source_health import Warnings
from vggt_ros.ros.inference import OpenEngine
from vggt_ros.ros.lifecycle import ACTIVE, UNCONFIGURED, ManagedNode
from vggt_ros.ros.live_parameters import LiveParameters, refusal, to_apply
from vggt_ros.ros.map_services import MapServices
from vggt_ros.ros.opened_cameras import open_cameras
from vggt_ros.ros.opening import cautions, give_back_memory, memory, open_engine
from vggt_ros.ros.params_files import files_in, undeclared, unreached
from vggt_ros.ros.process import CLOSE_TIMEOUT, run
from vggt_ros.ros.publishing.output import open_publisher
from vggt_ros.ros.publishing.outputs import Outputs
from vggt_ros.ros.rig.cameras import RigTask
from vggt_ros.ros.sensors.robot import Robot
from vggt_ros.ros.subscriptions.graph_names import clocks, namesakes
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tasks import Result, Task
from vggt_ros.ros.tf.tf_cache import open_frames
from vggt_ros.ros.tf.transforms import Transforms, open_transforms
from vggt_ros.ros.worker import Worker, ask_patiently

DIAGNOSTICS_PERIOD = 1.0  # seconds
TIME_WENT_BACK = Duration(nanoseconds=-500_000_000)  # less is a message of /clock out of order


class VggtNode(ManagedNode):
    """Image in; depth, clouds, poses and tracks out.  Raises `UserError` for wrong parameters.

    With `autostart` it is active at once, and the network is opened meanwhile; that there is none
    ends the process. Else transitions wait for it, and fail where there is none.

    `open_engine` opens the network (tests pass a fake one); `on_failure` is called with the error
    that ended a thread; `diagnostics_period` is in seconds; other options go to `Node`.
    """

    def __init__(
        self,
        *,
        open_engine: OpenEngine = open_engine,
        on_failure: Callable[[BaseException], object] | None = None,
        diagnostics_period: float = DIAGNOSTICS_PERIOD,
        **node_options: Any,
    ):
        super().__init__("vggt", **node_options)
        log = self.get_logger()
        self.health = Health(time.monotonic, log.warning, log.info)
        self.parameters = LiveParameters(self)
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=TIME_WENT_BACK),
            post_callback=self._on_jump,
        )
        self.worker, self.sender = Worker[Task | RigTask](), Worker[Result]()
        self._on_failure = on_failure or (lambda error: log.fatal(str(error)))
        self._period, self._waits = diagnostics_period, False
        self._check_given_parameters([*sys.argv, *(node_options.get("cli_args") or ())])
        self._inputs = InputTopics(
            self, self.parameters.now, self.health.set_warning, is_on=False, fail=self._fail
        )
        self.robot, self.transforms = self._open_robot()
        self.outputs = Outputs(
            self, self.parameters, self.transforms, self.robot, self.sender.call_soon
        )
        self.inference, self._images, self._missing_images, self.rig = open_cameras(
            self, self._inputs, self.parameters, self.health,
            (
                self.parameters, open_engine, self.outputs, self.sender, self.health,
                self.robot, lambda: self.worker.stopping,
            ),
            self.worker.put_latest, self._go_back,
        )  # fmt: skip
        self._map_services = self._open_requests()
        self._diagnostics = self._open_diagnostics()
        self._bond = open_bond(
            self, self.parameters.now,
            partial(self.health.set_warning, "bond", part="settings"),
        )  # fmt: skip
        self._start()

    def _check_given_parameters(self, arguments: list[str]) -> None:
        """Warn of what is not used as it was given, on the command line or in files."""
        name = self.get_fully_qualified_name()
        wrong = [unreached(file, name) for file in files_in(arguments)]
        wrong.append(undeclared(arguments, name))
        self.health.set_warning("params_file", "; ".join(filter(None, wrong)), "settings")
        names = FrameNames(self.health.notice)
        for parameter, frame in self.parameters.slashed.items():
            names.of(f"parameter {parameter}", frame)

    def _open_robot(self) -> tuple[Robot, Transforms]:
        """What is measured of the robot, and what is sent to /tf."""
        now, notify = self.parameters.now, self.health.notice
        frames = open_frames(self, now.tf_wait, notify)
        warnings = Warnings(
            partial(self.health.set_warning, part="scale"),
            notify,
            partial(self.health.describe, "scale"),
        )
        robot = Robot(self._inputs, now, frames, warnings)
        warn = partial(self.health.set_warning, "transforms", part="tf")
        return robot, open_transforms(self, now, frames, notify, warn)

    def _open_requests(self) -> MapServices:
        """Queries and services."""
        self._inputs.subscribe(
            QueryPoints, "~/query_points", self._on_query, reliability="reliable"
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        return MapServices(
            self, self.parameters, self.inference, self.outputs, self.worker, self.sender,
            self._inputs, self.health,
        )  # fmt: skip

    def _open_diagnostics(self) -> Publisher:
        """Reports, and a look at the graph, once in a while."""
        publisher = open_publisher(self, DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # Simulated time may be paused; diagnostics are not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._period, self._inputs.follow, clock=steady)
        self.create_timer(self._period, self._publish_diagnostics, clock=steady)
        return publisher

    def _start(self) -> None:
        """Start the threads, and with `autostart` the life cycle, which then waits for nothing."""
        self.outputs.switch(is_on=False)
        self.health.enter(self.stage)
        self.sender.start(lambda: None, self.inference.publish, self._fail)
        self.worker.start(lambda: None, self.inference.infer, self._fail, self._inputs.fetch)
        if self.parameters.now.autostart:
            self.start_now()
        self._waits = True

    def configure(self) -> None:
        """Open the network, and compile for `image_size` or, without, for the first image."""
        compile_ahead = partial(self.inference.compile_ahead, waits=self._waits)
        if not self._waits:
            self.worker.call_soon(self.inference.begin)
            self.worker.call_soon(compile_ahead)
            return
        try:
            self._ask(self.worker, self.inference.begin)
            self._ask(self.worker, compile_ahead)
        except Exception:
            self._ask(self.worker, self.inference.release)
            raise

    def activate(self) -> None:
        """Subscribe and publish; the map of the time before goes on."""
        self._images.begin()
        self._ask(self.sender, lambda: self.outputs.switch(is_on=True))
        self._inputs.switch(is_on=True)
        if self._bond is not None:
            self._bond.begin()

    def deactivate(self) -> None:
        """Read and publish no more; what is being inferred still reaches the map."""
        if self._bond is not None:
            self._bond.end()
        self._inputs.switch(is_on=False)
        self._discard()
        self._ask(self.sender, lambda: self.outputs.switch(is_on=False))

    def release(self) -> None:
        """Free network and map, after the inference and the compilation that run."""
        self._ask(self.worker, self.inference.release)

    def entered(self, stage: str, problem: str) -> None:
        """Show the state of the life cycle, and why it is not another one."""
        self.health.fail(problem)
        self.health.enter(stage)
        if problem:
            self.get_logger().error(problem)
        elif self._waits:
            self.get_logger().info(stage)

    def refused(self, reason: str) -> None:
        """Show why a transition was not begun."""
        self.health.refuse(reason)

    def _ask(self, worker: Worker, function: Callable[[], object]) -> None:
        """Have a function called in a thread, which may be busy; diagnostics go on meanwhile."""
        ask_patiently(worker, function, self._publish_diagnostics, self._period)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, with a reason that helps, and none for what stays as it is."""
        if reason := refusal(self, parameter_list):
            return SetParametersResult(successful=False, reason=reason)
        if changes := to_apply(self, parameter_list):
            return super().set_parameters_atomically(changes)
        return SetParametersResult(successful=True)

    def close(self, timeout: float) -> bool:
        """End inference, publishing and compilation; True if all ended in `timeout` seconds."""
        end = time.monotonic() + timeout
        parts = (self._inputs.close, self.sender.stop, self.worker.stop, self.inference.close)
        return all([part(max(end - time.monotonic(), 0.0)) for part in parts])

    def destroy_node(self) -> None:
        """Leave the graph; subscriptions are held by the thread that receives."""
        self._inputs.close(CLOSE_TIMEOUT)
        super().destroy_node()

    def _fail(self, error: BaseException) -> None:
        """Report the error that ended a thread, before the process ends."""
        self.health.fail(str(error) if isinstance(error, UserError) else repr(error))
        try:
            self._publish_diagnostics()
            self._diagnostics.wait_for_all_acked(Duration(seconds=1))
        finally:
            self._on_failure(error)

    def _on_query(self, msg: QueryPoints) -> None:
        self.worker.call_soon(lambda: self.inference.query(msg))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._inputs.lock:
            self._images.reset()
            self._reset()
        response.success = self.stage != UNCONFIGURED
        response.message = "window, tracks and path are empty; the compiled network stays"
        if not response.success:
            response.message = "the node is unconfigured: there is nothing to empty"
        return response

    def _on_jump(self, jump: TimeJump) -> None:
        if jump.clock_change == ClockChange.ROS_TIME_NO_CHANGE:
            with self._inputs.lock:
                self._images.reset()
                now = self.get_clock().now().nanoseconds
                self._go_back("the clock went back: a new map starts", now)

    def _go_back(self, reason: str, ns: int) -> None:
        """Time went back to this stamp."""
        self.health.notice(reason)
        self.robot.forget_from(ns)
        self._reset()

    def _reset(self) -> None:
        self.inference.discard()
        self._discard()
        self.worker.call_soon(self.inference.reset)

    def _discard(self) -> None:
        """The images that wait for the worker are discarded."""
        if self.worker.clear():
            self._images.discard()

    def _publish_diagnostics(self) -> None:
        no_image = ""
        if self.stage == ACTIVE:
            with self._inputs.lock:
                self._inputs.take_after_silence(self.health.seconds_without_image)
                no_image = self._missing_images.diagnose(self.health.seconds_without_image)
        self.health.tf = self.transforms.state
        engine = self.inference.engine
        if self.health.set_compiling(engine.compiling if engine else ()):
            give_back_memory()
        self.health.describe("network", "memory", memory(engine))
        for row, text in self._inputs.traffic.items():
            self.health.describe("topics", row, text)
        for name, text in self.outputs.unserved.items():
            self.health.set_warning(f"subscribers of {name}", text, "outputs")
        self.health.set_warning("name", namesakes(self), "settings")
        self.health.set_warning("clocks", clocks(self))
        if self.robot.frames is not None:
            self.health.set_warning("qos of /tf", self.robot.frames.unmatched, "tf")
        self.health.set_warning("settings", "; ".join(cautions(self.parameters.now)), "settings")
        message = DiagnosticArray(
            status=self.health.report(self.get_fully_qualified_name(), no_image)
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run("vggt", lambda on_failure: VggtNode(on_failure=on_failure), VggtNode.close)
