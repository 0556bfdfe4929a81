# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of a running node, as ros2 param and a params_file treat them; QoS of every topic."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from node_rig import Rig
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import ReliabilityPolicy

from vggt_ros.ros.interface import INPUTS, OUTPUTS

pytestmark = pytest.mark.ros

OTHERS = {  # than the defaults
    "window_size": 3, "min_confidence": 2.5, "world_frame": "site", "loops": False,
    "rectify": "off", "map_voxel": 0.2, "scale_source": "odometry", "track_queries": 4,
}  # fmt: skip


def ask(rig: Rig, kind: type, name: str, request: Any) -> Any:
    """A service of the node's parameters, called as by another process."""
    client = rig.peer.create_client(kind, f"/vggt/{name}")
    rig.wait_until(client.service_is_ready, name)
    future = client.call_async(request)
    rig.wait_until(future.done, f"{name} answers")
    return future.result()


def values(rig: Rig) -> dict[str, Any]:
    """Names and values of all parameters."""
    names = ask(rig, ListParameters, "list_parameters", ListParameters.Request()).result.names
    found = ask(rig, GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    return dict(zip(names, map(parameter_value_to_python, found), strict=True))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """As `ros2 param dump` writes them: a level for each dot."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return tree


def set_one(rig: Rig, name: str, value: Any) -> tuple[bool, str]:
    """Whether a value is accepted, and why not."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = ask(rig, SetParameters, "set_parameters", request).results
    return result.successful, result.reason


def test_a_dump_makes_the_same_node(tmp_path: Path):
    dump = tmp_path / "vggt.yaml"
    rig = Rig()
    try:
        rig.open(**OTHERS)
        before = values(rig)
        dump.write_text(yaml.safe_dump({"/vggt": {"ros__parameters": nested(before)}}))
    finally:
        rig.close()
    rig = Rig()
    try:
        node = rig.open(arguments=("--params-file", str(dump)))
        assert values(rig) == before
        assert {name: getattr(node.parameters.now, name) for name in OTHERS} == OTHERS
        rig.wait_for_status("settings", lambda status: status.message == "all are used as given")
    finally:
        rig.close()


def test_a_dump_is_accepted_by_the_node_that_it_is_of(rig: Rig):
    """As `ros2 param load` sets it: what is read at the start is as it was."""
    rig.open(**OTHERS)
    for name, value in values(rig).items():
        if value is not None:
            assert set_one(rig, name, value) == (True, ""), name


def test_what_is_read_at_the_start_is_refused_with_reason_and_cure(rig: Rig):
    node = rig.open()
    accepted, reason = set_one(rig, "model", "vggt-1b")
    assert not accepted
    assert "read-only: model is read at the start" in reason and "params_file" in reason
    before = node.parameters.now
    both = [Parameter("min_confidence", value=3.0), Parameter("stride", value=2)]
    assert not node.set_parameters_atomically(both).successful
    assert node.parameters.now == before, "all or none"
    assert set_one(rig, "min_confidence", 3.0) == (True, "")
    assert set_one(rig, "no_such", 1)[0] is False


def test_a_value_of_an_unset_type_changes_nothing(rig: Rig):
    rig.open()
    request = SetParameters.Request(parameters=[Parameter("min_confidence").to_parameter_msg()])
    request.parameters[0].value = ParameterValue()
    (result,) = ask(rig, SetParameters, "set_parameters", request).results
    assert not result.successful and result.reason


# ---- quality of service -------------------------------------------------------------------------


def test_every_topic_has_its_overrides(rig: Rig):
    """The law, over the declared topics; /clock is rclpy's own."""
    node = rig.open(scale_source="fixed,baseline,depth", fixed_scale=2.0, autostart=False)
    node.start_now()
    names = set(values(rig))
    for side, topics in (("subscription", INPUTS), ("publisher", OUTPUTS)):
        for topic in topics:
            if topic.name == "/clock":
                continue
            resolved = node.resolve_topic_name(topic.name)
            expected = {
                f"qos_overrides.{resolved}.{side}.{policy}"
                for policy in ("reliability", "history", "depth")
            }
            assert expected <= names, topic.name


@pytest.mark.parametrize(
    ("topic", "side", "of_default"),
    [("/odom", "subscription", "best_effort"), ("/diagnostics", "publisher", "reliable")],
)
def test_an_override_is_used(rig: Rig, topic: str, side: str, of_default: str):
    other = {"best_effort": "reliable", "reliable": "best_effort"}[of_default]
    start = f"qos_overrides.{topic}.{side}."
    node = rig.open(**{f"{start}reliability": other, f"{start}depth": 3})
    every = node.subscriptions if side == "subscription" else node.publishers
    (qos,) = [found.qos_profile for found in list(every) if found.topic_name == topic]
    assert (ReliabilityPolicy(qos.reliability).name.lower(), qos.depth) == (other, 3)
