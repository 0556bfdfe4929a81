# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What tracks cost is measured on the device that runs them, and said."""

import numpy as np
import pytest
from made_updates import stamp, update

from vggt_ros.frames import Tracks
from vggt_ros.ros.health.track_status import TrackCost

pytestmark = pytest.mark.ros
ONES = np.ones((2, 1), np.float32)
TRACKS = Tracks(
    np.array([7], np.uint32), (stamp(0), stamp(1)), np.ones((2, 1, 2), np.float32), ONES, ONES
)


def test_what_tracks_cost_is_said_once_both_are_known():
    cost = TrackCost(2)
    cost.add(update([0]))  # the window fills
    assert (cost.text(0), cost.text(1)) == ("none", "1 point in 1 frames: waiting")
    for seconds in (0.1, 0.5, 0.1):  # one of them was disturbed
        cost.add(update([0, 1])._replace(seconds={"network": seconds}))
    assert cost.text(3) == "3 points in 2 frames: waiting"
    cost.add(update([0, 1])._replace(seconds={"network": 0.15}, tracks=TRACKS))
    assert cost.text(1) == "1 point in 2 frames: network 150 ms, 1.5 times 100"
