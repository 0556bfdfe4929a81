# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cameras of a rig as their images arrive: joined to instants, and each image accounted for."""

import time
from collections.abc import Callable
from typing import NamedTuple

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from vggt_ros.errors import FrameError
from vggt_ros.ros.frame_names import frame_name
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.rig.camera import OUTCOMES, Message, RigCamera
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.timeline import RateLimit
from vggt_ros.windows.instants import Instant, Instants


class RigTask(NamedTuple):
    """The images of one instant by their cameras, and when the last of them arrived."""

    images: dict[str, Message]
    arrived: float  # seconds of the steady clock


class RigCameras:
    """All cameras of the rig.  Used under the lock of the inputs, but for the cameras' reading.

    `put` leaves an instant for the worker, and returns whether it replaced one; `restart` is called
    with the reason and the stamp when the time of all cameras goes back. `max_rate` is in Hz, 0:
    all.
    """

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        inputs: InputTopics,
        health: Health,
        max_rate: Callable[[], float],
        put: Callable[[RigTask], bool],
        restart: Callable[[str, int], object],
    ):
        self._max_rate = max_rate
        self._node, self._health = node, health
        self._put, self._restart = put, restart
        self._instants = Instants(
            parameters.camera_names, round(1e9 * parameters.sync_tolerance), parameters.min_cameras
        )
        self._rate = RateLimit()
        self._set_back: set[str] = set()  # cameras whose clock went back
        self._unpaired = dict.fromkeys(parameters.camera_names, 0)  # that are counted
        self._newest: RigTask | None = None  # that was put
        self.cameras = {
            name: RigCamera(node, name, inputs, parameters, health, self._on_image)
            for name in parameters.camera_names
        }

    def begin(self) -> None:
        """The node is active from now on."""
        self.reset()
        for camera in self.cameras.values():
            camera.await_images()

    def reset(self) -> None:
        """Stamps may be any from now on."""
        for camera in self.cameras.values():
            camera.stream.reset()
        self._instants.reset()
        self._set_back.clear()
        self._rate.reset()
        self._count_unpaired()

    def waiting(self, name: str) -> int:
        """How many images of a camera wait for those of the others."""
        return self._instants.counts(name)["waiting"]

    def discard(self, outcome: str = "discarded") -> None:
        """The instant that was put last will not be taken."""
        for name in self._newest.images if self._newest else ():
            self.cameras[name].count(outcome)

    def _on_image(self, camera: RigCamera, msg: Message) -> None:
        ns = stamp_ns(msg.header.stamp)
        camera.arrive((self._node.get_clock().now().nanoseconds - ns) * 1e-9)
        try:
            camera.fault = self._twin(camera, frame_name(msg.header.frame_id))
            if camera.fault:
                raise FrameError(camera.fault)
            change = camera.add(ns, msg.header.frame_id)
        except FrameError as error:  # a stray message says nothing of the camera's clock
            camera.refuse(str(error))
            return
        if change.clock_set_back:
            self._go_back(camera, change.text, ns)
        elif change.notice and not change.starts_map:  # else the pipeline says it
            self._health.notice(f"{camera.name}: {change.notice}")
        instant = self._instants.add(camera.name, ns, time.monotonic_ns(), msg)
        self._count_unpaired()
        if instant is not None:
            self._take(instant)

    def _twin(self, camera: RigCamera, frame: str) -> str:
        """Why an image cannot be told from an earlier camera's; empty: it can."""
        for other in self.cameras.values():
            if other is camera:
                break
            if other.frame == frame:
                return (
                    f"its images have the frame_id '{frame}', as those of {other.name}"
                    f" ({camera.counts['refused'] + 1} refused); give each camera its own in its"
                    f" driver, or another topic: {camera.name}/image is {camera.image.topic}"
                )
        return ""

    def _go_back(self, camera: RigCamera, text: str, ns: int) -> None:
        """One camera's clock was set, or all cameras play a recording again."""
        self._instants.forget(camera.name)
        self._set_back.add(camera.name)
        running = {name for name in self.cameras if not self._instants.is_silent(name)}
        if not running <= self._set_back:
            self._health.notice(f"{camera.name}: {text}")
            return
        self._instants.reset()
        self._set_back.clear()
        self._rate.reset()
        self._restart(f"{camera.name}, the last of the cameras: {text}: a new map starts", ns)

    def _take(self, instant: Instant) -> None:
        if not self._rate.is_due(instant.stamp_ns, self._max_rate()):
            for name in instant.images:
                self.cameras[name].count("skipped")
            return
        images = {name: image.item for name, image in instant.images.items()}
        task = RigTask(images, time.monotonic())
        if self._put(task):
            self.discard("dropped")
        self._newest = task

    def _count_unpaired(self) -> None:
        for name, camera in self.cameras.items():
            dropped = self._instants.counts(name)["dropped"]
            camera.count("unpaired", dropped - self._unpaired[name])
            self._unpaired[name] = dropped

    def diagnose(self, seconds: float) -> str:
        """Why no image has arrived for so long; empty while images arrive.

        Called once a period; each camera's account and its warning are renewed.
        """
        faults, formed = self._instants.faults, self._instants.formed
        calibrated = [c.name for c in self.cameras.values() if c.lens.calibration is not None]
        texts = {}
        for name, camera in self.cameras.items():
            missing = camera.missing
            texts[name] = camera.fault or "; ".join(filter(None, [faults[name], missing]))
            text = texts[name] and f"{name}: {texts[name]}"
            self._health.set_warning(f"camera {name}", text)
            self._health.describe("input", f"images of {name}", self._account(camera))
            without = ""
            if calibrated and name not in calibrated and camera.counts["used"]:
                without = (
                    f"{name}: no usable camera_info, of which {calibrated[0]} has one:"
                    f" {camera.counts['used']} of its images were used with the network's own K;"
                    f" publish {self._node.resolve_topic_name(f'{name}/camera_info')}"
                )
            self._health.set_warning(f"camera_info of {name}", without)
        self._health.set_warning("instants", self._instants.obstacle)
        complete = f"{formed}, {self._instants.complete} of them with all cameras"
        self._health.describe("input", "instants", complete)
        missing = [camera.missing for camera in self.cameras.values()]
        return "; ".join(missing) if all(missing) else ""

    def _account(self, camera: RigCamera) -> str:
        counts = camera.counts
        parts = [f"{counts[key]} {key}" for key in (*OUTCOMES, "in hand")]
        period = self._instants.period_ns(camera.name)
        rate = "no rate yet" if not period else f"{1e9 / period:.1f} Hz"
        transport = "compressed" if camera.image.kind is CompressedImage else "raw"
        account = f"{counts['received']} received = {' + '.join(parts)}"
        return f"{account}; {rate}, {camera.frame}, {transport}"
