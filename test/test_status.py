# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The state of the map as a message, in /diagnostics, and its keyframes for RViz."""

import numpy as np
import pytest
import yaml
from conftest import ROOT
from diagnostic_msgs.msg import DiagnosticStatus
from made_updates import CAMERA, PERIOD, keyframes, pose, stamp, update, view
from node_rig import PERIOD as RIG_PERIOD
from node_rig import START as RIG_START
from node_rig import TIMEOUT, Rig
from rclpy.serialization import deserialize_message
from vggt_ros.msg import MapStatus as MapStatusMessage
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.metric.scale import Estimate
from vggt_ros.mapping.status import (
    INITIALISING,
    LOST,
    RELOCALISING,
    STATES,
    TRACKING,
    UNCERTAIN,
    MapStatus,
)
from vggt_ros.ros.health.alarms import HELD_REPORTS
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.health.status_output import PATIENCE, status_message, status_text
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.publishing.keyframes_output import keyframes_message

pytestmark = pytest.mark.ros

MANY = MapStatus(
    state=RELOCALISING,
    segment=2,
    segments=3,
    keyframes=41,
    loops_closed=4,
    loops_tried=9,
    residual=0.25,
    noise=0.125,
    reason="only 12% of the shared pixels agree in depth",
)


def test_the_message_says_what_the_map_says():
    estimate = Estimate("odometry", 1.0, 0.5, 0, "")
    msg = status_message(update([3], status=MANY, metric=True, scale=estimate), "map")
    assert (msg.header.frame_id, msg.header.stamp.nanosec) == ("map", 3 * PERIOD)
    assert msg.state == MapStatusMessage.RELOCALISING
    for name in ("segment", "segments", "keyframes", "loops_closed", "loops_tried", "reason"):
        assert getattr(msg, name) == getattr(MANY, name), name
    assert (msg.residual, msg.noise) == (0.25, 0.125)
    assert (msg.scale_source, msg.metric, msg.scale_sigma) == ("odometry", True, 0.5)
    unknown = status_message(update([3]), "map")
    assert (unknown.scale_source, unknown.metric) == ("none", False)
    assert np.isinf(unknown.scale_sigma)


def test_the_constants_of_the_message_are_the_states_in_their_order():
    assert [getattr(MapStatusMessage, state.upper()) for state in STATES] == list(range(5))


def test_a_late_subscriber_receives_the_newest_status(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    received = rig.subscribe("/vggt/status", MapStatusMessage, latched=True)
    rig.wait_until(lambda: received, "the status")
    assert stamp_ns(received[0].header.stamp) == RIG_START + RIG_PERIOD


# ---- diagnostics --------------------------------------------------------------------------------


class Watched:
    """The status of the map in /diagnostics, on a clock of its own."""

    def __init__(self, weights: str = "loaded"):
        self.now, self.lines = 0.0, []
        self.health = Health(lambda: self.now, self.lines.append, self.lines.append)
        self.health.network = {"weights": weights}

    def add(self, state: str, *, seconds: float = 0.1, **changes) -> DiagnosticStatus:
        self.now += seconds
        found = {name: changes.pop(name) for name in ("graph",) if name in changes}
        status = MANY._replace(state=state, **found)
        self.health.inferred(update([0], status=status, **changes), 0.0, {})
        return self.report()

    def report(self) -> DiagnosticStatus:
        found = self.health.report("vggt", "")
        (mine,) = [status for status in found if status.name == "vggt: map"]
        return mine

    def ended(self) -> bool:
        """Whether nothing is wrong any more, once that has lasted for some reports."""
        reports = [self.report().level for _ in range(HELD_REPORTS)]
        assert reports[0] == DiagnosticStatus.WARN, "it does not flap"
        return reports[-1] == DiagnosticStatus.OK


@pytest.mark.parametrize(
    ("state", "advice"),
    [(UNCERTAIN, "move more slowly"), (RELOCALISING, "bring the camera back"), (LOST, "~/reset")],
)
def test_a_state_that_should_pass_is_a_warning_after_some_seconds(state: str, advice: str):
    watched = Watched()
    watched.add(TRACKING, seconds=10.0)
    for _ in range(3):
        assert watched.add(state, seconds=0.3 * PATIENCE).level == DiagnosticStatus.OK
    found = watched.add(state, seconds=0.6 * PATIENCE)
    assert found.level == DiagnosticStatus.WARN
    assert found.message.startswith(f"{state} for {1.2 * PATIENCE:.0f} s: only 12%")
    assert advice in found.message
    watched.add(TRACKING)
    assert watched.ended()
    assert watched.add(state).level == DiagnosticStatus.OK, "it counts from the start again"


@pytest.mark.parametrize("state", [INITIALISING, TRACKING])
def test_other_states_may_last(state: str):
    watched = Watched()
    watched.add(state)
    assert watched.add(state, seconds=100.0).level == DiagnosticStatus.OK


def test_why_loops_are_not_closed_is_a_warning_that_lasts():
    watched = Watched()
    words = "loops cannot be closed: gtsam is not installed"
    for _ in range(3):
        found = watched.add(TRACKING, seconds=100.0, graph=words)
        assert (found.level, found.message) == (DiagnosticStatus.WARN, words)
    assert "lost for" in [watched.add(LOST, seconds=9, graph=words) for _ in "ab"][1].message


def test_loops_that_cannot_be_sought_are_a_warning_in_diagnostics(rig: Rig):
    rig.start(window_size=1)
    rig.infer(0, 1)
    report = rig.wait_for_diagnostics("window_size 1 is not above stride 1")
    assert rig.level("/vggt: map") == DiagnosticStatus.WARN
    assert report["loop closure"] == report["/vggt: map"]


def test_the_map_s_figures_are_reported():
    found = Watched().add(TRACKING)
    rows = {pair.key: pair.value for pair in found.values}
    expected = {"map state": "tracking", "segments": "3", "keyframes": "41", "loops closed": "4"}
    expected |= {"loops tried": "9", "registration noise": "0.1250", "loop closure": "on"}
    assert expected.items() <= rows.items()
    assert rows["map reason"] == MANY.reason


def test_doubtful_windows_are_counted_apart_from_refused_ones():
    watched = Watched()
    watched.add(TRACKING, doubtful=True, reason="doubtful: noisy")
    found = watched.add(UNCERTAIN, accepted=False, reason="nonsense")
    rows = {pair.key: pair.value for pair in found.values}
    assert (rows["windows doubtful"], rows["windows refused"]) == ("1", "1")
    assert watched.lines == ["a window does not fit the map: nonsense"]


@pytest.mark.parametrize(
    ("weights", "advice"),
    [("loaded", "move more slowly"), ("random", "expected, since the weights are random")],
)
def test_five_refused_windows_in_a_row_are_a_warning(weights: str, advice: str):
    watched, fault = Watched(weights), {"accepted": False, "reason": "the cameras disagree"}
    for _ in range(4):
        found = watched.add(UNCERTAIN, **fault)
        assert found.level == DiagnosticStatus.OK, "four may be an accident"
    found = watched.add(UNCERTAIN, **fault)
    assert found.level == DiagnosticStatus.WARN and advice in found.message
    assert "5 windows in a row do not fit the map: the cameras disagree" in found.message
    watched.add(TRACKING)
    assert watched.ended()


# ---- keyframes ----------------------------------------------------------------------------------


def markers(snapshot: KeyframePoses, i: int) -> list[Marker]:
    """Those of segment 0 at frame i."""
    data = keyframes_message(snapshot, 0, stamp(i), "map")
    return list(deserialize_message(data, MarkerArray).markers)


def ends(marker: Marker) -> np.ndarray:
    return np.array([[p.x, p.y, p.z] for p in marker.points]).reshape(-1, 2, 3)


def test_keyframes_are_drawn_where_they_stand_and_loops_join_them():
    snapshot = keyframes([0, 1, 2, 7], segments={7: 5}, loops=np.array([[0, 2], [1, 7]]))
    cameras, loops = markers(snapshot, 3)
    for marker in (cameras, loops):
        assert marker.header.frame_id == "map" and marker.type == Marker.LINE_LIST
    lines = ends(cameras).reshape(3, 3, 2, 3)  # keyframe, line, end
    np.testing.assert_allclose(lines[:, 0, 0], [pose(i)[:3, 3] for i in range(3)])
    assert (lines[:, :2, 1, 0] > 0.0).all(), "they open to where the camera looks: along x"
    expected = [[pose(0)[:3, 3], pose(2)[:3, 3]]]
    np.testing.assert_allclose(ends(loops), expected, err_msg="that of another segment is hidden")


@pytest.mark.parametrize("frames", [[], [4]])
def test_few_keyframes_are_drawn_too(frames: list[int]):
    cameras, loops = markers(keyframes(frames), 0)
    assert len(ends(cameras)) == 3 * len(frames)
    assert cameras.action == (Marker.ADD if frames else Marker.DELETE)
    assert loops.action == Marker.DELETE
    assert np.isfinite(ends(cameras)).all()


def shown_by_rviz() -> dict[str, bool]:
    """Namespaces of markers in config/vggt.rviz."""
    config = yaml.safe_load((ROOT / "config/vggt.rviz").read_text())["Visualization Manager"]
    (display,) = [d for d in config["Displays"] if d["Name"] == "Keyframes"]
    return display["Namespaces"]


def test_the_state_of_the_map_stands_above_the_last_keyframe():
    found = update([view(2)], keyframes([0, 1, 2]))
    data = keyframes_message(found.keyframes, 0, stamp(2), "map", text=status_text(found))
    cameras, loops, text = deserialize_message(data, MarkerArray).markers
    assert {cameras.ns: True, loops.ns: True, text.ns: True} == shown_by_rviz()
    assert len(ends(cameras)) == 9 and text.type == Marker.TEXT_VIEW_FACING
    assert (text.ns, text.action, text.header.frame_id) == ("status", Marker.ADD, "map")
    state, kept, units = text.text.split("\n")
    assert state == found.status.state and units == "units are arbitrary"
    assert kept == f"{found.status.keyframes} keyframes, {found.status.loops_closed} loops closed"
    place = np.array([text.pose.position.x, text.pose.position.y, text.pose.position.z])
    assert place[2] > pose(2)[2, 3] and text.scale.z > 0.0
    np.testing.assert_allclose(place[:2], pose(2)[:2, 3])
    nothing = keyframes_message(keyframes([]), 0, stamp(2), "map", text="lost")
    assert len(deserialize_message(nothing, MarkerArray).markers) == 2, "nowhere to write"


def test_keyframes_are_published_to_late_subscribers_and_every_map_period(rig: Rig):
    node = rig.start(map_period=0.5)
    snapshot = keyframes([0, 1])

    def publish(i: int) -> None:
        found = update([view(i, camera=CAMERA)], snapshot)
        node.sender.call_soon(lambda: node.outputs.publish(found))

    publish(1)
    assert node.sender.wait_until_idle(TIMEOUT)
    received = rig.subscribe("/vggt/keyframes", MarkerArray, latched=True)
    rig.wait_until(lambda: received, "the keyframes")
    for i in range(2, 14):
        publish(i)

    def stamps() -> set[int]:
        return {(stamp_ns(msg.markers[0].header.stamp) - stamp(0)) // PERIOD for msg in received}

    rig.wait_until(lambda: 12 in stamps(), "the keyframes at frame 12")
    assert stamps() <= {1, 2, 7, 12}
