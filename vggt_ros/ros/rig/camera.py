# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One camera of a rig: its topics, how its images are read, and what became of each of them."""

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.ros.frame_names import FrameNames, frame_name
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.inputs import camera_input, frame_from
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.subscriptions.no_image import MissingImages
from vggt_ros.timeline import Change, SizeGate, StreamGate

Message = Image | CompressedImage

# What becomes of an image that was received, in the order in which it may happen.
OUTCOMES = (
    "used", "unpaired", "dropped", "skipped", "refused", "waiting for a program", "discarded",
)  # fmt: skip


class RigCamera:
    """One camera.  `add` and `missing` are called under the inputs' lock, `read` by the worker."""

    def __init__(
        self,
        node: Node,
        name: str,
        inputs: InputTopics,
        parameters: Parameters,
        health: Health,
        receive: Callable[["RigCamera", Message], object],
    ):
        """`receive` is called with each image, in the thread that receives."""
        log = node.get_logger()
        self.name, self._health = name, health
        self.frame = ""  # of its newest image
        self.fault = ""  # of the newest image, before it could be joined to an instant
        self.stream, self.sizes = StreamGate(), SizeGate()
        self._counts, self._lock = Counter[str](), Lock()
        self._arrived = self._began = time.monotonic()
        self._reader = ImageReader(parameters.mono16_bits, parameters.mono16_black)
        self._names = FrameNames(health.notice)
        topic = f"{name}/image"
        self.lens = camera_input(parameters, health, node.resolve_topic_name(topic), log.info, name)
        self.image = inputs.subscribe_to_images(
            topic, lambda msg: receive(self, msg), any_transport=True
        )
        inputs.subscribe_to_camera_info(f"{name}/camera_info", topic, self.lens.hear)
        self._missing = MissingImages(node, self.image, log.warning)

    def add(self, stamp_ns: int, frame_id: str) -> Change:
        """One more image arrived.  Raises `FrameError` for one that may not follow the last."""
        self._arrived = time.monotonic()
        change = self.stream.check(stamp_ns, frame_name(frame_id))
        self.frame = frame_name(frame_id)
        return change

    def await_images(self) -> None:
        """Images are awaited from now on."""
        self._began = time.monotonic()

    def count(self, what: str, times: int = 1, *, is_counted: bool = False) -> None:
        """Something became of so many images; any thread.

        With `is_counted` the node's own count has them already.
        """
        with self._lock:
            self._counts[what] += times
        for _ in range(0 if is_counted else times):
            self._health.count(what)

    def refuse(self, text: str) -> None:
        """An image of it was refused; any thread."""
        with self._lock:
            self._counts["refused"] += 1
        self._health.refuse_image(f"{self.name}: {text}")

    def arrive(self, age: float) -> None:
        """One more image was received; `age` is the node's clock less its stamp, in seconds."""
        with self._lock:
            self._counts["received"] += 1
        self._health.image_arrived(age)

    @property
    def counts(self) -> dict[str, int]:
        """Images received, by outcome, and in hand: waiting for others, or being inferred."""
        with self._lock:
            found = {key: self._counts[key] for key in ("received", *OUTCOMES)}
        done = sum(found[key] for key in OUTCOMES)
        return {**found, "in hand": found["received"] - done}

    @property
    def missing(self) -> str:
        """Why no image comes, where none has come for seconds."""
        return self._missing.diagnose(time.monotonic() - max(self._arrived, self._began))

    def read(self, msg: Message) -> tuple[Frame, bool]:
        """The image decoded and with its K; True where it is read otherwise than those before.

        Raises `UserError` that names the fault.
        """
        try:
            frame = frame_from(msg, self._reader)._replace(camera_name=self.name)
        finally:
            for notice in self._reader.notices:
                self._health.notice(f"{self.name}: {notice}")
            self._reader.notices.clear()
        self._names.of(f"the image of {self.name}", msg.header.frame_id)
        self.sizes.check(*frame.rgb.shape[1::-1])
        return self.lens.read(frame)
