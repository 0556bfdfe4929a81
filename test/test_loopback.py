# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Traffic that stays on this machine, with large messages through shared memory."""

from pathlib import Path

import pytest

from vggt_ros.tools.loopback import stay_on_this_machine

NEW, OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({OLD: ""}, None),
        ({OLD: "/mine.xml"}, "/mine.xml"),
        ({NEW: "/mine.xml"}, "/mine.xml"),
        ({NEW: "/mine.xml", OLD: "/older.xml"}, "/mine.xml"),
    ],
)
def test_fast_dds_2_and_3_get_the_same_profile(root: Path, monkeypatch, given, expected):
    environment = {**given, "ROS_DOMAIN_ID": "17"}
    monkeypatch.setattr("os.environ", environment)
    assert stay_on_this_machine() == "17"
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    profile = expected or str(root / "config/fastdds.xml")
    assert environment[NEW] == environment[OLD] == profile
