# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The inference thread: opens the network, then turns each image message into an update.

An update is published in a thread of its own, while the network computes the next one.
"""

import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vggt_ros.engine.interface import Compiling, DeviceLost, caution
from vggt_ros.engine.shapes import padded_queries
from vggt_ros.errors import UserError, sentence
from vggt_ros.files import write_ply
from vggt_ros.frames import Frame, Update
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.window import level_camera
from vggt_ros.msg import QueryPoints
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.diagnostics import Health
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.inputs import CameraInput, frame_from
from vggt_ros.ros.messages import queries_from, stamp_ns
from vggt_ros.ros.opening import close_engine, compile_ahead, described, prepare
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.robot import Robot
from vggt_ros.ros.tasks import Result, Stopped, Task
from vggt_ros.ros.track_status import TrackCost
from vggt_ros.ros.worker import Worker, ask
from vggt_ros.timeline import SizeGate, StreamGate

PUBLISHED_WITHIN = 10.0  # seconds in which the sender takes up what is done

OpenEngine = Callable[[Parameters, Callable[[str], None]], Any]


class InferenceWorker:
    """Owns engine and pipeline.  Methods run in the worker's thread, unless documented otherwise.

    `sender` publishes: one update at a time, in order, and none is lost; the worker is at most one
    inference ahead of it.  `outputs` are used in its thread alone.
    """

    def __init__(
        self,
        parameters: Parameters,
        open_engine: OpenEngine,
        outputs: Outputs,
        sender: Worker[Result],
        health: Health,
        robot: Robot,
        camera: CameraInput,
        stopping: Callable[[], bool],
    ):
        self._parameters, self._open_engine = parameters, open_engine
        self._outputs, self._health, self._stopping = outputs, health, stopping
        self._robot, self._sender, self.camera = robot, sender, camera
        self._sizes = SizeGate()
        self._engine: Any = None
        self._pipeline: Pipeline | None = None
        self._timeline = 0
        self._reader = ImageReader(parameters.mono16_bits, parameters.mono16_black)
        self._names = FrameNames(health.notice)
        self._loaded: LoadedMap | None = None
        self._unpublished = 0  # updates in a row, for an error
        self._track_cost = TrackCost(parameters.window_size)

    def begin(self) -> None:
        """Open the network.  Raises `UserError` where there is none."""
        engine = self._engine = self._open_engine(self._parameters, self._progress)
        self._pipeline = Pipeline(
            engine,
            self._parameters.settings(),
            time.perf_counter,
            background=True,
            stream=StreamGate(patience=0),  # frames were judged as they arrived; see node.py
        )
        self._health.network = described(engine)
        if text := caution(engine.name, engine.random_weights):
            self._health.notice(text)
        if self._parameters.map:
            self.load_map(Path(self._parameters.map))
        self._progress("waiting for the first image")

    @property
    def pipeline(self) -> Pipeline:
        """Raises `UserError` while there is no network."""
        if self._pipeline is None:
            raise UserError("no network is loaded: ros2 lifecycle set NODE configure loads it")
        return self._pipeline

    def release(self) -> None:
        """Free network, map and device memory, once no program is compiled any more."""
        self.discard()
        engine, self._engine, self._pipeline = self._engine, None, None
        self._loaded, self._sizes = None, SizeGate()
        self._track_cost = TrackCost(self._parameters.window_size)
        self._sender.call_soon(self._outputs.reset)
        self._health.network = {}
        if engine is not None:
            close_engine(engine, self._stopping, self._health.progress)
        del engine
        gc.collect()  # arrays on the device are held by objects that refer to each other

    def discard(self) -> None:
        """From any thread: results that are not yet published never will be."""
        self._timeline += 1

    def reset(self) -> None:
        """Empty window, tracks, map and path; compiled programs and a loaded map stay."""
        if self._pipeline is None:
            return
        self._pipeline.reset()
        self._report_tracks()
        self._sender.call_soon(self._show_empty_map)

    def _show_empty_map(self) -> None:
        if self._loaded is None:
            self._outputs.reset()
        else:
            self._outputs.load(self._loaded)

    def load_map(self, folder: Path) -> str:
        """Start again in a saved map; returns what was loaded.  Raises `UserError`."""
        loaded = self._loaded = self.pipeline.load_map(folder, extend=self._parameters.mapping)
        self.discard()
        self._sender.call_soon(self._show_empty_map)
        return f"{len(loaded.store)} keyframes of {folder}: the camera is sought in them"

    def save_map(self, folder: Path) -> str:
        """Write all that is tied to the newest window; returns what.  Raises `UserError`."""
        write_cloud = self._write_cloud if self._parameters.map_voxel > 0 else None
        count = self.pipeline.save_map(folder, write_cloud)
        return f"{count} keyframes in {folder.expanduser().absolute()}"

    def _write_cloud(self, path: Path, keyframes: KeyframePoses) -> None:
        """Write the cloud as it is with these keyframes, after all updates.  Raises `UserError`."""
        if not self._sender.wait_until_idle(PUBLISHED_WITHIN):
            raise UserError("the map was not saved: the last messages are not published yet; retry")
        cloud = ask(self._sender, lambda: self._outputs.cloud_at(keyframes), PUBLISHED_WITHIN)
        if cloud is not None:
            write_ply(path, *cloud)

    def expect_at(self, world_from_base: Float[np.ndarray, "4 4"]) -> None:
        """Where the robot is, by a user's estimate; of use while the camera is sought."""
        known = self.pipeline.map
        if not known.is_relocalising:
            self._health.notice("an initial pose is not needed: the camera is located")
            return
        mount = self._robot.mount
        known.loops.expect_at(world_from_base @ (level_camera() if mount is None else mount))

    @property
    def engine(self) -> Any:
        """From any thread: the network; None while there is none."""
        return self._engine

    def close(self, timeout: float) -> bool:
        """From any thread, once the worker has ended: True if nothing is compiled any more."""
        return self._engine is None or self._engine.close(timeout)

    def query(self, msg: QueryPoints) -> None:
        """Track these pixels from now on."""
        try:
            ids, uv = queries_from(msg)
            padded_queries(len(ids))  # refuses too many, here and not at each inference
            self.pipeline.query(ids, uv, stamp_ns(msg.header.stamp))
        except Exception as error:  # of one message, which concerns no other
            self._health.refuse(sentence(error))
        self._report_tracks()

    def _report_tracks(self) -> None:
        """What is tracked, and why what was asked for is not; and whether programs are kept."""
        self._health.set_warning("cache", self._engine.cache_fault, "network")
        self._health.set_warning("tracks", self.pipeline.untracked, "network")
        self._health.network["tracks"] = self._track_cost.text(self.pipeline.tracked_points)

    def infer(self, task: Task) -> None:
        """Decode, infer, pass on; an error of this image does not affect the next one.

        Raises `DeviceLost`: this process cannot infer any more.
        """
        timeline = self._timeline
        try:
            frame = frame_from(task.msg, self._reader)
            self._names.of("the image", task.msg.header.frame_id)
            self._pass_on(self._reader.notices)
            self._make_ready(frame)
            frame, other_pixels = self.camera.read(frame)
            if other_pixels:
                self._health.notice("camera_info changes how the image is read: a new map starts")
                self.discard()
                self.reset()
                timeline = self._timeline
            update = self._step(frame)
        except Compiling as error:
            self._health.wait(str(error))
            return
        except DeviceLost:
            raise
        except UserError as error:
            self._health.refuse_image(str(error))
            return
        except Exception as error:  # errors of the device have no common class
            self._health.refuse_image(f"an inference failed: {type(error).__name__}: {error}")
            return
        if update is not None:
            self._sender.put_and_wait(Result(update, task.arrived, timeline))

    def publish(self, result: Result) -> None:
        """In the sender's thread: publish an update, unless the node was reset since.

        One that fails is lost, and a warning lasts until one succeeds; the next is tried.
        """
        if result.timeline != self._timeline:
            return
        try:
            self._outputs.publish(result.update)
        except Exception as error:
            self._unpublished += 1
            text = f"the last {self._unpublished} updates were not published, or in part"
            self._health.set_warning("publishing", f"{text}: {sentence(error)}", "outputs")
            return
        if self._unpublished:
            self._unpublished = 0
            self._health.set_warning("publishing", "", "outputs")
        self._health.describe("outputs", "agreement", self._outputs.surface.state)
        self._health.describe("outputs", "map points", self._outputs.map.state)
        self._health.describe("outputs", "occupancy", self._outputs.occupancy.state)
        for subject in ("surface", "map", "scan", "occupancy"):
            self._health.set_warning(subject, getattr(self._outputs, subject).warning, "outputs")
        seconds = {**result.update.seconds, **self._outputs.seconds}
        self._health.inferred(result.update, time.monotonic() - result.arrived, seconds)

    def _step(self, frame: Frame) -> Update | None:
        try:
            needs = self.pipeline.needs(frame.stamp_ns)
            update = self.pipeline.step(self._robot.observe(frame, needs))
            self._report_sources()
        finally:
            self._pass_on(self.pipeline.notices)
        self._health.used()
        self._health.set_warning("mask", self._robot.masks.warning, "masks")
        self._health.set_warning("masking", self.pipeline.masking.fault, "masks")
        self._health.describe("masks", "masked pixels", f"{self.pipeline.masking.share:.1%}")
        if update is not None:
            self._track_cost.add(update)
            self._report_tracks()
        return update

    def _pass_on(self, notices: list[str]) -> None:
        """Hand notices over to the diagnostics, and empty the list."""
        for notice in notices:
            self._health.notice(notice)
        notices.clear()

    def _report_sources(self) -> None:
        """What levelled the world, and which sources of scale are compared in vain."""
        levelled_by = "the loaded map" if self._loaded else self._robot.levelled_by
        self._health.describe("scale", "world levelled by", levelled_by)
        for source in self.pipeline.settings.sources:
            fault = self.pipeline.outcomes.fault(source)
            self._health.set_warning(f"measurements of {source}", fault, "scale")

    def compile_ahead(self, *, waits: bool) -> None:
        """Compile for images of `image_size`; with `waits` until a window can run, or it raises."""
        if (size := self._parameters.image_shape) is not None:
            begin = partial(self._prepare, *size)
            compile_ahead(begin, self._stopping, self._progress, waits=waits)

    def _make_ready(self, frame: Frame) -> None:
        """Start to compile for images of this size; raises `Compiling` until a window can run.

        Called before the pipeline takes the frame, so that images of another size in between do
        not disturb its window.  Raises `FrameError` for a size that is not (yet) accepted.
        """
        height, width = frame.rgb.shape[:2]
        self._sizes.check(width, height)
        self._prepare(width, height)
        self._sizes.use(width, height)

    def _prepare(self, width: int, height: int) -> None:
        prepare(self._engine, self.pipeline, width, height)

    def _progress(self, state: str) -> None:
        if self._stopping():
            raise Stopped
        self._health.progress(state)
