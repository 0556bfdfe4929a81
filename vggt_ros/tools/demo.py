# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt demo`: the node, a player of a recorded clip, and the viewer, on one machine.

The only command that needs ROS; its modules are imported by the function that uses them.
"""

import json
import math
import re
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from jaxtyping import Float64

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings
from vggt_ros.tools.children import ChildProcesses
from vggt_ros.tools.loopback import stay_on_this_machine
from vggt_ros.tools.option_sets import PORTS, check_limits, refuse_unused
from vggt_ros.tools.runs.format import OVERVIEW, SUMMARY, RunFrame
from vggt_ros.tools.runs.fused import fuse
from vggt_ros.tools.runs.overview import save_overview
from vggt_ros.tools.sources.open import CLIP

if TYPE_CHECKING:
    from vggt_ros.ros.harness.listener import Listener, Received, ReceivedView
    from vggt_ros.tools.viewer import Viewer

NODE = "import sys; from vggt_ros.ros.node import main; sys.exit(main())"
START_TIMEOUT = 600.0  # seconds until the first depth; includes compilation
OUTPUT_TIMEOUT = 300.0  # seconds to wait at the end for a topic without messages: programs compile
REPORT_PERIOD = 1.0  # seconds between two lines of status
QUERY_PERIOD = 10.0  # seconds until the points to track are sent again, if there are no tracks
OVERVIEW_FRAMES = 64  # frames at most in the overview image
VIEWER_FRAMES = 40  # frames that the viewer keeps
# Points to track, as shares of width and height.
QUERIES = np.array([[0.3, 0.4], [0.5, 0.4], [0.7, 0.4], [0.4, 0.7], [0.6, 0.7]])


def demo(
    *,
    seconds: float = 0,
    headless: bool = False,
    model: str = "small",
    window_size: int = Settings.window_size,
    min_confidence: float = 1.0,
    clip: Path = CLIP,
    rate: float = 0.25,
    port: int = 8080,
    out: Path = Path("vggt_demo"),
) -> int:
    """Play a clip to the node and show its outputs, until Ctrl-C or for some seconds.

    Exits with 1 if a topic of the node had no message, and names it.

    Args:
        seconds: duration after the node is ready; 0 runs until Ctrl-C.
        headless: no viewer.
        model: preset, hub id or path; `small` comes with weights, other presets show noise.
        min_confidence: pixels below it are masked; 1 keeps all, and the viewer can mask more.
        clip: rosbag2 with a camera.
        rate: speed of playback: 1 is as recorded; at a quarter two cores infer most images.
        port: port of the viewer; the next free one is used if it is busy.
        out: output folder, for picture.png and summary.json.
    """
    check_limits(locals(), port=PORTS, seconds=(0, math.inf), rate=(1e-3, 1e3))
    if headless:
        text = "is of the viewer, and --headless has none: leave one of them out"
        refuse_unused(demo, locals(), {"port": text})
    if not clip.exists():
        raise UserError(f"there is no clip at {clip}; give --clip a rosbag2")
    domain = stay_on_this_machine()
    print(f"ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST shows it to ROS tools")
    try:
        from vggt_ros.ros.harness.listener import Listener
    except ImportError as error:
        raise UserError(f"ROS 2 is missing ({error}); use `make demo`, or source a ROS") from None

    signal.signal(signal.SIGTERM, _end)
    node = [sys.executable, "-c", NODE, "--ros-args"]
    node += ["-p", f"model:={model}", "-p", f"window_size:={window_size}"]
    node += ["-p", f"min_confidence:={float(min_confidence)}"]
    player = [sys.executable, "-m", "vggt_ros.ros.harness.player", str(clip)]
    player += ["--as-camera", "--loop", "--rate", str(rate)]
    if clip == CLIP:  # it ends metres from its start, and a camera that jumps breaks the map
        player.append("--there-and-back")
    views: deque[ReceivedView] = deque(maxlen=VIEWER_FRAMES)
    with ChildProcesses(_Log()) as children:
        children.start(node=node, player=player)
        with Listener(on_view=views.append) as listener:
            viewer = None if headless else _open_viewer(port)
            monitor = Monitor(listener, views, viewer, model)
            try:
                monitor.run(seconds, children.failure)
            except KeyboardInterrupt:
                print("\nstopping")
            finally:
                if viewer:
                    viewer.close()
            return monitor.finish(out)


class Monitor:
    """Collects the node's outputs, prints a status line a second, writes the summary."""

    def __init__(
        self,
        listener: "Listener",
        views: "deque[ReceivedView]",
        viewer: "Viewer | None",
        model: str,
    ):
        self.listener, self.views, self.viewer, self.model = listener, views, viewer, model
        self.frames: list[RunFrame] = []
        self.every, self.number = 1, 0
        self.latencies: list[float] = []
        self.random_weights = False
        self.problem = ""
        self.began = time.monotonic()

    def run(self, seconds: float, failure: Callable[[], str]) -> None:
        """Print a line a second until `seconds` after ready; `UserError` if a process ends."""
        ready, ask = None, 0.0
        for tick in _ticks():
            if message := failure():
                raise UserError(message)
            self._take_views()
            received = self.listener.received()
            if tick is None:
                continue
            self._report_weights(received)
            if received.counts["~/depth/image"] and not received.counts["~/tracks"] and tick > ask:
                self._send_queries(received)
                ask = tick + QUERY_PERIOD
            state = received.diagnostics.get("state", "starting")
            if ready is None and received.counts["~/depth/image"] and state == "ready":
                ready = tick
            if ready is None:
                if tick > START_TIMEOUT:
                    raise UserError(f"no depth in {START_TIMEOUT:g} s; see the node's log above")
                if int(tick) % 5 == 0:
                    print(f"{tick:4.0f} s   {received.frames} images in   {state}", flush=True)
                continue
            self._report(tick, received)
            over = tick - ready - seconds
            if seconds and over >= 0 and (not received.missing_topics or over > OUTPUT_TIMEOUT):
                return

    def finish(self, out: Path) -> int:
        """Write overview and summary; returns 1 if a topic had no message."""
        received, path = self.listener.received(), self.listener.path()
        reset = self.listener.reset(5.0)
        out.mkdir(parents=True, exist_ok=True)
        noise = ", random weights: this is noise" if self.random_weights else ""
        frames = mapped(self.frames, path)
        save_overview(out / OVERVIEW, frames, caption=f"vggt demo, {self.model}{noise}")
        summary = json.dumps(self._summary(received, reset), indent=2)
        (out / SUMMARY).write_text(summary + "\n")
        print(f"saved {out / OVERVIEW} and {out / SUMMARY}")
        missing = received.missing_topics + ([] if reset else ["~/reset"])
        if missing:
            print(f"no message on {', '.join(missing)}; see the node's log", file=sys.stderr)
        return 1 if missing else 0

    def _take_views(self) -> None:
        """Show new views in the viewer; keep an even selection of them for the overview."""
        while self.views:
            frame = _run_frame(self.views.popleft())
            if self.viewer:
                self.viewer.add(frame)
            if self.number % self.every == 0:
                self.frames.append(frame)
            self.number += 1
            if len(self.frames) > OVERVIEW_FRAMES:
                self.frames, self.every = self.frames[::2], 2 * self.every

    def _report(self, tick: float, received: "Received") -> None:
        self.latencies.append(received.latency_s)
        inferences = received.counts["~/depth/image"]
        dropped = received.diagnostics.get("dropped", "?")
        line = (
            f"{tick:4.0f} s   {received.frames} images in   {inferences} inferences   "
            f"latency {received.latency_s:.2f} s   {dropped} dropped   {received.points:,} points"
        )
        print(line, flush=True)
        problem = re.sub(r"\d[\d.]*", "#", received.problem)  # figures change with each report
        if problem != self.problem:
            self.problem = problem
            print(f"{tick:4.0f} s   {received.problem or 'all is well again'}", flush=True)
        if self.viewer:
            warning = "\n\n**random weights: noise, not a map**" if self.random_weights else ""
            self.viewer.set_status(line.strip() + warning)

    def _report_weights(self, received: "Received") -> None:
        weights = received.diagnostics.get("weights", "")
        if "random" in weights and not self.random_weights:
            self.random_weights = True
            print(f"the weights of {self.model} are random: its geometry is NOISE, not a map")

    def _send_queries(self, received: "Received") -> None:
        if all(received.input_size):
            self.listener.query(QUERIES * received.input_size)

    def _summary(self, received: "Received", reset: bool) -> dict:
        return {
            "model": self.model,
            "random_weights": self.random_weights,
            "seconds": round(time.monotonic() - self.began, 1),
            "frames_in": received.frames,
            "looks": received.counts["~/depth/image"],
            "dropped": received.diagnostics.get("dropped"),
            "latency_s": round(statistics.median(self.latencies or [float("nan")]), 3),
            "points": received.points,
            "messages": received.counts,
            "silent": received.missing_topics,
            "reset_answered": reset,
            "problem": received.problem,
            "diagnostics": received.diagnostics,
        }


def mapped(
    frames: Sequence[RunFrame], path: Mapping[int, Float64[np.ndarray, "4 4"]]
) -> list[RunFrame]:
    """Frames where the map has them at the end, their depth on one surface.

    Only those that are in its path (world_from_camera by stamp): others were refused, or are of
    another part of the map.
    """
    placed = [
        frame._replace(world_from_camera=path[frame.stamp_ns])
        for frame in frames
        if frame.stamp_ns in path
    ]
    return [fusion.apply(frame) for fusion, frame in zip(fuse(placed), placed, strict=True)]


def _ticks():
    """The seconds since the start once a `REPORT_PERIOD`; None in between, for other tasks."""
    start = time.monotonic()
    due = REPORT_PERIOD
    while True:
        time.sleep(0.1 * REPORT_PERIOD)
        now = time.monotonic() - start
        yield now if now >= due else None
        if now >= due:
            due = (now // REPORT_PERIOD + 1) * REPORT_PERIOD


def _run_frame(view: "ReceivedView") -> RunFrame:
    return RunFrame(
        depth=view.depth,
        confidence=view.confidence,
        intrinsics=view.intrinsics,
        world_from_camera=view.world_from_camera,
        stamp_ns=view.stamp_ns,
        image=view.rgb,
    )


def _open_viewer(port: int) -> "Viewer":
    from vggt_ros.tools.viewer import Viewer

    viewer = Viewer(port, title="vggt demo", keep=VIEWER_FRAMES)
    print(f"viewer: {viewer.address}")
    return viewer


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


class _Log:
    """Prints the lines of a process, without the prefix of ROS logging."""

    PREFIX = re.compile(r"^\[(\w+)\] \[[\d.]+\] \[[\w.]+\]: ")

    def __call__(self, name: str, line: str) -> None:
        level = self.PREFIX.match(line)
        text = self.PREFIX.sub("", line)
        mark = f" {level[1].lower()}:" if level and level[1] != "INFO" else ":"
        print(f"{name}{mark} {text}", flush=True)
