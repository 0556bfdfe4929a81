# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of the map from outside: to be saved or loaded, and where the robot is.

Each is done in the thread that owns the map, between two inferences, while the caller waits.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.node import Node
from std_srvs.srv import Trigger

from vggt_ros.errors import UserError
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.inference import InferenceWorker
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.publishing.outputs import Outputs
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_messages import NO_POSE, pose_of
from vggt_ros.ros.timers import run_due
from vggt_ros.ros.worker import Worker, ask

TIMEOUT = 30.0  # seconds that a caller waits


class MapServices:
    """`~/save_map`, `~/load_map` and `initialpose`.  `worker` infers, `sender` publishes."""

    def __init__(
        self,
        node: Node,
        parameters: LiveParameters,
        inference: InferenceWorker,
        outputs: Outputs,
        worker: Worker,
        sender: Worker,
        inputs: InputTopics,
        health: Health,
    ):
        self._node, self._parameters, self._health = node, parameters, health
        self._refuse = health.refuse
        self._inference, self._outputs = inference, outputs
        self._worker, self._sender = worker, sender
        node.create_service(Trigger, "~/save_map", self._on_save)
        node.create_service(Trigger, "~/load_map", self._on_load)
        inputs.subscribe(  # sent once, so that none may be lost
            PoseWithCovarianceStamped, "initialpose", self._on_pose, reliability="reliable"
        )

    def _on_save(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._parameters.now.mapping:
            response.message = "mapping is false: the map is as it was loaded, and is not saved"
            return response
        path = Path(self._parameters.now.map_path).expanduser()
        answer = partial(self._answer, response, "save_map")
        if path.suffix.lower() == ".ply":
            return answer(self._sender, lambda: self._outputs.map.save(path))
        return answer(self._worker, lambda: self._inference.save_map(path))

    def _on_load(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        folder = self._parameters.now.map
        if not folder:
            response.message = "no map is named: set the parameter map to the folder of one"
            return response
        return self._answer(
            response, "load_map", self._worker, lambda: self._inference.load_map(Path(folder))
        )

    def _on_pose(self, msg: PoseWithCovarianceStamped) -> None:
        world, frame = self._parameters.now.world_frame, msg.header.frame_id.lstrip("/")
        pose = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
        if frame != world.lstrip("/"):
            self._refuse(
                f"an initial pose is refused: it is in '{frame}', not in world_frame '{world}'; set"
                " RViz's fixed frame to that"
            )
        elif pose is None:
            self._refuse(f"an initial pose is refused: it {NO_POSE}; send another")
        else:
            self._worker.call_soon(lambda: self._inference.expect_at(pose))

    def _answer(
        self,
        response: Trigger.Response,
        service: str,
        worker: Worker,
        function: Callable[[], str],
    ) -> Trigger.Response:
        """The outcome of a function that a worker's thread is to call.

        Of one that takes longer than the caller waits, the outcome is in the diagnostics.
        """
        self._health.set_warning(f"~/{service}", "", "map")

        def late(outcome: str | Exception) -> None:
            text = f"~/{service}, whose caller waited {TIMEOUT:.0f} s, "
            if isinstance(outcome, Exception):
                self._health.set_warning(f"~/{service}", f"{text}failed: {outcome}", "map")
            else:
                self._health.notice(f"{text}is done: {outcome}")

        try:
            # Bond, transforms and reports go on: a manager ends what is silent for some seconds.
            found = ask(worker, function, TIMEOUT, late, partial(run_due, self._node))
            response.message, response.success = found, True
        except UserError as error:
            response.message, response.success = str(error), False
        return response
