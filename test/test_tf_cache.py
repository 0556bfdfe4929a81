# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A busy /tf: messages are kept as received, read without rclpy's objects, subscribed to once."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from node_rig import START, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.tf import tf_messages
from vggt_ros.ros.tf.tf_cache import KEPT_MESSAGES, TfCache, open_frames
from vggt_ros.ros.tf.tf_messages import Reader, pose_of, received

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def transform(parent: str, child: str, ns: int = START, x: float = 1.0) -> TransformStamped:
    pose = np.eye(4)
    pose[0, 3] = x
    return transform_message(header(ns, parent), child, pose)


def chain(count: int, ns: int) -> TFMessage:
    """A robot of so many links, each a metre further along x."""
    return TFMessage(transforms=[transform(f"link_{i}", f"link_{i + 1}", ns) for i in range(count)])


@pytest.mark.parametrize("seed", range(20))
def test_packed_messages_are_read_as_rclpy_reads_them(seed: int):
    random = np.random.default_rng(seed)
    reader = Reader(TFMessage)
    names = ["", "a", "/b", "odom", "camera_optical", "größe", "x" * 7, "y" * 8]
    for _ in range(8):  # the layouts of some are known from the ones before
        transforms: list[TransformStamped] = []
        for _ in range(random.integers(0, 5)):
            found = transform(*random.choice(names, 2).tolist(), ns=int(random.integers(0, 2**60)))
            t, q = found.transform.translation, found.transform.rotation
            t.x, t.y, t.z, q.x, q.y, q.z, q.w = random.standard_normal(7).tolist()
            transforms.append(found)
        read = list(reader.read(serialize_message(TFMessage(transforms=transforms))))
        for one, other in zip(read, received(transforms), strict=True):
            assert one[:3] == other[:3]
            there = one.packed.pose(), other.packed.pose()
            assert (there[0] is None) == (there[1] is None)
            if there[0] is not None:
                np.testing.assert_array_equal(*there)


def test_the_numbers_of_a_packed_transform_are_those_of_the_message():
    found = transform("odom", "base", x=2.5)
    (read,) = Reader(TFMessage).read(serialize_message(TFMessage(transforms=[found])))
    expected = pose_of(found.transform.translation, found.transform.rotation)
    np.testing.assert_array_equal(read.packed.pose(), expected)


def test_a_damaged_message_is_left_out():
    raw = serialize_message(chain(3, START))
    whole = len(list(Reader(TFMessage).read(raw)))
    assert whole == 3
    for size in range(0, len(raw) - 8, 5):
        assert len(list(Reader(TFMessage).read(raw[:size]))) in (0, 3)
    reader = Reader(TFMessage)
    list(reader.read(raw))
    wrong = bytearray(raw)
    wrong[16:20] = (2**31).to_bytes(4, "little")  # the length of the first name
    assert list(reader.read(bytes(wrong))) == []
    assert len(list(reader.read(raw))) == 3


def test_big_endian_messages_are_left_to_rclpy(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def convert(raw: bytes, kind: type) -> TFMessage:
        asked.append(raw)
        return TFMessage(transforms=[transform("a", "b")])

    monkeypatch.setattr(tf_messages, "deserialize_message", convert)
    (found,) = Reader(TFMessage).read(b"\x00\x00\x00\x00" + bytes(8))
    assert found.child == "b" and len(asked) == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("field, value", [("w", np.nan), ("w", 0.0), ("x", 1e200), ("x", np.inf)])
def test_one_damaged_transform_neither_ends_a_link_nor_spoils_the_others(field: str, value: float):
    said: list[str] = []
    tree = TfCache(said.append)

    def damaged(parent: str, ns: int) -> TransformStamped:
        found = transform(parent, "base", START + ns)
        part = found.transform
        setattr(part.rotation if field == "w" else part.translation, field, value)
        return found

    good = [transform("odom", "base", START + ns, x=ns) for ns in (0, 30)]
    tree.add([good[0], damaged("odom", 10), damaged("nowhere", 20), good[1]], is_static=False)
    found = tree.lookup("odom", "base", START + 10)
    assert tree.parent("base") == "odom"
    assert found is not None and found[0, 3] == pytest.approx(10.0)
    assert [text.split(" is not finite")[0] for text in said] == [
        "/tf: 'nowhere' -> 'base'", "/tf: 'odom' -> 'base'"
    ]  # fmt: skip


def test_a_damaged_static_transform_does_not_replace_the_one_before():
    said: list[str] = []
    tree = TfCache(said.append)
    tree.add([transform("base", "camera", x=2.0)], is_static=True)
    tree.add([transform("base", "camera", x=1e200)], is_static=True)
    found = tree.lookup("base", "camera", START)
    assert found is not None and found[0, 3] == 2.0
    assert said and "'base' -> 'camera' is not finite, has a position beyond 1e+07 m" in said[0]


def test_late_messages_are_sorted_in():
    tree = TfCache()
    for ns in (20, 0, 10, 10):
        tree.add([transform("odom", "base", START + ns, x=ns)], is_static=False)
    assert tree.stamps("base") == (START, START + 10, START + 20)
    found = tree.lookup("odom", "base", START + 15)
    assert found is not None and found[0, 3] == pytest.approx(15.0)


def test_a_recording_that_starts_again_is_followed_and_a_stray_is_not():
    tree = TfCache()
    second = 10**9

    def add(*seconds: int) -> None:
        for ns in seconds:
            tree.add([transform("odom", "base", START + ns * second)], is_static=False)

    add(58, 59, 60, 0, 61)
    assert tree.lookup("odom", "base", START + 59 * second) is not None, "one stray"
    add(0, 1, 2, 3)
    assert tree.lookup("odom", "base", START + 3 * second) is not None, "from the start again"
    assert tree.stamps("base") == (START + 2 * second, START + 3 * second)


def test_messages_are_kept_until_a_frame_is_asked_for_and_none_is_converted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    def never(*_args) -> None:
        raise AssertionError("converted")

    monkeypatch.setattr(tf_messages, "deserialize_message", never)
    frames = open_frames(rig.peer, 0.0)
    assert frames is not None
    publisher = rig.peer.create_publisher(TFMessage, "/tf", 2000)
    rig.wait_until(lambda: publisher.get_subscription_count() == 1, "/tf is matched")
    step = 5_000_000
    for i in range(600):
        publisher.publish(serialize_message(chain(30, START + i * step)))
    last = START + 599 * step
    rig.wait_until(lambda: last in frames.tree.stamps("link_30"), "all of them")
    assert len(frames.tree.stamps("link_1")) == 600
    found = frames.lookup("link_0", "link_30", START + step // 2)
    assert found is not None and found[0, 3] == pytest.approx(30.0)


def test_the_node_subscribes_once(rig: Rig):
    rig.start()
    for topic in ("/tf", "/tf_static"):
        rig.wait_until(lambda t=topic: rig.peer.count_subscribers(t) > 0, topic)
        names = [info.node_name for info in rig.peer.get_subscriptions_info_by_topic(topic)]
        assert names == ["vggt"]


@pytest.mark.parametrize(
    ("topic", "qos", "words"),
    [
        (
            "/tf",
            QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT),
            "of peer (best_effort, volatile) on /tf nothing arrives: it is read as reliable",
        ),
        (
            "/tf_static",
            QoSProfile(depth=10),
            "of peer (reliable, volatile) on /tf_static nothing arrives: it is read as reliable",
        ),
    ],
)
def test_frames_that_do_not_arrive_by_their_qos_are_named(
    rig: Rig, topic: str, qos: QoSProfile, words: str
):
    """No executor runs rclpy's own event for it."""
    rig.start()
    rig.peer.create_publisher(TFMessage, topic, 10 if topic == "/tf" else LATCHED)
    publisher = rig.peer.create_publisher(TFMessage, topic, qos)
    status = rig.wait_for_status("tf", lambda s: words in s.message)
    assert status.level == DiagnosticStatus.WARN
    rig.peer.destroy_publisher(publisher)
    rig.wait_for_status("tf", lambda s: "nothing arrives" not in s.message)


def test_what_the_node_sends_itself_has_no_parent_of_others():
    tree = TfCache()
    ours = transform("world", "camera", START)
    tree.expect([ours])
    tree.add([ours], is_static=False)
    assert tree.parent("camera") is None
    tree.add([ours], is_static=False)  # the same once more is of another node
    assert tree.parent("camera") == "world"


def test_all_that_the_node_sent_while_no_image_came_is_its_own():
    """map -> odom sent again for as long as the camera pauses: the middleware kept so many."""
    tree = TfCache()
    ours = [transform("map", "odom", START + i * 20_000_000) for i in range(KEPT_MESSAGES)]
    for found in ours:
        tree.expect([found])
    tree.add(ours, is_static=False)
    assert tree.parents == {}


def test_transforms_after_a_time_that_came_back_are_forgotten():
    """A simulation that was reset: the robot is elsewhere at stamps that were known already."""
    cache = TfCache()
    stamps = [START + i * 100_000_000 for i in range(10)]
    for ns in stamps:
        cache.add([transform("odom", "base", ns, x=1.0)], is_static=False)
    cache.add([transform("base", "camera")], is_static=True)
    cache.forget_from(stamps[2])
    assert cache.stamps("base") == tuple(stamps[:2])
    assert cache.lookup("odom", "base", stamps[5]) is None
    for ns in (stamps[2], stamps[6]):
        cache.add([transform("odom", "base", ns, x=5.0)], is_static=False)
    found = cache.lookup("odom", "camera", stamps[5])
    assert found is not None and found[0, 3] == 6.0


def test_a_frame_with_two_parents_is_said_once_it_goes_to_and_fro():
    notices: list[str] = []
    tree = TfCache(notices.append)
    for i, parent in enumerate(["odom", "footprint"]):  # a tree may be joined otherwise once
        tree.add([transform(parent, "base", START + i)], is_static=False)
    assert not notices
    tree.add([transform("odom", "base", START + 2)], is_static=False)
    (notice,) = notices
    assert notice.startswith("/tf has two parents of 'base': 'footprint' and 'odom' by turns")
