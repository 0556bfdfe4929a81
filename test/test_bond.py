# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The bond with a manager: heartbeats both ways, and what is said when one side is silent."""

import sys
from threading import Event
from typing import Any

import pytest
from bond.msg import Status
from node_rig import TIMEOUT, Rig
from std_srvs.srv import Trigger

from vggt_ros.ros import map_services
from vggt_ros.ros.bond import FAREWELL, Side

pytestmark = pytest.mark.ros


class Sides:
    """The node's side of a bond, on a clock of its own."""

    def __init__(self, timeout: float = 4.0):
        self.now = 0.0
        self.ours = Side(timeout, lambda: self.now)

    def after(self, seconds: float) -> Side:
        self.now += seconds
        return self.ours


def test_a_side_lives_whether_or_not_a_manager_is_heard():
    sides = Sides()
    assert (sides.ours.says(), sides.ours.fault) == (True, "")
    assert (sides.after(100.0).says(), sides.ours.fault) == (True, ""), "no manager has come so far"
    sides.ours.hear("manager", active=True)
    assert (sides.after(4.0).says(), sides.ours.fault) == (True, "")
    assert sides.after(1.0).says()
    assert "no heartbeat on bond for 5 s (bond_timeout 4 s)" in sides.ours.fault
    sides.ours.hear("manager", active=True)
    assert sides.ours.fault == ""


def test_one_s_own_messages_are_not_the_manager_s():
    sides = Sides()
    sides.ours.hear(sides.ours.instance, active=False)
    assert sides.ours.says()
    assert Sides().ours.instance != sides.ours.instance


def test_a_manager_that_ends_the_bond_is_a_fault_until_another_takes_it_up():
    sides = Sides()
    sides.ours.hear("manager", active=True)
    sides.ours.hear("manager", active=False)
    assert [sides.ours.says() for _ in range(3)] == [False, None, None], "confirmed once"
    assert "has ended the bond" in sides.ours.fault
    sides.ours.hear("manager, restarted", active=True)
    assert (sides.ours.says(), sides.ours.fault) == (True, "")


def test_the_end_is_repeated_until_it_is_confirmed_or_too_old():
    alone, confirmed, unheard = Sides(), Sides(), Sides()
    alone.ours.end()
    assert alone.ours.is_over, "nobody waits for it"
    for sides in (confirmed, unheard):
        sides.ours.hear("manager", active=True)
        sides.ours.end()
        assert (sides.after(0.1).says(), sides.ours.fault) == (False, "")
        assert not sides.ours.is_over
    confirmed.ours.hear("manager", active=False)
    assert confirmed.ours.is_over and unheard.after(FAREWELL).is_over


# ---- on the topic -------------------------------------------------------------------------------


class FakeManager:
    """The other side on the topic; it hears what the node sends."""

    def __init__(self, rig: Rig, **parameters: Any):
        self.rig = rig
        self.heard = rig.subscribe("/bond", Status)
        self._publisher = rig.peer.create_publisher(Status, "/bond", 10)
        self.node = rig.open(autostart=False, **parameters)

    def say(self, active: bool, name: str = "vggt") -> None:
        self._publisher.publish(Status(id=name, instance_id="manager", active=active))

    def wait_for(self, active: bool, since: int | None = None) -> Status:
        """The node's next message that says this, or the first since so many were heard."""
        count = len(self.heard) if since is None else since

        def found() -> list[Status]:
            new = self.heard[count:]
            return [m for m in new if m.instance_id != "manager" and m.active == active]

        self.rig.wait_until(found, f"it says {active}")
        return found()[0]


def test_the_node_sends_heartbeats_while_it_is_active(rig: Rig):
    manager = FakeManager(rig)
    manager.node.trigger_configure()
    manager.node.trigger_activate()
    found = manager.wait_for(active=True)
    assert (found.id, found.heartbeat_timeout) == ("vggt", 4.0)
    assert found.heartbeat_period == pytest.approx(0.1)
    manager.say(active=True)
    manager.say(active=False, name="planner_server")  # another bond
    assert manager.wait_for(active=True).instance_id == found.instance_id
    before = len(manager.heard)
    manager.node.trigger_deactivate()
    manager.wait_for(active=False, since=before)
    manager.node.trigger_activate()
    assert manager.wait_for(active=True).instance_id != found.instance_id, "another bond"


@pytest.mark.parametrize("service", ["save_map", "load_map"])
def test_heartbeats_and_reports_go_on_while_a_service_waits_for_the_network(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, service: str
):
    """nav2's manager ends all of its nodes when one is silent for four seconds."""
    begun, end, ask = Event(), Event(), map_services.ask
    monkeypatch.setattr(map_services, "ask", lambda *args: (begun.set(), ask(*args))[1])
    manager = FakeManager(rig, transform_rate_hz=50.0)
    manager.node.start_now()
    manager.wait_for(active=True)
    manager.node.parameters.now = manager.node.parameters.now.__class__(map="/nowhere")
    manager.node.worker.call_soon(lambda: end.wait(TIMEOUT))
    future = rig.peer.create_client(Trigger, f"/vggt/{service}").call_async(Trigger.Request())
    rig.wait_until(begun.is_set, "the service waits")
    reports = len(rig.received["/diagnostics"])
    for _ in range(5):
        manager.wait_for(active=True)
    rig.wait_until(lambda: len(rig.received["/diagnostics"]) > reports + 3, "reports")
    assert not future.done()
    end.set()
    rig.wait_until(future.done, "the answer")


def test_a_manager_that_falls_silent_or_leaves_is_a_lasting_warning(rig: Rig):
    manager = FakeManager(rig, bond_timeout=0.3)
    manager.node.start_now()
    manager.wait_for(active=True)
    manager.say(active=True)
    rig.wait_for_diagnostics("the manager of the life cycle has sent no heartbeat on bond")
    before = len(manager.heard)
    manager.say(active=True)
    manager.say(active=False)
    rig.wait_for_diagnostics("the manager of the life cycle has ended the bond")
    manager.wait_for(active=False, since=before)
    assert not rig.failures


@pytest.mark.parametrize("parameters", [{"autostart": True}, {"bond_timeout": 0.0}])
def test_without_a_manager_or_with_a_timeout_of_zero_there_is_no_bond(rig: Rig, parameters):
    node = rig.open(**{"autostart": False, **parameters})
    assert "/bond" not in [topic.topic_name for topic in (*node.publishers, *node.subscriptions)]


def test_without_the_package_a_warning_says_what_the_manager_must_be_told(rig: Rig, monkeypatch):
    monkeypatch.setitem(sys.modules, "bond.msg", None)
    rig.open(autostart=False)
    rig.wait_for_diagnostics("install ros-$ROS_DISTRO-bond, or set bond_timeout to 0.0 here and in")
