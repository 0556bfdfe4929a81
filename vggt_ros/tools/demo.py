# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole robot on one machine: a clip is played to the real node, and a browser shows its map.

The one place where tools meet ROS; it is imported late, by the function that needs it.
"""

import json
import re
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.tools.children import Children
from vggt_ros.tools.loopback import stay_on_this_machine
from vggt_ros.tools.runs.format import Shot
from vggt_ros.tools.runs.overview import save_picture

if TYPE_CHECKING:
    from vggt_ros.ros.harness.listener import Heard, Listener, Sight
    from vggt_ros.tools.viewer import Viewer

CLIP = Path(__file__).parent.parent / "assets" / "clip" / "bag"
NODE = "import sys; from vggt_ros.ros.node import main; sys.exit(main())"
START_LIMIT = 600.0  # seconds that the first compilation may take
GRACE = 300.0  # seconds that the end waits for a topic that is still silent: programs compile
ASK_AGAIN = 30.0  # seconds until the points to track are sent once more, if nothing came
PICTURED = 64  # shots that the picture is made of, at most
SHOWN = 40  # shots that the live page keeps
QUERIES = np.array([[0.3, 0.4], [0.5, 0.4], [0.7, 0.4], [0.4, 0.7], [0.6, 0.7]])


def demo(
    *,
    seconds: float = 0,
    headless: bool = False,
    model: str = "small",
    window_size: int = 4,
    min_confidence: float = 1.0,
    clip: Path = CLIP,
    rate: float = 1.0,
    port: int = 8080,
    out: Path = Path("vggt_demo"),
) -> int:
    """Play a clip to the node and look at what it makes of it, until Ctrl-C or for some seconds.

    Exits with 1 if a promised topic stayed silent, and names it.

    Args:
        seconds: end by itself so long after the node is ready; 0 goes on until Ctrl-C.
        headless: no viewer.
        model: preset, hub id or path; `small` comes with weights, other presets show noise.
        window_size: frames that are looked at together.
        min_confidence: pixels below it are masked; 1 keeps all, and the viewer can mask more.
        clip: a rosbag2 with a camera.
        rate: 2 plays the clip twice as fast.
        port: port of the viewer's page; the next free one is taken if it is busy.
        out: folder for what was seen: picture.png and summary.json.
    """
    if not clip.exists():
        raise UserError(f"there is no clip at {clip}; give --clip a rosbag2")
    domain = stay_on_this_machine()
    print(f"ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST shows it to ROS tools")
    try:
        from vggt_ros.ros.harness.listener import Listener
    except ImportError as error:
        raise UserError(f"ROS 2 is not here ({error}); use `make demo`, or source a ROS") from None

    signal.signal(signal.SIGTERM, _end)
    node = [sys.executable, "-c", NODE, "--ros-args"]
    node += ["-p", f"model:={model}", "-p", f"window_size:={window_size}"]
    node += ["-p", f"min_confidence:={float(min_confidence)}"]
    player = [sys.executable, "-m", "vggt_ros.ros.harness.player", str(clip)]
    player += ["--as-camera", "--loop", "--rate", str(rate)]
    if clip == CLIP:  # it ends metres from where it begins: a camera that jumps breaks every map
        player.append("--there-and-back")
    sights: deque[Sight] = deque(maxlen=SHOWN)
    with Children(_Log()) as children:
        children.start(node=node, player=player)
        with Listener(on_sight=sights.append) as listener:
            viewer = None if headless else _open_viewer(port)
            watch = Watch(listener, sights, viewer, model)
            try:
                watch.go(seconds, children.dead)
            except KeyboardInterrupt:
                print("\nending")
            finally:
                if viewer:
                    viewer.close()
            return watch.conclude(out)


class Watch:
    """What was seen and heard so far."""

    def __init__(
        self, listener: "Listener", sights: "deque[Sight]", viewer: "Viewer | None", model: str
    ):
        self.listener, self.sights, self.viewer, self.model = listener, sights, viewer, model
        self.shots: list[Shot] = []
        self.every, self.number = 1, 0
        self.latencies: list[float] = []
        self.noise = False
        self.began = time.monotonic()

    def go(self, seconds: float, dead: Callable[[], str]) -> None:
        """A line a second, from ready on for `seconds`; UserError if a program dies."""
        ready, ask = None, 0.0
        for tick in _ticks():
            if words := dead():
                raise UserError(words)
            self._take()
            heard = self.listener.heard()
            if tick is None:
                continue
            self._say_weights(heard)
            if heard.counts["~/depth/image"] and not heard.counts["~/tracks"] and tick > ask:
                self._ask_for_tracks(heard)
                ask = tick + ASK_AGAIN
            state = heard.diagnostics.get("state", "no word yet")
            if ready is None and heard.counts["~/depth/image"] and state == "ready":
                ready = tick
            if ready is None:
                if tick > START_LIMIT:
                    raise UserError(f"no depth in {START_LIMIT:g} s; see the node's lines above")
                if int(tick) % 5 == 0:
                    print(f"{tick:4.0f} s   {heard.frames} frames in   {state}", flush=True)
                continue
            self._report(tick, heard)
            over = tick - ready - seconds
            if seconds and over >= 0 and (not heard.silent or over > GRACE):
                return

    def conclude(self, out: Path) -> int:
        """Save picture and summary; 1 if a promise was not kept."""
        heard = self.listener.heard()
        reset = self.listener.reset(5.0)
        out.mkdir(parents=True, exist_ok=True)
        noise = ", random weights: this is noise" if self.noise else ""
        save_picture(out / "picture.png", self.shots, caption=f"vggt demo, {self.model}{noise}")
        (out / "summary.json").write_text(json.dumps(self._summary(heard, reset), indent=2) + "\n")
        print(f"saved {out / 'picture.png'} and {out / 'summary.json'}")
        silent = heard.silent + ([] if reset else ["~/reset"])
        if silent:
            print(f"silent although promised: {', '.join(silent)}", file=sys.stderr)
        return 1 if silent else 0

    def _take(self) -> None:
        """Hand new sights to the viewer; keep an even choice of them for the picture."""
        while self.sights:
            shot = _shot(self.sights.popleft())
            if self.viewer:
                self.viewer.add(shot)
            if self.number % self.every == 0:
                self.shots.append(shot)
            self.number += 1
            if len(self.shots) > PICTURED:
                self.shots, self.every = self.shots[::2], 2 * self.every

    def _report(self, tick: float, heard: "Heard") -> None:
        self.latencies.append(heard.latency_s)
        dropped = heard.diagnostics.get("dropped", "?")
        line = (
            f"{tick:4.0f} s   {heard.frames} frames in   {heard.counts['~/depth/image']} looks   "
            f"latency {heard.latency_s:.2f} s   {dropped} dropped   {heard.points:,} points"
        )
        print(line, flush=True)
        if self.viewer:
            self.viewer.say(line.strip() + self.noise * "\n\n**random weights: noise, not a map**")

    def _say_weights(self, heard: "Heard") -> None:
        weights = heard.diagnostics.get("weights", "")
        if "random" in weights and not self.noise:
            self.noise = True
            print(f"the weights of {self.model} are random: its geometry is NOISE, not a map")

    def _ask_for_tracks(self, heard: "Heard") -> None:
        if all(heard.input_size):
            self.listener.follow(QUERIES * heard.input_size)

    def _summary(self, heard: "Heard", reset: bool) -> dict:
        return {
            "model": self.model,
            "random_weights": self.noise,
            "seconds": round(time.monotonic() - self.began, 1),
            "frames_in": heard.frames,
            "looks": heard.counts["~/depth/image"],
            "dropped": heard.diagnostics.get("dropped"),
            "latency_s": round(statistics.median(self.latencies or [float("nan")]), 3),
            "points": heard.points,
            "messages": heard.counts,
            "silent": heard.silent,
            "reset_answered": reset,
            "diagnostics": heard.diagnostics,
        }


def _ticks():
    """The seconds since the start, once a second; None in between, to look after other things."""
    start = time.monotonic()
    due = 1.0
    while True:
        time.sleep(0.1)
        now = time.monotonic() - start
        yield now if now >= due else None
        if now >= due:
            due = np.floor(now) + 1


def _shot(sight: "Sight") -> Shot:
    return Shot(
        depth=sight.depth,
        confidence=sight.confidence,
        intrinsics=sight.intrinsics,
        world_from_camera=sight.world_from_camera,
        stamp_ns=sight.stamp_ns,
        image=sight.rgb,
    )


def _open_viewer(port: int) -> "Viewer":
    from vggt_ros.tools.viewer import Viewer

    viewer = Viewer(port, title="vggt demo", keep=SHOWN)
    print(f"viewer: {viewer.address}")
    return viewer


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


class _Log:
    """Passes on what a program prints, without ROS's own stamps."""

    PREFIX = re.compile(r"^\[(\w+)\] \[[\d.]+\] \[[\w.]+\]: ")

    def __call__(self, name: str, line: str) -> None:
        level = self.PREFIX.match(line)
        words = self.PREFIX.sub("", line)
        mark = f" {level[1].lower()}:" if level and level[1] != "INFO" else ":"
        print(f"{name}{mark} {words}", flush=True)
