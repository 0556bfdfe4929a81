# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a running node, shortly; the long ones are in `test_chaos.py`."""

from typing import Any

import numpy as np
import pytest
from node_rig import CAMERA, INPUT, PERIOD, START, Rig
from PIL import Image as PillowImage
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from robot_rig import START as FIRST
from robot_rig import SimulatedRobot
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from test_encodings import compressed

from vggt_ros.errors import UserError
from vggt_ros.ros.messages import header, image_message, time_message
from vggt_ros.ros.worker import Worker, ask

pytestmark = [pytest.mark.ros, pytest.mark.slow]

TIMEOUT = 60.0  # seconds; only ever waited for by a test that fails
OUTCOMES = ("used", "dropped", "skipped", "images refused", "waiting for a program", "discarded")


def accounted(rig: Rig) -> bool:
    """Whether each image that was received has one outcome."""
    return rig.count("received") == sum(rig.count(name) for name in OUTCOMES)


def test_a_burst_of_500_images_is_accounted_for_and_the_newest_is_inferred(rig: Rig):
    node = rig.start()
    rig.infer(0)
    rig.engine.gate.clear()  # an inference takes as long as the burst does
    (on_image,) = (s.callback for s in node.subscriptions if s.topic_name == "/image")
    for i in range(1, 501):
        pixels = np.full((*INPUT, 3), i % 251, np.uint8)
        on_image(image_message(header(START + i * PERIOD // 1000, CAMERA), pixels))
    rig.engine.gate.set()
    rig.wait_until(lambda: accounted(rig), "all have an outcome")
    assert rig.count("received") == 501 and rig.count("dropped") >= 498
    assert rig.count("used") + rig.count("dropped") == 501
    done = rig.count("inferences")
    rig.publish(20)
    rig.wait_until(lambda: rig.count("inferences") > done, "the next image is inferred")


def test_compressed_images_that_are_dropped_are_never_decoded(rig: Rig):
    """Decoded, each would be refused: they are no images."""
    rig.open(image_transport="compressed")
    publisher = rig.peer.create_publisher(CompressedImage, "/image/compressed", 10)
    rig.wait_until(publisher.get_subscription_count, "the node subscribes")

    def send(i: int, data: bytes) -> None:
        head = header(START + i * PERIOD, CAMERA)
        publisher.publish(CompressedImage(header=head, format="jpeg", data=data))
        rig.wait_until(lambda: rig.count("received") == i + 1, f"image {i} arrives")

    jpeg = compressed(PillowImage.new("RGB", INPUT[::-1], (200, 90, 13)), "JPEG")
    rig.engine.inside.clear()
    rig.engine.gate.clear()
    send(0, jpeg)
    assert rig.engine.inside.wait(TIMEOUT)
    for i in range(1, 6):
        send(i, b"no image")
    send(6, jpeg)
    rig.engine.gate.set()
    rig.wait_until(lambda: accounted(rig), "all have an outcome")
    found = {name: rig.count(name) for name in ("used", "dropped", "images refused")}
    assert found == {"used": 2, "dropped": 5, "images refused": 0}
    send(7, b"no image")  # this one is the newest, and is read
    rig.wait_until(lambda: rig.count("images refused") == 1, "it is refused")


def test_an_update_that_cannot_be_published_is_a_warning_until_one_can(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    node = rig.start()
    rig.infer(0)
    with monkeypatch.context() as broken:
        broken.setattr(node.outputs, "publish", lambda _: 1 / 0)
        for count in (1, 2):  # the second only then: the newest image replaces one that waits
            rig.publish(count)
            rig.wait_for_diagnostics(
                f"the last {count} updates were not published, or in part: "
                "ZeroDivisionError: division by zero"
            )
    rig.infer(3)
    rig.wait_until(lambda: "not published" not in rig.status("outputs").message, "the warning ends")
    assert not rig.failures


def test_a_message_that_cannot_be_taken_in_is_a_warning_until_one_can(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    rig.start()
    with monkeypatch.context() as broken:
        broken.setattr("vggt_ros.imaging.calibration.Calibration.of", lambda _: 1 / 0)
        rig.camera_infos.publish(CameraInfo(width=64, height=48))
        rig.wait_for_diagnostics(
            "the last 1 messages on /camera_info are not used: ZeroDivisionError: division by zero"
        )
    rig.infer(0)
    rig.publish_camera_info()
    rig.wait_until(lambda: "not used" not in rig.status("input").message, "the warning ends")
    assert not rig.failures


def test_a_question_that_fails_is_answered_and_the_thread_goes_on():
    worker, failures = Worker[int](), list[BaseException]()
    worker.start(lambda: None, lambda _: None, failures.append)
    try:
        with pytest.raises(UserError, match="it failed: ZeroDivisionError: division by zero"):
            ask(worker, lambda: 1 / 0, TIMEOUT)
        assert ask(worker, lambda: 7, TIMEOUT) == 7
    finally:
        assert worker.stop(TIMEOUT)
    assert not failures


def test_an_image_that_a_reset_discards_is_counted(rig: Rig):
    rig.start()
    rig.infer(0)
    rig.engine.inside.clear()
    rig.engine.gate.clear()
    rig.publish(1)
    assert rig.engine.inside.wait(TIMEOUT)
    rig.publish(2)  # waits behind the inference
    assert rig.call("reset").success
    rig.engine.gate.set()
    rig.wait_until(lambda: accounted(rig), "all have an outcome")
    assert rig.count("discarded") == 1
    rig.infer(3)


def test_a_storm_of_parameters_is_answered_one_by_one_and_images_go_on(rig: Rig):
    node = rig.start()
    client = rig.peer.create_client(SetParameters, "/vggt/set_parameters")
    assert client.wait_for_service(TIMEOUT)
    storm: list[tuple[str, Any, bool]] = [
        ("min_confidence", 0.3, True), ("scan_max_range", 5e3, False), ("max_rate_hz", 0.0, True),
        ("depth_resolution", "input", True), ("depth_resolution", "none", False),
        ("model", "vggt-1b", False), ("path_length", 5, True), ("path_length", 0, False),
        ("scan_min_height", 99.0, False), ("map_voxel", 0.2, False), ("no_such", 1, False),
        ("min_confidence", "high", False), ("depth_resolution", "network", True),
    ]  # fmt: skip
    asked = []
    for i in range(10):
        for name, value, _ in storm:
            request = SetParameters.Request(
                parameters=[Parameter(name, value=value).to_parameter_msg()]
            )
            asked.append(client.call_async(request))
        rig.infer(i)
    rig.wait_until(lambda: all(each.done() for each in asked), "all are answered")
    for i, future in enumerate(asked):
        (result,) = future.result().results
        name, value, taken = storm[i % len(storm)]
        assert result.successful is taken, (name, value, result.reason)
        assert result.successful or result.reason, "a refusal has its reason"
    now = node.parameters.now
    assert (now.min_confidence, now.depth_resolution, now.path_length) == (0.3, "network", 5)
    assert accounted(rig) and not rig.failures


def test_images_of_a_clock_that_is_stepped_both_ways_are_used_again(rig: Rig):
    """As by NTP at the start of a robot: an hour ahead, and back again."""
    rig.start()
    rig.infer(0, 1)
    hour = 36_000 * PERIOD // 10**8 * 10**8
    stamps = [START + 2 * PERIOD + hour + i * PERIOD for i in range(7)]
    stamps += [START + 3 * PERIOD + i * PERIOD for i in range(7)]
    for ns in stamps:
        received = rig.count("received")
        rig.images.publish(image_message(header(ns, CAMERA), np.full((*INPUT, 3), 9, np.uint8)))
        rig.wait_until(lambda n=received: rig.count("received") > n, "it arrives")
        rig.wait_until(lambda: accounted(rig), "it has an outcome")
    assert rig.count("images refused") == 10, "five are refused at each step, then images go on"
    assert rig.count("used") == 6 and not rig.failures


@pytest.mark.parametrize("simulated", [True, False])
def test_a_bag_that_is_played_in_a_loop_starts_a_map_each_time_and_says_so(
    rig: Rig, simulated: bool
):
    """Odometry of the second time is taken too, though its stamps are those of the first."""
    robot, loops = SimulatedRobot(rig, frames=20), 3
    clock = rig.peer.create_publisher(Clock, "/clock", 10)
    node = robot.start(use_sim_time=simulated, tf_mode="none", scale_source="odometry")
    rig.wait_until(lambda: clock.get_subscription_count() >= simulated, "/clock is matched")
    words = "the clock went back" if simulated else "time went back"

    def count(words: str) -> int:
        return sum(n for text, n in node.health.snapshot().notices.items() if words in text)

    for loop in range(loops):
        for i in range(4, 20):
            clock.publish(Clock(clock=time_message(FIRST + i * PERIOD)))
            if simulated:
                rig.wait_until(lambda n=loop: count(words) == n, "the clock goes back")
            robot.publish_odometry(i)
            done, refused = rig.count("inferences"), rig.count("images refused")
            robot.publish_image(i)
            rig.wait_until(
                lambda d=done, r=refused: (
                    rig.count("inferences") > d or rig.count("images refused") > r
                ),
                f"image {i} of loop {loop} is used or refused",
            )
    assert count(words) == loops - 1
    assert rig.count("images refused") == (0 if simulated else 5 * (loops - 1))
    assert count("odometry is refused") <= (0 if simulated else 6 * (loops - 1))


@pytest.mark.parametrize(
    ("mode", "child", "tolerance"),
    [
        ("map_to_odom", "odom", 0.0),
        ("map_to_odom", "odom", 0.5),
        ("odom_to_base", "base_link", 0.0),
        ("camera", CAMERA, 0.0),
    ],
)
def test_transforms_are_sent_again_where_a_bag_is_played_in_a_loop(
    rig: Rig, mode: str, child: str, tolerance: float
):
    robot = SimulatedRobot(rig, frames=20)
    frames = {"map_to_odom": "map", "odom_to_base": "vggt_world", "camera": "vggt_world"}
    node = robot.start(
        described=mode != "camera", tf_mode=mode, world_frame=frames[mode],
        transform_tolerance=tolerance,
    )  # fmt: skip
    parent = "odom" if mode == "odom_to_base" else frames[mode]
    last = FIRST + 13 * PERIOD
    for loop in range(2):
        for i in range(14):
            if mode == "map_to_odom":
                robot.publish_transform(i)
                robot.publish_odometry(i)
            received = rig.count("received")
            robot.publish_image(i)
            rig.wait_until(lambda n=received: rig.count("received") > n, "it arrives")
            rig.wait_until(lambda: accounted(rig), "it has an outcome")
        rig.wait_until(
            lambda n=loop: robot.stamps_of(parent, child).count(last) > n,
            f"{parent} -> {child} at the last image of loop {loop}, {node.transforms.state}",
        )
