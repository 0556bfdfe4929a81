# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults of whole processes, which take minutes: `make chaos`.  See docs/reliability.md."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
import pytest
from node_rig import START, Rig
from process_rig import ENVIRONMENT, TINY, Process
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, image_message, stamp_ns

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.chaos]

TIMEOUT = 300.0  # seconds; only ever waited for by a test that fails
SERVING = 8.0  # seconds of computing from the start to the first depth, with a warm cache
PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)

# A camera that publishes 4K images as fast as it can, until it is killed.
FAST_CAMERA = """
import rclpy, sys
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("fast_camera")
publisher = node.create_publisher(Image, "/image", 1)
message = Image(height=2160, width=3840, encoding="rgb8", step=3 * 3840)
message.data = bytes(2160 * 3 * 3840)
message.header.frame_id = "camera"
while True:
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
"""


class Camera:
    """Images at 20 Hz with stamps that run on, in a thread of its own."""

    def __init__(self, rig: Rig, topic: str = "/image"):
        self.publisher = rig.peer.create_publisher(Image, topic, QoSProfile(depth=10))
        self.stamps: list[int] = []
        self._unplugged, self._ended = Event(), Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for i in count():
            if self._ended.wait(0.05):
                return
            if not self._unplugged.is_set():
                ns = START + i * 50_000_000
                self.stamps.append(ns)
                self.publisher.publish(image_message(header(ns, "camera"), PIXELS))

    def unplug(self) -> None:
        self._unplugged.set()

    def plug_in(self) -> None:
        self._unplugged.clear()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(TIMEOUT)


@pytest.fixture
def camera(rig: Rig):
    camera = Camera(rig)
    yield camera
    camera.close()


def more(rig: Rig, messages: list, what: str, of: int = 3) -> None:
    """Wait for that many more messages."""
    had = len(messages)
    rig.wait_until(lambda: len(messages) >= had + of, what, TIMEOUT)


def cached(tmp_path: Path) -> list[str]:
    """Parameters of the node on `tiny` with a cache directory."""
    at = TINY.index("cache_dir:=''")
    return [*TINY[:at], f"cache_dir:={tmp_path / 'cache'}", *TINY[at + 1 :]]


def computed(process: Process) -> float:
    """Seconds that a process has computed, which other programs do not lengthen."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


# ---- the node is killed, and others around it ---------------------------------------------------


def test_a_killed_node_serves_again_with_the_next_start_and_its_transforms_are_new(
    rig: Rig, camera: Camera, start: Callable[..., Process], tmp_path: Path
):
    depths = rig.subscribe("/vggt/depth/image", Image)
    transforms = rig.subscribe("/tf", TFMessage)
    first = start(*cached(tmp_path))
    rig.wait_until(lambda: "all that is needed is compiled" in first.output, "compiled", TIMEOUT)
    more(rig, depths, "depth of the first node")
    first.kill()
    sent_before = len(camera.stamps)
    time.sleep(0.5)  # what is still on its way
    depths.clear()
    transforms.clear()
    second = start(*cached(tmp_path))
    rig.wait_until(lambda: len(depths) > 0, "depth of the second node", TIMEOUT)
    seconds = computed(second)
    assert seconds < SERVING, f"{seconds:.1f} s of computing until the first depth"
    more(rig, transforms, "transforms of the second node", of=1)
    stamps = [stamp_ns(t.header.stamp) for message in transforms for t in message.transforms]
    assert min(stamps) >= camera.stamps[sent_before - 1], "no transform of an image of before"
    assert second.end(signal.SIGINT, within=TIMEOUT) == 0


def test_a_camera_that_is_killed_within_a_message_costs_nothing_but_its_images(
    rig: Rig, camera: Camera, start: Callable[..., Process]
):
    camera.unplug()
    depths = rig.subscribe("/vggt/depth/image", Image)
    process = start(*TINY)
    for _ in range(3):
        fast = subprocess.Popen([sys.executable, "-c", FAST_CAMERA], env=ENVIRONMENT)
        more(rig, depths, "depth of the fast camera's images", of=1)
        fast.kill()  # it does nothing but publish: a message is half written most likely
        fast.wait()
    camera.plug_in()
    more(rig, depths, "depth of the next camera's images")
    assert not process.ended and "Traceback" not in process.output


def test_a_camera_that_is_unplugged_is_an_error_until_it_is_back(
    rig: Rig, camera: Camera, start: Callable[..., Process]
):
    depths = rig.subscribe("/vggt/depth/image", Image)
    start(*TINY)
    more(rig, depths, "depth")
    camera.unplug()
    rig.wait_until(lambda: "no image" in rig.diagnostics()["/vggt: input"], "it is said", TIMEOUT)
    camera.plug_in()
    more(rig, depths, "depth again")
    rig.wait_until(
        lambda: "no image" not in rig.diagnostics()["/vggt: input"], "the error ends", TIMEOUT
    )


def test_ten_nodes_share_one_cold_cache(
    rig: Rig, camera: Camera, start: Callable[..., Process], tmp_path: Path
):
    names = [f"/n{i}" for i in range(10)]
    received = {name: rig.subscribe(f"{name}/vggt/depth/image", Image) for name in names}
    nodes = [
        start(*cached(tmp_path), "-r", f"__ns:={name}", "-r", f"{name}/image:=/image")
        for name in names
    ]
    for name, depths in received.items():
        rig.wait_until(lambda d=depths: len(d) >= 2, f"depth of {name}", 4 * TIMEOUT)
    assert not any(node.ended or "Traceback" in node.output for node in nodes)


# ---- the middleware -----------------------------------------------------------------------------


def in_own_mounts(mount: str) -> tuple[str, ...]:
    """A command that runs another one after a mount that it alone sees; skips where it cannot."""
    within = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    if not shutil.which("unshare") or subprocess.run([*within, "true"]).returncode:
        pytest.skip("this system mounts nothing of its own for a process (unshare)")
    return within


def test_a_node_without_shared_memory_is_reached_over_the_network(
    rig: Rig, camera: Camera, start: Callable[..., Process]
):
    depths = rig.subscribe("/vggt/depth/image", Image)
    within = in_own_mounts("mount -t tmpfs -o ro tmpfs /dev/shm")
    process = start(*TINY, within=within)
    more(rig, depths, "depth")
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "/dev/shm/fastrtps" not in maps, "the fault is there"


def test_a_node_that_was_lost_by_discovery_is_found_again(
    rig: Rig, camera: Camera, start: Callable[..., Process]
):
    """A process that stands still for longer than the lease of its participant, 20 seconds."""
    depths = rig.subscribe("/vggt/depth/image", Image)
    process = start(*TINY)
    more(rig, depths, "depth")
    process.signal(signal.SIGSTOP)
    rig.wait_until(
        lambda: camera.publisher.get_subscription_count() == 0, "it is given up", TIMEOUT
    )
    process.signal(signal.SIGCONT)
    more(rig, depths, "depth again")


# ---- disks --------------------------------------------------------------------------------------


def test_a_torn_cache_is_made_again(
    rig: Rig, camera: Camera, start: Callable[..., Process], tmp_path: Path
):
    depths = rig.subscribe("/vggt/depth/image", Image)
    first = start(*cached(tmp_path))
    more(rig, depths, "depth")
    first.kill()
    files = [path for path in (tmp_path / "cache").iterdir() if path.stat().st_size > 100]
    assert files
    for path in files:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    depths.clear()
    second = start(*cached(tmp_path))
    more(rig, depths, "depth, with a cache that is torn")
    assert not second.fatal_lines and "Traceback" not in second.output


def test_a_full_disk_for_cache_map_and_log_costs_what_cannot_be_kept_and_no_image(
    rig: Rig, camera: Camera, start: Callable[..., Process], tmp_path: Path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=600k tmpfs "{disk}" && mkdir "{disk}/cache"'
    within = in_own_mounts(mount)
    at = TINY.index("cache_dir:=''")
    options = [*TINY[:at], f"cache_dir:={disk}/cache", *TINY[at + 1 :]]
    depths = rig.subscribe("/vggt/depth/image", Image)
    process = start(
        *options, "-p", f"map_path:={disk}/map", "-p", "max_keyframes:=30",
        within=within, environment={"ROS_LOG_DIR": f"{disk}/log"},
    )  # fmt: skip
    more(rig, depths, "depth")
    rig.wait_until(
        lambda: "compiled programs cannot be kept" in rig.diagnostics()["/vggt: network"],
        "the full disk is said", TIMEOUT,
    )  # fmt: skip
    with suppress(OSError), Path(f"/proc/{process.pid}/root{disk}/filler").open("wb") as filler:
        while True:  # what is left is less than a program, and enough for a small map
            filler.write(bytes(512))
            filler.flush()
    answer = rig.call("save_map")
    assert not answer.success and "No space left" in answer.message
    more(rig, depths, "depth after that")
    assert "Traceback" not in process.output and not process.fatal_lines


@pytest.mark.parametrize("variable", ["HOME", "ROS_LOG_DIR"])
def test_a_home_that_cannot_be_written_is_named_at_the_start(
    start: Callable[..., Process], variable: str
):
    process = start("-p", "model:=tiny", environment={variable: "/proc/none"})
    assert process.wait() == 1
    (line,) = [line for line in process.output.splitlines() if "/proc/none" in line][-1:]
    assert "set " in line and "Traceback" not in process.output
