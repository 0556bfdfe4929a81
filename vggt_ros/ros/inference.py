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

from vggt_ros.engine.interface import Compiling, DeviceLost, caution
from vggt_ros.engine.shapes import padded_queries
from vggt_ros.errors import UserError, sentence
from vggt_ros.frames import Update
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.metric.scale import SOURCES
from vggt_ros.msg import QueryPoints
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.health.attention_health import AttentionHealth
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.health.track_status import TrackCost
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.map_requests import MapRequests
from vggt_ros.ros.messages import queries_from, stamp_ns
from vggt_ros.ros.opening import (
    close_engine,
    compile_ahead,
    described,
    network_cautions,
    prepare,
)
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.outputs import Outputs
from vggt_ros.ros.sensors.masks import nothing_is_masked
from vggt_ros.ros.sensors.robot import Robot
from vggt_ros.ros.tasks import Result, Stopped
from vggt_ros.ros.worker import Worker
from vggt_ros.timeline import StreamGate

OpenEngine = Callable[[Parameters, Callable[[str], None]], Any]


class InferenceWorker(MapRequests):
    """Owns engine and pipeline.  Methods run in the worker's thread, unless documented otherwise.

    `sender` publishes: one update at a time, in order, and none is lost; the worker is at most one
    inference ahead of it.  `outputs` are used in its thread alone.
    """

    def __init__(
        self,
        live: LiveParameters,
        open_engine: OpenEngine,
        outputs: Outputs,
        sender: Worker[Result],
        health: Health,
        robot: Robot,
        stopping: Callable[[], bool],
    ):
        parameters = self._parameters = live.now
        self._live, self._open_engine = live, open_engine
        self._outputs, self._health, self._stopping = outputs, health, stopping
        self._robot, self._sender = robot, sender
        self._engine: Any = None
        self._pipeline: Pipeline | None = None
        self._timeline = 0
        self._loaded: LoadedMap | None = None
        self._unpublished = 0  # updates in a row, for an error
        self._images = parameters.window_size * (len(parameters.camera_names) or 1)
        self._track_cost, self._attention = TrackCost(self._images), AttentionHealth()

    def begin(self) -> None:
        """Open the network.  Raises `UserError` where there is none."""
        engine = self._engine = self._open_engine(self._parameters, self._progress)
        self._pipeline = Pipeline(
            engine,
            self._parameters.settings(),
            time.perf_counter,
            background=True,
            stream=StreamGate(patience=0),  # frames were judged as they arrived; see node.py
            cameras=self._parameters.camera_names,
        )
        self._health.network = described(engine)
        cautions = "; ".join(network_cautions(engine, self._parameters))
        self._health.set_warning("network", cautions, "settings")
        cameras, layout = len(self._parameters.camera_names), self._parameters.layout
        self._attention = AttentionHealth(engine.layout, cameras, layout)
        self._report_attention()
        if text := caution(engine.name, engine.random_weights):
            self._health.notice(text)
        if folder := self._live.now.map:  # which may have been set since the start
            self.load_map(Path(folder))
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
        self._loaded = None
        self._track_cost, self._attention = TrackCost(self._images), AttentionHealth()
        self._report_attention()
        self._sender.call_soon(self._outputs.reset)
        self._health.network = {}
        if engine is not None:
            close_engine(engine, self._stopping, self._health.progress)
        del engine
        gc.collect()  # arrays on the device are held by objects that refer to each other

    def reset(self) -> None:
        """Empty window, tracks, map and path; compiled programs and a loaded map stay."""
        if self._pipeline is None:
            return
        self._pipeline.reset()
        self._report_tracks()
        self._sender.call_soon(self._show_empty_map)

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
            self.pipeline.query(ids, uv, stamp_ns(msg.header.stamp), self._camera_of(msg))
        except Exception as error:  # of one message, which concerns no other
            self._health.refuse(sentence(error))
        self._report_tracks()

    def _camera_of(self, msg: QueryPoints) -> str:
        """The frame of the camera that a query names; empty: any."""
        return ""

    def _report_tracks(self) -> None:
        """What is tracked, and why what was asked for is not; and whether programs are kept."""
        self._health.set_warning("cache", self._engine.cache_fault, "network")
        self._health.set_warning("tracks", self.pipeline.untracked, "network")
        self._health.network["tracks"] = self._track_cost.text(self.pipeline.tracked_points)

    def _report_attention(self) -> None:
        """Whether windows are attended as the layout says."""
        self._health.set_warning("attention", self._attention.warning, "network")
        for row, text in self._attention.rows.items():
            self._health.describe("network", row, text)

    def infer(self, task: Any) -> None:
        """Decode, infer, pass on; an error of this image does not affect the next one.

        Raises `DeviceLost`: this process cannot infer any more.
        """
        timeline = self._timeline
        try:
            frame, other_pixels = self._read(task)
            if other_pixels:
                self._health.notice("camera_info changes how the image is read: a new map starts")
                self.discard()
                self.reset()
                timeline = self._timeline
            update = self._step(frame)
        except Compiling as error:
            self._wait(str(error))
            if (loops := self.pipeline.map.loops).is_on:
                loops.is_solvable()  # imported now, it does not stop the first search for a loop
            return
        except DeviceLost:
            raise
        except UserError as error:
            self._refuse(str(error))
            return
        except Exception as error:  # errors of the device have no common class
            self._refuse(f"an inference failed: {type(error).__name__}: {error}")
            return
        if update is not None:
            self._sender.put_and_wait(Result(update, task.arrived, timeline))

    def _read(self, task: Any) -> tuple[Any, bool]:
        """The frames of a task, for which there is a program; True: of other pixels than before.

        Raises `UserError` for what is refused, and `Compiling`.
        """
        raise NotImplementedError

    def _wait(self, reason: str) -> None:
        self._health.wait(reason)

    def _refuse(self, text: str) -> None:
        self._health.refuse_image(text)

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
        views = self._outputs.view_health
        self._health.set_warning("what images show", views.images)
        self._health.set_warning("confidence", views.untrusted, "outputs")
        is_noise = getattr(self._engine, "random_weights", True)  # None: it was just released
        self._health.set_warning("focal length", "" if is_noise else views.focal.warning)
        seconds = {**result.update.seconds, **self._outputs.seconds}
        self._health.inferred(result.update, time.monotonic() - result.arrived, seconds)

    def _feed(self, frames: Any) -> Update | None:
        """The pipeline's answer to what `_read` gave."""
        raise NotImplementedError

    def _count_used(self) -> None:
        """What was read went into the window."""
        self._health.used()

    def _step(self, frame: Any) -> Update | None:
        try:
            update = self._feed(frame)
            self._report_sources()
        finally:
            self._pass_on(self.pipeline.notices)
        self._count_used()
        for name, masks in self._robot.masks.items():
            self._health.set_warning(f"mask {name}".strip(), masks.warning, "masks")
        unused = nothing_is_masked(self._parameters, self._robot.masks.values())
        self._health.set_warning("mask_network", unused, "settings")
        self._health.set_warning("masking", self.pipeline.masking.fault, "masks")
        self._health.describe("masks", "masked pixels", f"{self.pipeline.masking.share:.1%}")
        if update is not None:
            self._track_cost.add(update)
            self._report_tracks()
            self._attention.add(update)
            self._report_attention()
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
        for source in SOURCES:  # a rig has baselines by itself
            fault = self.pipeline.outcomes.fault(source)
            self._health.set_warning(f"measurements of {source}", fault, "scale")

    def compile_ahead(self, *, waits: bool) -> None:
        """Compile for images of `image_size`; with `waits` until a window can run, or it raises."""
        if (size := self._parameters.image_shape) is not None:
            begin = partial(self._prepare, *size)
            compile_ahead(begin, self._stopping, self._progress, waits=waits)

    def _prepare(self, width: int, height: int) -> None:
        expected, text = self._parameters.image_shape, ""
        if expected not in (None, (width, height)):
            text = (
                f"image_size is {self._parameters.image_size}, but images have {width}x{height}:"
                " what was compiled before the first one is not used; set it to that"
            )
        self._health.set_warning("image_size", text, "settings")
        prepare(self._engine, self.pipeline, width, height)

    def _progress(self, state: str) -> None:
        if self._stopping():
            raise Stopped
        self._health.progress(state)
