# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres that were sure and become unsure, as a filter on ~/odometry and a user see it."""

import numpy as np
import pytest
from fakes.oracle import Faults
from nav_msgs.msg import Odometry
from node_rig import PERIOD, Rig
from robot_rig import START, SimulatedRobot
from vggt_ros.msg import MapStatus

from vggt_ros.mapping.metric.scale import MAX_SIGMA, UNSURE
from vggt_ros.ros.messages import stamp_ns

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SURE, FIRST, LAST, FRAMES = 30, 34, 44, 90  # odometry stops, frames FIRST to LAST are nonsense
BACK = 55  # odometry comes again


def test_odometry_that_was_sure_becomes_unsure_and_sure_again(rig: Rig):
    faults = Faults(broken=dict.fromkeys(range(FIRST, LAST), "nonsense"))
    robot = SimulatedRobot(rig, kind="arc", frames=FRAMES, faults=faults)
    robot.start(scale_source="odometry", tf_mode="none", loops=False)
    poses = rig.subscribe_matched("/vggt/odometry", Odometry)
    states = rig.subscribe_matched("/vggt/status", MapStatus)
    robot.infer(*range(SURE))
    before = rig.wait_for_diagnostics("metres, from odometry", inferences=str(SURE))
    assert float(before["scale sigma"]) < MAX_SIGMA
    robot.infer(*range(SURE, BACK), odom=False)
    unsure = rig.wait_for_diagnostics(
        inferences=str(BACK), **{"scale": "metres, from odometry", "scale conflict": UNSURE}
    )
    assert np.isfinite(float(unsure["scale sigma"])) and float(unsure["scale sigma"]) > MAX_SIGMA
    assert UNSURE in unsure["/vggt: scale"]
    robot.infer(*range(BACK, FRAMES))
    after = rig.wait_for_diagnostics("metres, from odometry", inferences=str(FRAMES))
    assert float(after["scale sigma"]) < MAX_SIGMA
    assert robot.units_per_metre(FRAMES - 1) == pytest.approx(1.0, abs=0.06)

    rig.wait_until(
        lambda: stamp_ns(states[-1].header.stamp) == START + (FRAMES - 1) * PERIOD, "end"
    )
    rig.wait_until(lambda: stamp_ns(poses[-1].header.stamp) == START + (FRAMES - 1) * PERIOD, "end")
    for msg in poses:
        for part in (msg.pose, msg.twist):
            covariance = np.reshape(part.covariance, (6, 6))
            assert np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0
    metric = [status.metric for status in states]
    assert metric == sorted(metric) and metric[-1], "once metres, always metres"
    assert all(np.isfinite(s.scale_sigma) for s in states if s.metric)
