# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is promised to other nodes is what a running node shows, and what the files say."""

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_rig import Rig
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rig_robot import RigRobot
from robot_rig import SimulatedRobot

from vggt_ros.ros import interface, interface_files
from vggt_ros.ros.frame_names import CONNECTED
from vggt_ros.ros.interface import INPUTS, OUTPUTS, RCLPY_OUTPUTS, STATUSES, Topic, of_rig
from vggt_ros.ros.subscriptions.topic_types import type_name

pytestmark = pytest.mark.ros

ALL = {"scale_source": "fixed,baseline,depth", "fixed_scale": 2.0, "use_sim_time": True}
ALL |= {"autostart": False}  # with a bond; such a node is started by `start_now`
REMAPPED = {"scale_depth": "/sensor/depth", "baseline_image": "/right/image"}
BESIDE = {"/sensor/camera_info", "/right/camera_info"}  # calibrations beside those images
ARGUMENTS = tuple(x for name, topic in REMAPPED.items() for x in ("-r", f"{name}:={topic}"))


def resolved(name: str, node: str = "/vggt") -> str:
    """As ROS and SROS2 expand the names of a node."""
    name = REMAPPED.get(name, name)
    if name.startswith("~"):
        return node + name[1:]
    return name if name.startswith("/") else f"{node.rpartition('/')[0]}/{name}"


def types(topics: Iterable[Topic]) -> dict[str, str]:
    return {resolved(topic.name): topic.kind for topic in topics}


def in_graph(found: list[tuple[str, list[str]]]) -> dict[str, str]:
    """Names and types of a node's entities, each of one type."""
    assert all(len(kinds) == 1 for _, kinds in found)
    return {name: kind for name, (kind,) in found}


def test_a_running_node_has_exactly_the_declared_topics_and_services(rig: Rig):
    node = rig.open(arguments=ARGUMENTS, **ALL)
    node.start_now()
    read = in_graph(node.get_subscriber_names_and_types_by_node("vggt", "/"))
    published = in_graph(node.get_publisher_names_and_types_by_node("vggt", "/"))
    answered = in_graph(node.get_service_names_and_types_by_node("vggt", "/"))
    asked = node.get_client_names_and_types_by_node("vggt", "/")
    assert read == {**types(INPUTS), **dict.fromkeys(BESIDE, interface.INFO)}
    assert published == types((*OUTPUTS, *RCLPY_OUTPUTS))
    services = (*interface.SERVICES, *interface.RCLPY_SERVICES)
    assert answered == {resolved(service.name): service.kind for service in services}
    assert asked == []


def test_topics_whose_condition_is_not_met_do_not_exist(rig: Rig):
    node = rig.start(tf_mode="none")
    read = in_graph(node.get_subscriber_names_and_types_by_node("vggt", "/"))
    named = {"tf2_msgs is installed", ""}
    assert read == types(topic for topic in INPUTS if topic.needs in named)
    published = in_graph(node.get_publisher_names_and_types_by_node("vggt", "/"))
    assert published == types(t for t in (*OUTPUTS, *RCLPY_OUTPUTS) if not t.needs)


def test_compressed_images_are_read_below_the_declared_topics(rig: Rig):
    node = rig.open(image_transport="compressed", scale_source="baseline")
    read = in_graph(node.get_subscriber_names_and_types_by_node("vggt", "/"))
    for name in ("image", "baseline_image"):
        assert read[f"/{name}/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert f"/{name}" not in read


def test_quality_of_service_is_as_declared(rig: Rig):
    node = rig.open(arguments=ARGUMENTS, image_reliability="auto", **ALL)
    node.start_now()
    heard = {"/image", "/camera_info"}  # the peer's publishers, which are reliable

    def declared(topic: Topic) -> tuple:
        auto = "reliable" if resolved(topic.name) in heard else "best_effort"
        reliability = auto if topic.reliability == "auto" else topic.reliability
        return resolved(topic.name), topic.kind, reliability, topic.kept, topic.depth

    def found(endpoints: Iterable) -> set[tuple]:
        return {
            (
                endpoint.topic_name,
                type_name(endpoint.msg_type),
                ReliabilityPolicy(endpoint.qos_profile.reliability).name.lower(),
                endpoint.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                endpoint.qos_profile.depth,
            )
            for endpoint in list(endpoints)
        }

    rig.wait_until(
        lambda: ("/image", interface.IMAGE, "reliable", False, 5) in found(node.subscriptions),
        "the publisher of images is followed",
    )
    read = {row for row in found(node.subscriptions) if row[0] not in BESIDE}
    assert read == {declared(topic) for topic in INPUTS}
    published = {declared(topic) for topic in (*OUTPUTS, *RCLPY_OUTPUTS)}
    # Not publishers of rclpy's node, but of the layer below.
    below = {row for row in published if row[0] in ("/rosout", "/vggt/transition_event")}
    assert found(node.publishers) == published - below
    (endpoint,) = [
        found
        for found in node.get_publishers_info_by_topic("/rosout")
        if found.node_name == node.get_name()
    ]
    assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert endpoint.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_diagnostics_have_the_declared_statuses_and_keys(rig: Rig):
    rig.engine.layout = "view_time"  # which has more keys
    node = rig.start(scale_source="fixed", fixed_scale=2.0)
    rig.infer(0, 1, 2, 3)
    for kind in ("first", "second", "third"):
        node.health.refuse(f"{kind}: with figures")
        node.health.notice(f"{kind}: with figures")
    rig.wait_for_diagnostics("third last error", "third last notice", "scale sigma")
    report = rig.received["/diagnostics"][-1].status
    assert [s.name for s in report] == ["/vggt", *(f"/vggt: {s.part}" for s in STATUSES[1:])]
    unseen = unseen_keys(report, {key for declared in STATUSES for key in declared.keys})
    assert unseen - OF_A_RIG == {"second camera"}  # which needs one: test_node_second_camera.py


def unseen_keys(report: Iterable[DiagnosticStatus], needed: set[str]) -> set[str]:
    """Keys of some settings or events that a report lacks; it has all others, and no more."""
    unseen = set()
    for declared, shown in zip(STATUSES, report, strict=True):
        keys = {pair.key for pair in shown.values}
        assert keys >= set(declared.keys) & needed
        rules = {key: re.sub("[A-Z]{2,}", ".+", re.escape(key)) for key in declared.sometimes}
        more = keys - set(declared.keys)
        assert not {key for key in more if not any(re.fullmatch(r, key) for r in rules.values())}
        unseen |= {k for k, rule in rules.items() if not any(re.fullmatch(rule, m) for m in more)}
    return unseen


OF_A_RIG = {"camera NAME", "images of NAME", "instants", "NAME/TOPIC [ms]", "rig NAME"}


@pytest.mark.slow
def test_diagnostics_of_a_rig_have_the_declared_keys(rig: Rig):
    robot = RigRobot(rig)
    robot.start()
    robot.infer(*range(6))
    rig.wait_for_diagnostics("instants 6, 6 of them with all cameras", inferences="6")
    of_one_camera = {"camera", *(f"{topic[2:]} [ms]" for topic in interface.OF_A_CAMERA)}
    needed = {key for declared in STATUSES for key in declared.keys} - of_one_camera
    unseen = unseen_keys(rig.received["/diagnostics"][-1].status, needed)
    assert not unseen & OF_A_RIG


def test_a_rig_has_exactly_the_declared_topics_and_the_policy_allows_them(rig: Rig):
    names = ["front", "left"]
    node = rig.open(cameras=names, scale_source="baseline")
    read = in_graph(node.get_subscriber_names_and_types_by_node("vggt", "/"))
    inputs = [t for t in of_rig(INPUTS, names) if t.needs in ("tf2_msgs is installed", "")]
    assert read == types(inputs) and "/front/image" in read and "/image" not in read
    published = in_graph(node.get_publisher_names_and_types_by_node("vggt", "/"))
    outputs = [t for t in of_rig(OUTPUTS, names) if not t.needs or t.name == "/tf"]
    assert published == types((*outputs, *RCLPY_OUTPUTS))
    assert "/vggt/left/depth/image" in published and "/vggt/depth/image" not in published
    found = allowed(interface_files.policy("/vggt", {}, names))
    assert found["publish"] >= set(published) and found["subscribe"] >= set(read)
    assert "/left/image/compressed" in found["subscribe"]
    assert not {"/image", "/vggt/points"} & (found["subscribe"] | found["publish"])


@pytest.mark.parametrize("mode", ["camera", "odom_to_base", "map_to_odom"])
def test_the_transforms_of_a_mode_are_the_declared_ones(rig: Rig, mode: str):
    robot = SimulatedRobot(rig)
    node = robot.start(tf_mode=mode, camera_frame="seen_by_vggt")
    robot.infer(0, 1, 2, tf=mode == "map_to_odom")
    rows = [row for row in interface.TRANSFORMS if row.mode == mode]
    names = vars(node.parameters.now)
    declared = {(names[row.parent], names[row.child]) for row in rows}

    def sent() -> set[tuple[str, str]]:
        return {(t.header.frame_id, t.child_frame_id) for t in tuple(robot.transforms)}

    rig.wait_until(lambda: declared <= sent(), "the transforms")
    own = {("odom", "base_link")} if mode == "map_to_odom" else set()  # the robot's own
    assert sent() - own == declared
    assert {name for row in rows for name in (row.parent, row.child)} <= set(CONNECTED[mode])


def allowed(text: str) -> dict[str, set[str]]:
    """What a policy lets its node publish, subscribe to and reply to, with the names resolved."""
    (profile,) = ElementTree.fromstring(text).iterfind("enclaves/enclave/profiles/profile")
    node = f"{profile.attrib['ns'].rstrip('/')}/{profile.attrib['node']}"
    found: dict[str, set[str]] = {}
    for rules in profile:
        ((action, qualifier),) = rules.attrib.items()
        assert qualifier == "ALLOW" and action not in found
        found[action] = {resolved(rule.text or "", node) for rule in rules}
        assert len(found[action]) == len(rules), "each name is there once"
    return found


def test_the_security_policy_allows_exactly_what_a_running_node_has(rig: Rig):
    node = rig.open(arguments=("-r", "__ns:=/left", *ARGUMENTS), **ALL)
    node.start_now()
    found = allowed(interface_files.policy("/left/vggt", REMAPPED))
    read = node.get_subscriber_names_and_types_by_node("vggt", "/left")
    compressed = {"/left/image/compressed", "/right/image/compressed"}
    assert found["subscribe"] == {name for name, _ in read} | compressed
    published = node.get_publisher_names_and_types_by_node("vggt", "/left")
    assert found["publish"] == {name for name, _ in published}
    answered = node.get_service_names_and_types_by_node("vggt", "/left")
    assert found["reply"] == {name for name, _ in answered}
    assert set(found) == {"subscribe", "publish", "reply"}


def test_the_security_policy_in_config_is_that_of_the_default_names(root: Path):
    text = (root / "config/sros2_policy.xml").read_text()
    assert text == interface_files.policy(), "run python -m vggt_ros.ros.interface_files"


def test_the_readme_names_every_topic_and_service(root: Path):
    text = (root / "README.md").read_text()
    named = [*INPUTS, *OUTPUTS, *interface.SERVICES]
    missing = [row.name for row in named if f"`{row.name}`" not in text]
    assert missing == []


def test_the_policy_allows_the_calibration_beside_a_remapped_image():
    image = {"image": "/camera/image_raw"}
    read = allowed(interface_files.policy("/left/vggt", image))["subscribe"]
    assert "/camera/camera_info" in read
    both = {**image, "camera_info": "/calibration"}
    read = allowed(interface_files.policy("/left/vggt", both))["subscribe"]
    assert "/calibration" in read and "/camera/camera_info" not in read
