# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the worker's thread does: open the network, then message in, update out to be published.

An update is published in a thread of its own, while the network computes the next one.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.engine.interface import Compiling, DeviceLost, caution
from vggt_ros.engine.shapes import query_room
from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, Update
from vggt_ros.msg import QueryPoints
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.diagnostics import Health
from vggt_ros.ros.inputs import Calibration, Sizes, frame_from
from vggt_ros.ros.messages import queries_from, stamp_ns
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.robot import Robot
from vggt_ros.ros.worker import Worker

OpenEngine = Callable[[Parameters, Callable[[str], None]], Any]


class Job(NamedTuple):
    """An image, and when it came (seconds of the steady clock)."""

    msg: Image | CompressedImage
    arrived: float


class Seen(NamedTuple):
    """An update to be published, unless its timeline has ended by then."""

    update: Update
    arrived: float
    timeline: int


class Stopped(Exception):
    """The node is ending while the network was still being opened."""


class Looker:
    """Owns engine and pipeline, and is the worker's, but for `publish` and where it says so.

    `sender` publishes: one update at a time, in order, and none is lost; the worker is at most one
    look ahead of it.  `outputs` are used in its thread alone.
    """

    def __init__(
        self,
        parameters: Parameters,
        open_engine: OpenEngine,
        outputs: Outputs,
        sender: Worker[Seen],
        health: Health,
        robot: Robot,
        stopping: Callable[[], bool],
    ):
        self._parameters, self._open_engine = parameters, open_engine
        self._outputs, self._health, self._stopping = outputs, health, stopping
        self._robot, self._sender = robot, sender
        self.calibration: Calibration | None = None
        self._sizes = Sizes()
        self._engine: Any = None
        self._timeline = 0

    def begin(self) -> None:
        """Open the network.  Raises `UserError` where there is none."""
        engine = self._engine = self._open_engine(self._parameters, self._progress)
        self._pipeline = Pipeline(engine, self._parameters.settings(), time.perf_counter)
        noise = "random: the geometry is noise" if engine.random_weights else "loaded"
        self._health.network = {
            "model": engine.name,
            "device": str(engine.device),
            "dtype": str(engine.dtype),
            "weights": noise,
        }
        if words := caution(engine.name, engine.random_weights):
            self._health.notice(words)
        self._progress("waiting for the first image")

    def forget(self) -> None:
        """From any thread: what has been seen, or is being looked at, is not to be published."""
        self._timeline += 1

    def reset(self) -> None:
        """Empty window, tracks, map and path; the compiled network stays."""
        self._pipeline.reset()
        self._sender.ask(self._outputs.reset)

    @property
    def compiling(self) -> tuple[str, ...]:
        """From any thread: what is being compiled, then what will be."""
        return self._engine.compiling if self._engine else ()

    def close(self, timeout: float) -> bool:
        """From any thread, once the worker has ended: True if nothing is compiled any more."""
        return self._engine is None or self._engine.close(timeout)

    def query(self, msg: QueryPoints) -> None:
        """Track these pixels from now on."""
        try:
            ids, uv = queries_from(msg)
            query_room(len(ids))  # refuses too many, here and not at each look
            self._pipeline.query(ids, uv, stamp_ns(msg.header.stamp))
        except UserError as error:
            self._health.refuse(str(error))

    def look(self, job: Job) -> None:
        """Decode, step, hand over; whatever is wrong with this image, the next one has its turn.

        Raises `DeviceLost`: then there is no next one in this process.
        """
        timeline = self._timeline
        try:
            update = self._step(frame_from(job.msg))
        except Compiling as error:
            self._health.wait(str(error))
            return
        except DeviceLost:
            raise
        except UserError as error:
            self._health.refuse(str(error))
            return
        except Exception as error:  # the device's own errors have no common class
            self._health.refuse(f"a look failed: {type(error).__name__}: {error}")
            return
        if update is not None:
            self._sender.hand(Seen(update, job.arrived, timeline))

    def publish(self, seen: Seen) -> None:
        """In the sender's thread: an update goes out, if nobody has reset the node since."""
        if seen.timeline != self._timeline:
            return
        self._outputs.publish(seen.update)
        seconds = {**seen.update.seconds, **self._outputs.seconds}
        self._health.looked(seen.update, time.monotonic() - seen.arrived, seconds)

    def _step(self, frame: Frame) -> Update | None:
        self._make_ready(frame)
        try:
            frame = frame._replace(intrinsics=self._intrinsics(frame))
            update = self._pipeline.step(self._robot.brief(self._pipeline, frame))
        finally:
            notices, self._pipeline.notices = self._pipeline.notices, []
            for notice in notices:
                self._health.notice(notice)
        self._health.used()
        return update

    def _make_ready(self, frame: Frame) -> None:
        """Have what windows of this picture need compiled; raises `Compiling` until one serves.

        Before the pipeline sees the frame: while another size comes as well, its window goes on.
        Raises `FrameError` for a size that nothing should be compiled for, or not yet.
        """
        height, width = frame.rgb.shape[:2]
        self._sizes.admit(width, height)
        settings = self._pipeline.settings
        grid = settings.grid(width, height, self._engine.default_width)
        self._engine.prepare(
            (grid.height, grid.width),
            settings.window_size,
            depth_frames=settings.depth_frames,
            guests=settings.most_frames - settings.window_size,
        )

    def _progress(self, state: str) -> None:
        if self._stopping():
            raise Stopped
        self._health.progress(state)

    def _intrinsics(self, frame: Frame) -> Float[np.ndarray, "3 3"] | None:
        """The calibrated K, where it is there and fits; a warning if it is wanted and is not."""
        height, width = frame.rgb.shape[:2]
        wanted = self._parameters.intrinsics == "camera_info"
        intrinsics, missing = None, ""
        try:
            if self.calibration is not None:
                intrinsics = self.calibration.of_picture(width, height)
                if wanted and self.calibration.is_distorted:
                    self._health.notice(
                        "camera_info has distortion, which is ignored: its D is not zero; feed a"
                        " rectified image (image_proc), with D zero and P's left 3x3 as K"
                    )
            elif wanted:
                raise UserError("no usable camera_info yet: the network's own intrinsics are used")
        except UserError as error:
            self._health.notice(str(error))
            missing = f"intrinsics is camera_info, but {error}" if wanted else ""
        self._health.lasting("calibration", missing)
        return intrinsics
