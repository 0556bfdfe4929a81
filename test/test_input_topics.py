# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Topics as robots offer them: of another type, latched, of either reliability, or with losses."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, PoseStamped
from nav_msgs.msg import Odometry
from node_rig import CAMERA, INPUT, PERIOD, START, K, Rig
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2
from vggt_ros.msg import QueryPoints

from vggt_ros.errors import UserError
from vggt_ros.ros.messages import camera_info_message, header
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.subscriptions.arrivals import Arrivals
from vggt_ros.ros.subscriptions.delivery import Delivery
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.subscriptions.no_image import MissingImages
from vggt_ros.ros.subscriptions.traffic import Traffic

pytestmark = pytest.mark.ros

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture
def driver() -> Iterator[Node]:
    """A process of its own, to Fast DDS: within one, a topic has one type."""
    context = Context()
    context.init()
    node = Node("driver", context=context)
    yield node
    node.destroy_node()
    context.shutdown()


def remapped(**topics: str) -> tuple[str, ...]:
    """Arguments of the command line that remap inputs."""
    rules = [("-r", f"{name}:={topic}") for name, topic in topics.items()]
    return tuple(word for rule in rules for word in rule)


def messages(rig: Rig) -> str:
    """What the statuses of the newest report say."""
    return "; ".join(status.message for status in rig.received["/diagnostics"][-1].status)


# ---- types --------------------------------------------------------------------------------------


OTHER_TYPES: dict[str, tuple[str, type, dict[str, Any], str]] = {
    "image, compressed": ("image", CompressedImage, {}, "set image_transport to compressed"),
    "image, cloud": ("image", PointCloud2, {}, "remap scale_points to that topic, and image to"),
    "image, raw": ("image", Image, {"image_transport": "compressed"}, "set image_transport to raw"),
    "baseline_image": (
        "baseline_image", CompressedImage, {"scale_source": "baseline"},
        "set image_transport to compressed",
    ),
    "camera_info": ("camera_info", Image, {}, "remap image to that topic, and camera_info to one"),
    "odom": ("odom", PoseStamped, {}, "remap odom to a topic of type nav_msgs/msg/Odometry"),
    "imu": ("imu", Odometry, {}, "remap odom to that topic, and imu to one of"),
    "scale_depth, cloud": (
        "scale_depth", PointCloud2, {"scale_source": "depth"}, "remap scale_points to it",
    ),
    "scale_depth, compressed": (
        "scale_depth", CompressedImage, {"scale_source": "depth"}, "republish",
    ),
    "scale_points": ("scale_points", Image, {"scale_source": "depth"}, "remap scale_depth to it"),
    "scale_depth_info": (
        "scale_depth_info", Imu, {"scale_source": "depth"}, "remap imu to that topic, and scale_d",
    ),
    "baseline_camera_info": (
        "baseline_camera_info", Image, {"scale_source": "baseline"}, "remap image to that topic",
    ),
    "mask, compressed": ("mask", CompressedImage, {}, "republish"),
    "initialpose": (
        "initialpose", PoseStamped, {}, "type geometry_msgs/msg/PoseWithCovarianceStamped",
    ),
    "queries": ("~/query_points", PointStamped, {}, "type vggt_ros/msg/QueryPoints"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_TYPES)
def test_a_topic_of_another_type_is_named_with_the_cure(
    rig: Rig, driver: Node, monkeypatch: pytest.MonkeyPatch, case: str
):
    name, kind, parameters, cure = OTHER_TYPES[case]
    monkeypatch.setattr(
        "vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.0 if name == "image" else np.inf
    )
    topic = "/robot/image/compressed" if kind is CompressedImage else "/robot/sensor"
    log = rig.subscribe("/rosout", Log, latched=True)
    publisher = driver.create_publisher(kind, topic, 10)
    rig.open(arguments=remapped(**{name: topic}), **parameters)
    carried = f"{name} is of another type: {topic} carries sensor_msgs/msg/{kind.__name__}"
    carried = carried if "sensor" in kind.__module__ else f"{topic} carries"
    report = rig.wait_for_diagnostics(carried, cure)
    assert "compressed/compressed" not in str(report)
    rig.wait_until(lambda: any(cure in line.msg for line in log), "it is logged")
    for _ in range(3):
        rig.received["/diagnostics"].clear()
        report = rig.wait_for_diagnostics(carried)
    assert sum(cure in line.msg for line in log) == 1
    driver.destroy_publisher(publisher)
    rig.wait_until(lambda: carried not in messages(rig), "the warning ends")


def test_rate_and_age_of_each_topic_are_reported(rig: Rig):
    node = rig.start()
    rig.publish_camera_info()
    report = rig.wait_for_diagnostics("camera_info age [s] 0.")
    assert report["odom age [s]"] == "none yet" and report["odom rate [Hz]"] == "0.0"
    assert "image rate [Hz]" in report and "imu rate [Hz]" in report
    assert node.health.snapshot().refusals.total() == 0


def test_a_weak_publisher_of_what_must_not_be_lost_is_named_with_its_settings(rig: Rig):
    weak = QoSProfile(depth=1, reliability=BEST_EFFORT)
    publisher = rig.peer.create_publisher(QueryPoints, "/asked", weak)
    rig.open(arguments=remapped(**{"~/query_points": "/asked"}))
    rig.wait_for_diagnostics(
        "~/query_points is subscribed as reliable, and of peer (best_effort, volatile) on /asked",
        "qos_overrides./asked.subscription.reliability to best_effort",
    )
    rig.peer.destroy_publisher(publisher)
    rig.wait_until(lambda: "is subscribed as reliable" not in messages(rig), "the warning ends")


def test_a_topic_that_is_remapped_and_silent_is_named_with_those_that_are_there(
    rig: Rig, driver: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vggt_ros.ros.subscriptions.input_topics.START_UP", 0.0)
    driver.create_publisher(Odometry, "/wheel/odometry", 10)
    rig.open(arguments=remapped(odom="/odometry"))
    rig.wait_for_diagnostics(
        "odom is remapped to /odometry, which has no publisher; topics of nav_msgs/msg/Odometry"
        " with one: /wheel/odometry"
    )
    driver.create_publisher(Odometry, "/odometry", 10)
    rig.wait_until(lambda: "which has no publisher" not in messages(rig), "the warning ends")


def test_two_inputs_of_different_types_on_one_topic_are_refused_by_name(rig: Rig):
    words = (
        "camera_info and image are both remapped to /camera, but one is a sensor_msgs/msg/Camera"
    )
    with pytest.raises(UserError, match=words):
        rig.open(arguments=remapped(image="/camera", camera_info="/camera"))


@pytest.mark.parametrize("topic", ["/robot/image", "/robot/image/compressed", "/robot/jpeg"])
def test_compressed_images_are_read_from_the_camera_s_name_or_their_own(rig: Rig, topic: str):
    own = "/robot/jpeg" if topic == "/robot/jpeg" else "/robot/image/compressed"
    camera = rig.peer.create_publisher(CompressedImage, own, 10)
    rig.open(arguments=remapped(image=topic), image_transport="compressed")
    rig.wait_until(lambda: camera.get_subscription_count() == 1, "it is matched")
    camera.publish(CompressedImage(header=header(START, CAMERA), data=b"no image"))
    rig.wait_for_diagnostics("images received 1")


@pytest.mark.parametrize(
    ("remap", "words"),
    [
        ("/robot/image", "on /robot/image: it has no publisher, but /robot/image/compressed has;"
         " set image_transport to compressed"),
        ("/nowhere", "on /nowhere: it has no publisher; remap image to one that has: /image"),
    ],
)  # fmt: skip
def test_a_topic_without_publisher_is_explained_by_what_else_is_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, remap: str, words: str
):
    monkeypatch.setattr("vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.0)
    rig.peer.create_publisher(CompressedImage, "/robot/image/compressed", 10)
    rig.open(arguments=remapped(image=remap))
    rig.wait_for_diagnostics(words)


# ---- durability ---------------------------------------------------------------------------------


def test_a_camera_info_latched_and_sent_once_before_the_start_is_used(rig: Rig):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.peer.destroy_publisher(rig.camera_infos)
    publisher = rig.peer.create_publisher(CameraInfo, "/camera_info", latched)
    height, width = INPUT
    publisher.publish(camera_info_message(header(START, CAMERA), K, width=width, height=height))
    node = rig.start(intrinsics="camera_info")
    infos = rig.subscribe_matched("/vggt/depth/camera_info", CameraInfo)
    camera = node.inference.camera  # type: ignore[attr-defined]
    rig.wait_until(lambda: camera.calibration is not None, "the calibration arrives")
    rig.infer(0)
    rig.wait_until(lambda: infos, "camera_info")
    assert infos[0].k[0] == pytest.approx(K[0, 0] * 56 / 64)


def test_who_does_not_keep_messages_sees_one_subscription_that_fits(rig: Rig):
    rig.start()
    rig.publish_camera_info()
    (mine,) = rig.peer.get_subscriptions_info_by_topic("/camera_info")
    assert mine.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_an_image_published_once_before_the_start_is_named(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.0)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.peer.create_publisher(Image, "/still", latched).publish(Image())
    rig.open(arguments=remapped(image="/still"), image_reliability="auto")
    rig.wait_for_diagnostics("(transient local); images from before the start are not read")


# ---- reliability --------------------------------------------------------------------------------


def reliability_of(rig: Rig, topic: str = "/image") -> list[ReliabilityPolicy]:
    """Of the node's subscriptions, as its peers see them."""
    return [p.qos_profile.reliability for p in rig.peer.get_subscriptions_info_by_topic(topic)]


def test_auto_takes_what_the_publishers_offer_and_follows_when_they_change(rig: Rig):
    rig.peer.destroy_publisher(rig.images)
    rig.open(image_reliability="auto")
    rig.wait_until(lambda: reliability_of(rig) == [BEST_EFFORT], "fits everybody")
    rig.images = rig.peer.create_publisher(Image, "/image", 10)
    rig.wait_until(lambda: reliability_of(rig) == [RELIABLE], "a reliable camera came later")
    rig.wait_until(lambda: rig.images.get_subscription_count() == 1, "it is matched")
    rig.infer(0)
    weak = QoSProfile(depth=10, reliability=BEST_EFFORT)
    driver = rig.peer.create_publisher(Image, "/image", weak)
    rig.wait_until(lambda: reliability_of(rig) == [BEST_EFFORT], "a second one is best effort")
    reliable, rig.images = rig.images, driver
    rig.wait_until(lambda: rig.images.get_subscription_count() == 1, "it is matched")
    rig.infer(1)
    rig.peer.destroy_publisher(driver)
    rig.wait_until(lambda: reliability_of(rig) == [RELIABLE], "the first one is alone again")
    rig.images = reliable
    rig.wait_until(lambda: rig.images.get_subscription_count() == 1, "it is matched")
    rig.infer(2)
    assert rig.engine.inferences[-1] == (0, 1, 2)


def test_auto_is_the_default_and_holds_for_other_images_too(rig: Rig):
    rig.peer.create_publisher(Image, "/baseline_image", 10)
    rig.peer.create_publisher(Image, "/scale_depth", 10)
    parameters: dict[str, Any] = {"scale_source": "depth, baseline"}
    assert Parameters().image_reliability == "auto"
    rig.start(image_reliability="auto", **parameters)
    for topic in ("/image", "/baseline_image", "/scale_depth"):
        rig.wait_until(lambda t=topic: reliability_of(rig, t) == [RELIABLE], topic)


@pytest.mark.parametrize("asked", ["best_effort", "reliable"])
def test_what_the_user_asks_for_is_kept(rig: Rig, asked: str):
    ours = "reliable" if asked == "best_effort" else "best_effort"
    override: dict[str, Any] = {"qos_overrides./image.subscription.reliability": asked}
    rig.start(image_reliability=ours, **override)
    rig.infer(0)
    assert reliability_of(rig) == [ReliabilityPolicy[asked.upper()]]


def test_a_reliability_that_there_is_not_is_refused(rig: Rig):
    override: dict[str, Any] = {"qos_overrides./image.subscription.reliability": "best"}
    with pytest.raises(UserError, match="is 'best'; choose one of: auto, best_effort, reliable"):
        rig.open(**override)


def test_a_reliable_subscription_to_a_weak_publisher_is_named(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.0)
    rig.peer.create_publisher(Image, "/weak", QoSProfile(depth=1, reliability=BEST_EFFORT))
    rig.open(arguments=remapped(image="/weak"), image_reliability="reliable")
    rig.wait_for_diagnostics(
        "(best_effort, volatile), but subscribed as reliable; set image_reliab"
    )


# ---- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "cure"),
    [
        ("reliable", "the driver, the network or this computer loses them"),
        ("best_effort", "their publisher is reliable: set image_reliability to auto"),
    ],
)
def test_images_that_do_not_arrive_are_a_warning_with_figures_until_they_do(
    rig: Rig, asked: str, cure: str
):
    rig.start(image_reliability=asked)
    arrived = [i for i in range(180) if i % 6 in (0, 1)]
    for i in arrived:
        rig.publish(i)
    words = f"image is received in part: {len(arrived) - 1} of 175 messages arrived on /image"
    report = rig.wait_for_diagnostics(words, cure)
    assert "(100 ms apart)" in str(report)
    for i in range(180, 240):
        rig.publish(i)
    rig.wait_until(lambda: "received in part" not in messages(rig), "the warning ends")


def test_two_cameras_on_one_topic_are_named_and_their_gaps_are_no_losses(rig: Rig):
    """Of one rate, 70 ms apart: gaps of 70 and 430 ms, as of one camera at 14 Hz with losses."""
    rig.start()
    other = rig.peer.create_publisher(Image, "/image", 10)
    rig.wait_until(lambda: other.get_subscription_count() == 1, "the other camera is matched")
    for i in range(20):
        for late in (0, 70_000_000):
            stamp = START + i * 5 * PERIOD + late
            head = {"header": header(stamp, CAMERA)}
            rig.images, other = other, rig.images
            rig.publish(0, **head)
    report = rig.wait_for_diagnostics("image has 2 publishers on /image (peer, peer), whose mes")
    assert "received in part" not in str(report)
    rig.peer.destroy_publisher(other)
    rig.wait_until(lambda: "2 publishers" not in messages(rig), "the warning ends")


RANDOM = np.random.default_rng(22)


def found_of(stamps: list[int]):
    """What `Arrivals` finds for these stamps."""
    arrivals = Arrivals()
    for stamp in stamps:
        arrivals.add(int(stamp))
    return arrivals.found


@pytest.mark.parametrize("share", [1.0, 0.7, 0.31])
@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_the_share_that_arrives_is_known_from_stamps(share: float, jitter: float):
    period = 33_333_333
    noise = RANDOM.normal(0, jitter * period, 400)
    stamps = [START + i * period + noise[i] for i in range(400) if RANDOM.random() < share]
    found = found_of(stamps)
    assert found is not None
    expected = (stamps[-1] - stamps[-61]) / period
    assert found.sent == pytest.approx(expected, rel=0.1) and found.count == 60
    assert found.period_ns == pytest.approx(period, rel=0.1)


def test_cameras_without_losses_are_none_or_whole():
    steps = {
        "bursts": RANDOM.exponential(1.0, 400),
        "pauses": np.where(np.arange(400) % 10, 1.0, 100.0),
        "slower in the dark": np.where(np.arange(400) < 370, 1.0, 2.0),
        "few": np.ones(20),
        "stamps back": np.where(np.arange(400) % 50, 1.0, -40.0),
    }
    for name, periods in steps.items():
        found = found_of(list(START + np.cumsum(periods * PERIOD).astype(np.int64)))
        assert found is None or found.count >= 0.6 * found.sent, name


@pytest.mark.parametrize("lost", [0, 4])
def test_images_that_are_left_in_the_middleware_are_no_losses(lost: int):
    arrivals, left = Arrivals(), 9 - lost
    for i in range(61):
        arrivals.add(START + i * 10 * PERIOD, Delivery(left, lost))
    found = arrivals.found
    assert found == (60 * (10 - lost), 600, PERIOD)


def test_the_rate_is_that_of_all_images_although_few_are_read():
    times = iter([10.0, 11.0, 12.0, 12.0])
    traffic = Traffic(lambda: next(times))
    traffic.add()
    for _ in range(2):
        traffic.add(Delivery(left=9, waited=0.05))
    assert dict(traffic.rows("image")) == {"image rate [Hz]": "10.3", "image age [s]": "0.1"}


def test_each_outage_of_a_camera_is_logged_and_one_that_flickers_now_and_then(
    driver: Node, monkeypatch
):
    lines, clock = [], SimpleNamespace(now=0.0)
    inputs = InputTopics(driver, Parameters(), print, is_on=False, fail=print)
    image = inputs.subscribe_to_images("image", print)
    monkeypatch.setattr(type(image), "mismatch", "its publisher has gone")
    missing = MissingImages(driver, image, lines.append, lambda: clock.now)

    def wait(seconds: int, without_image: float) -> int:
        """A report a second; returns how many lines there are."""
        for _ in range(seconds):
            clock.now += 1.0
            missing.diagnose(without_image)
        return len(lines)

    assert wait(3600, 9.0) == 1, "once an outage"
    assert wait(2, 0.1) == 1
    assert wait(10, 9.0) == 2, "hours later"
    for _ in range(14):
        wait(10, 0.1)
        assert wait(10, 9.0) == 2, "it flickers"
    wait(20, 0.1)
    assert wait(1, 9.0) == 3
