# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as a process of its own, fed by a camera and read by subscribers, over minutes or hours.

    python test/soak/run.py --minutes 60 --out soak

The network is `tiny`, whose weights are random: every window is refused or begins another segment,
so that the map is made, thrown away and made again all the time. Limits of path, keyframes and
cloud are low, so that memory has settled after five minutes. Ends with 1 and the reasons where the
run has failed; `soak.json` and `soak.png` have the figures.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from vggt_ros.tools.loopback import stay_on_this_machine  # noqa: E402

stay_on_this_machine()

import psutil  # noqa: E402
import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from nav_msgs.msg import Path as PathMessage  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402
from vggt_ros.msg import MapStatus  # noqa: E402

from soak import figures  # noqa: E402
from soak.curve import draw  # noqa: E402
from vggt_ros.ros.harness.player import (  # noqa: E402
    decompressed,
    header_stamp,
    read,
    topics_of,
    with_stamp,
)

CLIP = ROOT / "vggt_ros/assets/clip/bag"
STARTED_WITHIN = 300.0  # seconds, on a busy machine
ENDED_WITHIN = 30.0
PARAMETERS = {
    "model": "tiny", "window_size": 3, "network_width": 84, "image_reliability": "reliable",
    "path_length": 2000, "max_keyframes": 60, "map_points_max": 20_000, "map_voxel": 0.05,
}  # fmt: skip
SUBSCRIBED = {
    "/vggt/points": PointCloud2, "/vggt/map_points": PointCloud2, "/vggt/path": PathMessage,
    "/vggt/status": MapStatus, "/tf": TFMessage, "/vggt/depth/camera_info": CameraInfo,
}  # fmt: skip


class Camera:
    """The bundled clip there and back, at a fixed rate, stamped with the time."""

    def __init__(self, node: Node):
        topic = {kind: name for name, kind in topics_of(CLIP).items()}
        images = topic["sensor_msgs/msg/CompressedImage"]
        self._clip = [decompressed(m.raw) for m in read(CLIP) if m.topic == images]
        infos = topic["sensor_msgs/msg/CameraInfo"]
        self._info = next(m.raw for m in read(CLIP) if m.topic == infos)
        # Reliable, so that hardly any image is lost before it can be counted.
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        self._images = node.create_publisher(Image, "/image", qos)
        self._infos = node.create_publisher(CameraInfo, "/camera_info", qos)
        self._clock, self.sent = node.get_clock(), 0
        self._order = self._there_and_back()

    def _there_and_back(self) -> Iterator[int]:
        last = len(self._clip) - 1
        return (last - abs(last - i % (2 * last)) for i in count())

    @property
    def is_heard(self) -> bool:
        return self._images.get_subscription_count() > 0

    def publish(self) -> None:
        """The next image, and its camera_info."""
        image, ns = self._clip[next(self._order)], self._clock.now().nanoseconds
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(ns, 1_000_000_000)
        self._infos.publish(with_stamp(self._info, ns))
        self._images.publish(image)
        self.sent += 1


class Listener:
    """Counts depth images, takes their latencies, and keeps the newest diagnostics."""

    def __init__(self, node: Node):
        self._clock = node.get_clock()
        self.depths, self.latencies_ms = 0, list[float]()
        self.diagnostics: dict[str, str] = {}
        qos = QoSProfile(depth=20)
        node.create_subscription(Image, "/vggt/depth/image", self._on_depth, qos, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)
        for topic, kind in SUBSCRIBED.items():
            node.create_subscription(kind, topic, lambda _: None, qos, raw=True)

    def _on_depth(self, raw: bytes) -> None:
        self.depths += 1
        self.latencies_ms.append(1e-6 * (self._clock.now().nanoseconds - header_stamp(raw)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {
            pair.key: pair.value for status in message.status for pair in status.values
        }


def start_node(out: Path) -> subprocess.Popen:
    """The node, whose output goes to a file."""
    arguments = [f"{name}:={value}" for name, value in PARAMETERS.items()]
    command = [sys.executable, str(ROOT / "scripts/vggt_node"), "--ros-args"]
    command += [word for each in arguments for word in ("-p", each)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with (out / "node.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def run(minutes: float, rate: float, period: float, out: Path) -> figures.Outcome:
    """Feed the node for so long; `period` in seconds between two samples."""
    rclpy.init()
    node = Node("soak")
    camera, listener = Camera(node), Listener(node)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    process = start_node(out)
    watched = figures.NodeProcess(process.pid)
    samples: list[figures.Sample] = []

    def spin_until(end: float) -> None:
        while (left := end - time.monotonic()) > 0 and process.poll() is None:
            executor.spin_once(timeout_sec=left)

    try:
        end = time.monotonic() + STARTED_WITHIN
        while not camera.is_heard and time.monotonic() < end and process.poll() is None:
            spin_until(time.monotonic() + 0.1)
        began = due = time.monotonic()
        sampled, reset_at = began, began + 20 * period
        reset = node.create_client(Trigger, "/vggt/reset")
        while (now := time.monotonic()) < began + 60 * minutes and process.poll() is None:
            camera.publish()
            if now - sampled >= period:
                times, listener.latencies_ms = listener.latencies_ms, []
                samples.append(watched.sample(now - began, times, camera.sent, listener.depths))
                sampled = now
            if now >= reset_at and reset.service_is_ready():
                reset.call_async(Trigger.Request())
                reset_at = now + 20 * period
            due = max(due + 1 / rate, now)  # what was late is not made up for
            spin_until(due)
        spin_until(time.monotonic() + 10)  # what is still computed, and a report of it
        crashed = process.poll() is not None
        code = stop(process)
    except psutil.NoSuchProcess:
        crashed, code = True, process.poll()
    except (KeyboardInterrupt, ExternalShutdownException):
        crashed, code = False, stop(process)
    finally:
        stop(process)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    lines = (out / "node.log").read_text(errors="replace").splitlines()
    wrong = [line for line in lines if "Traceback" in line or "[FATAL]" in line]
    return figures.Outcome(
        samples, listener.diagnostics, camera.sent, code, crashed, watched.left, wrong
    )


def stop(process: subprocess.Popen) -> int | None:
    """End the node as Ctrl-C does; its exit code, None where it had to be killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="The node over minutes or hours.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--period", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache/soak", help="folder of figures")
    parser.add_argument(
        "--busy", action="store_true",
        help="other programs share the processor: latency is reported, and not judged",
    )  # fmt: skip
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    outcome = run(options.minutes, options.rate, options.period, options.out)
    problems = figures.faults(outcome, judge_latency=not options.busy)
    asked = {"minutes": options.minutes, "rate": options.rate, "busy": options.busy}
    figures.save(outcome, problems, options.out / "soak.json", asked)
    if outcome.samples:
        busy = "; the machine was shared with other programs" if options.busy else ""
        title = f"tiny, {options.rate:g} Hz, {options.minutes:g} min{busy}"
        draw(outcome.samples, options.out / "soak.png", title)
        growth = figures.slowdown(outcome.samples)
        print(f"soak: {outcome.sent} images, median latency {growth:+.1%} from start to end")
        counts = {name: outcome.diagnostics.get(name, "?") for name in figures.OUTCOMES}
        print(f"soak: {outcome.diagnostics.get('images received')} received: {counts}")
    print(f"soak: figures in {options.out}")
    if problems:
        sys.exit("soak: FAILED\n" + "\n".join(f"  {each}" for each in problems))
    print("soak: passed")


if __name__ == "__main__":
    main()
