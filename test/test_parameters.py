# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters: declared, validated, changed and documented from it."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.errors import UserError
from vggt_ros.ros import interface_files
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.parameters import Parameters, choices, markdown
from vggt_ros.settings import Settings

pytestmark = pytest.mark.ros

MakeNode = Callable[..., Node]


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    context = Context()
    context.init()
    nodes: list[Node] = []

    def make(**overrides) -> Node:
        values = [Parameter(name, value=value) for name, value in overrides.items()]
        node = Node("vggt", context=context, parameter_overrides=values)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_every_row_of_the_table_is_declared(make_node):
    node = make_node(window_size=6)
    live = LiveParameters(node)
    assert live.now == replace(Parameters(), window_size=6)
    for row in fields(Parameters):
        descriptor = node.describe_parameter(row.name)
        assert descriptor.description
        assert descriptor.read_only != row.metadata["live"]
        assert bool(descriptor.additional_constraints) == bool(choices(row))


def test_min_confidence_is_a_double_and_may_change_while_running(make_node):
    node = make_node()
    live = LiveParameters(node)
    before = live.now
    (result,) = node.set_parameters([Parameter("min_confidence", value=3.0)])
    assert result.successful and live.now.min_confidence == 3.0
    assert before.min_confidence == 1.5, "the values that an inference uses never change during it"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("min_confidence", -1.0, "out of range"),
        ("min_confidence", float("nan"), "out of range"),
        ("max_rate_hz", 1e9, "out of range"),
        ("min_confidence", 2, "DOUBLE"),
        ("depth_resolution", "half", "network, input"),
        ("model", "vggt-1b", "read-only"),
        ("tf_mode", "none", "read-only"),
    ],
)
def test_a_wrong_change_is_refused_with_its_reason(make_node, name, value, words):
    node = make_node()
    live = LiveParameters(node)
    before = live.now
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful and words in result.reason
    assert live.now == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("window_size", 0, "window_size"),
        ("window_size", "four", "window_size must be an integer, such as 4"),
        ("min_confidence", 2, "min_confidence must be a floating-point number, such as 1.5"),
        ("tf_mode", "map", "tf_mode is 'map'; choose one of: auto, none, camera"),
        ("stride", 5, "stride is 5"),
        ("network_width", 500, "not a valid step"),
        ("image_size", "640*480", "image_size is .640.480.; give width and height"),
    ],
)
def test_a_wrong_value_at_the_start_is_one_error(make_node, name, value, words):
    with pytest.raises(UserError, match=words):
        LiveParameters(make_node(**{name: value}))


def test_the_pipeline_s_settings_are_among_the_parameters():
    assert Parameters(window_size=7, stride=2).settings() == Settings(
        window_size=7, stride=2, min_confidence=Parameters().min_confidence
    )


def test_the_table_in_the_readme_is_that_of_the_parameters(root: Path):
    assert f"\n\n{markdown()}\n" in (root / "README.md").read_text(), "paste parameters.markdown()"


def test_the_page_of_the_interface_is_made_from_the_tables(root: Path):
    page = (root / "docs/interface.md").read_text()
    assert page == interface_files.markdown(), "run python -m vggt_ros.ros.interface_files"


def test_the_markdown_table_has_a_row_for_each_parameter():
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(fields(Parameters))
    assert all(line.count("|") == 6 for line in lines)
    assert any(line.startswith("| `min_confidence` | `1.5` | 0 to 1e+06 | yes |") for line in lines)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"tf_mode": "map_to_odom", "world_frame": "odom"}, "world_frame and odom_frame are both"),
        ({"tf_mode": "map_to_odom", "base_frame": "/odom"}, "odom_frame and base_frame are both"),
        ({"tf_mode": "odom_to_base", "base_frame": "odom"}, "odom_frame and base_frame are both"),
        ({"tf_mode": "camera", "camera_frame": "vggt_world"}, "world_frame and camera_frame"),
        ({"camera_frame": "vggt_world"}, "world_frame and camera_frame are both"),
        ({"world_frame": ""}, "world_frame is '': tf2 has no frame without a name"),
        ({"base_frame": "", "tf_mode": "none"}, "base_frame is '': tf2 has no frame"),
        ({"odom_frame": "/"}, "odom_frame is ''"),
    ],
)
def test_frames_of_one_transform_must_differ(make_node, given, words):
    with pytest.raises(UserError, match=words):
        LiveParameters(make_node(**given))


def test_frames_that_no_transform_connects_may_be_equal(make_node):
    LiveParameters(make_node(tf_mode="none", world_frame="odom"))
    LiveParameters(make_node(tf_mode="camera", odom_frame="base_link"))
