# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras that the parameters name, one or a rig's: subscribed, and with who infers them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.node import Node

from vggt_ros.ros.camera_inference import CameraInference
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.images import Images
from vggt_ros.ros.inference import InferenceWorker
from vggt_ros.ros.inputs import camera_input
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.rig.cameras import RigCameras
from vggt_ros.ros.rig.inference import RigInference
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.subscriptions.no_image import MissingImages
from vggt_ros.ros.unused import unused_topics


class OpenedCameras(NamedTuple):
    """What the node needs of them."""

    inference: InferenceWorker
    images: Images | RigCameras  # as they arrive
    missing: MissingImages | RigCameras  # why no image comes
    rig: RigCameras | None  # None: one camera


def open_cameras(
    node: Node,
    inputs: InputTopics,
    live: LiveParameters,
    health: Health,
    worker: tuple[Any, ...],
    put: Callable[[Any], bool],
    restart: Callable[[str, int], object],
) -> OpenedCameras:
    """`worker`: arguments of `InferenceWorker`; `put` and `restart` as `Images` says."""
    parameters = live.now
    health.set_warning("unused", "; ".join(unused_topics(node, parameters)), "settings")

    def max_rate() -> float:
        return live.now.max_rate_hz

    if parameters.camera_names:
        rig = RigCameras(node, parameters, inputs, health, max_rate, put, restart)
        return OpenedCameras(RigInference(*worker, cameras=rig.cameras), rig, rig, rig)
    log = node.get_logger()
    camera = camera_input(parameters, health, node.resolve_topic_name("image"), log.info)
    images = Images(node, health, max_rate, put, restart)
    image = inputs.subscribe_to_images("image", images.receive, held=True)
    inputs.subscribe_to_camera_info("camera_info", "image", camera.hear)
    inference = CameraInference(*worker, camera=camera)
    return OpenedCameras(inference, images, MissingImages(node, image, log.warning), None)
