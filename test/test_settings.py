# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings that cannot be used as they are given: refused, or said with what is used instead."""

import re

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_rig import Rig

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings

pytestmark = pytest.mark.ros

OLDEST = "the oldest frame gets none, since an extra view may stand before it"
TIES = "all frames that are new get depth (stride {}), and one that ties them to the map"


@pytest.mark.parametrize(
    ("given", "used", "reason"),
    [
        ({"window_size": 4, "depth_frames": 4}, 3, OLDEST),
        ({"window_size": 4, "depth_frames": 1}, 2, TIES.format(1)),
        ({"window_size": 8, "depth_frames": 2, "stride": 3}, 4, TIES.format(3)),
        ({"window_size": 4, "depth_frames": 2, "stride": 4}, 4, "all frames that are new get dept"),
    ],
)
def test_frames_with_depth_that_are_not_those_asked_for_are_said(given, used: int, reason: str):
    settings = Settings(**given)
    assert settings.frames_with_depth == used
    (caution,) = settings.cautions
    asked, size = given["depth_frames"], given["window_size"]
    assert caution.startswith(
        f"depth_frames is {asked}, but {used} of window_size {size} are used: {reason}"
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"window_size": 4, "depth_frames": 3},
        {"window_size": 4, "depth_frames": 2},
        {"window_size": 1, "depth_frames": 1},
        {"window_size": 4, "stride": 3, "depth_frames": 4},
        {"scale_source": "height, fixed", "camera_height": 1.0, "fixed_scale": 2.0},
    ],
)
def test_what_is_used_as_it_is_given_is_not_mentioned(given):
    settings = Settings(**given)
    assert settings.cautions == ()
    if asked := given.get("depth_frames"):
        assert settings.frames_with_depth == asked


@pytest.mark.parametrize("frames", [5, -1])
def test_more_frames_with_depth_than_a_window_has_are_refused(frames: int):
    words = f"depth_frames is {frames}; it must be between 1 and window_size (4), or 0"
    with pytest.raises(UserError, match=re.escape(words)):
        Settings(window_size=4, depth_frames=frames)


def test_a_scale_that_no_source_uses_is_said():
    (caution,) = Settings(fixed_scale=2.0, scale_source="odometry").cautions
    assert caution.startswith("fixed_scale is 2, but not used: scale_source is 'odometry'")


def test_a_camera_height_that_no_source_uses_is_said():
    (caution,) = Settings(camera_height=0.4).cautions
    assert caution == (
        "camera_height is 0.4, but not used: scale_source is 'none'; add height to it"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_setting_that_is_not_a_number_is_refused(value: float):
    with pytest.raises(UserError, match=f"min_confidence is {value}; give a number"):
        Settings(min_confidence=value)


def test_topics_of_a_source_that_is_not_asked_for_are_named_as_unused(rig: Rig):
    remaps = ("-r", "scale_depth:=/depth", "-r", "baseline_image:=/right", "-r", "odom:=/wheels")
    rig.open(arguments=remaps, scale_source="baseline")
    words = "scale_depth is remapped to /depth, but not used: scale_source is 'baseline'; add depth"
    rig.wait_for_diagnostics(words)
    message = rig.status("settings").message
    assert "/right" not in message and "/wheels" not in message


def test_the_node_warns_for_as_long_as_it_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    # stamps are old here
    monkeypatch.setattr("vggt_ros.ros.health.input_health.MAX_STAMP_AGE", np.inf)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
    rig.start(window_size=4, depth_frames=1, memory_fraction=0.25)
    rig.infer(0, 1)
    status = rig.wait_for_status("settings", lambda s: s.level == DiagnosticStatus.WARN)
    assert "depth_frames is 1, but 2 of window_size 4 are used" in status.message
    assert "memory_fraction is 0.25, but not used" in status.message
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.75" in status.message
    assert rig.diagnostics()["/vggt"].startswith("settings: depth_frames is 1")


def test_the_node_refuses_what_makes_no_sense(rig: Rig):
    with pytest.raises(UserError, match="depth_frames is 9; it must be between 1 and window_size"):
        rig.open(window_size=4, depth_frames=9)
