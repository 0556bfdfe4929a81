# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node under a manager: each transition does what it says, and none ends the process."""

import random
import time
import weakref
from threading import Event
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import SIZE, PlanarEngine
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Path
from node_rig import CAMERA, INPUT, PERIOD, START, TIMEOUT, Rig
from rcl_interfaces.msg import Log
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from vggt_ros.engine.interface import OutOfMemory
from vggt_ros.errors import UserError
from vggt_ros.ros.messages import header, image_message
from vggt_ros.ros.opening import open_engine

pytestmark = pytest.mark.ros

WALKS = 5
GREY = np.full((*INPUT, 3), 128, np.uint8)
STEPS = 12  # requests of a walk
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
SHUTDOWNS = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
GOALS = {
    ("unconfigured", CONFIGURE): "inactive",
    ("inactive", ACTIVATE): "active",
    ("active", DEACTIVATE): "inactive",
    ("inactive", CLEANUP): "unconfigured",
    **{(state, number): "finalized" for state, number in SHUTDOWNS.items()},
}


class Manager:
    """Asks the node for transitions, as ros2 lifecycle and nav2 do."""

    def __init__(self, rig: Rig, *, name: str = "/vggt", engine: Any = None, **parameters: Any):
        self.rig = rig
        parameters = {"autostart": False, **parameters}
        self.node = rig.open(engine=engine, **parameters)
        self._change = rig.peer.create_client(ChangeState, f"{name}/change_state")
        self._get = rig.peer.create_client(GetState, f"{name}/get_state")
        rig.wait_until(self._change.service_is_ready, "the service")
        rig.wait_until(self._get.service_is_ready, "the service")

    def begin(self, number: int, label: str = "") -> Any:
        """A request; the future of its response."""
        return self._change.call_async(
            ChangeState.Request(transition=Transition(id=number, label=label))
        )

    def ask(self, number: int, label: str = "") -> bool:
        """Whether a transition succeeds."""
        future = self.begin(number, label)
        self.rig.wait_until(future.done, f"transition {label or number} is answered")
        return future.result().success

    def walk(self, *numbers: int) -> None:
        """Transitions that all succeed."""
        for number in numbers:
            assert self.ask(number), number

    @property
    def state(self) -> str:
        """As the node answers."""
        future = self._get.call_async(GetState.Request())
        self.rig.wait_until(future.done, "the state is answered")
        return future.result().current_state.label

    @property
    def subscribed(self) -> bool:
        return any(s.topic_name == "/image" for s in list(self.node.subscriptions))

    def wait_for_subscription(self) -> None:
        self.rig.wait_until(
            lambda: self.rig.images.get_subscription_count() == 1, "the node subscribes"
        )


# ---- what a transition does ---------------------------------------------------------------------


def test_the_network_is_opened_by_configure_and_images_are_read_while_active(rig: Rig):
    opened: list[object] = []

    def open_engine(*_: object) -> PlanarEngine:
        opened.append(rig.engine)
        return rig.engine

    manager = Manager(rig, engine=open_engine)
    depths = rig.subscribe("/vggt/depth/image", Image)
    assert (manager.state, manager.subscribed, opened) == ("unconfigured", False, [])
    rig.wait_for_diagnostics(lifecycle="unconfigured", state="unconfigured")
    assert rig.level("/vggt") == DiagnosticStatus.OK

    manager.walk(CONFIGURE)
    assert (manager.state, manager.subscribed, len(opened)) == ("inactive", False, 1)
    manager.walk(ACTIVATE)
    assert manager.subscribed
    manager.wait_for_subscription()
    rig.infer(0, 1, 2)
    rig.wait_until(lambda: len(depths) >= 3, "depth")

    manager.walk(DEACTIVATE)
    assert (manager.state, manager.subscribed) == ("inactive", False)
    rig.wait_for_diagnostics(lifecycle="inactive", state="inactive")
    manager.walk(CLEANUP)
    assert manager.state == "unconfigured"
    assert len(opened) == 1


def test_configure_loads_the_map_that_was_named_at_run_time(rig: Rig, tmp_path):
    manager = Manager(rig, map_directory=str(tmp_path))
    manager.walk(CONFIGURE, CLEANUP)
    (result,) = manager.node.set_parameters([Parameter("map", value=str(tmp_path / "none"))])
    assert result.successful, result.reason
    assert not manager.ask(CONFIGURE)
    rig.wait_for_diagnostics(str(tmp_path / "none"), lifecycle="unconfigured")


def test_no_image_of_a_rig_is_missed_for_the_time_before_it_was_active(rig: Rig, monkeypatch):
    clock = SimpleNamespace(now=time.monotonic())
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("vggt_ros.ros.rig.camera.time", clock)
    manager = Manager(rig, cameras="left,right")
    manager.walk(CONFIGURE)
    clock.now += 3600.0
    manager.walk(ACTIVATE)
    left = manager.node.rig.cameras["left"]
    assert left.missing == ""
    clock.now += 4.0
    assert "no image for 4 s" in left.missing


def test_cleanup_forgets_the_sizes_of_a_rig_s_images(rig: Rig):
    manager = Manager(rig, cameras="left,right")
    sizes = [camera.sizes for camera in manager.node.rig.cameras.values()]
    manager.walk(CONFIGURE)
    for size in sizes:
        size.use(640, 480)
    manager.walk(CLEANUP, CONFIGURE)
    for camera in manager.node.rig.cameras.values():
        camera.sizes.check(320, 240)


def test_deactivate_keeps_network_and_map_and_activate_goes_on_with_them(rig: Rig):
    manager = Manager(rig)
    manager.walk(CONFIGURE, ACTIVATE)
    manager.wait_for_subscription()
    rig.infer(0, 1, 2)
    pipeline, resets = manager.node.inference.pipeline, rig.engine.resets
    manager.walk(DEACTIVATE)
    rig.wait_until(lambda: rig.images.get_subscription_count() == 0, "it is subscribed no more")
    paths = rig.subscribe("/vggt/path", Path, latched=True)
    manager.walk(ACTIVATE)
    rig.wait_until(lambda: paths and len(paths[-1].poses) == 3, "the path of the time before")
    manager.wait_for_subscription()
    rig.infer(3, 4)
    rig.wait_until(lambda: len(paths[-1].poses) == 5, "it goes on")
    assert manager.node.inference.pipeline is pipeline
    assert rig.engine.resets == resets


def test_cleanup_frees_the_network_and_configure_opens_another(rig: Rig):
    engines: list[weakref.ref] = []

    def open_engine(*_: object) -> PlanarEngine:
        engine = PlanarEngine()
        engines.append(weakref.ref(engine))
        return engine

    manager = Manager(rig, engine=open_engine)
    for _ in range(2):
        manager.walk(CONFIGURE, ACTIVATE)
        manager.wait_for_subscription()
        rig.infer(0, 1)
        manager.walk(DEACTIVATE, CLEANUP)
        rig.wait_until(lambda: rig.images.get_subscription_count() == 0, "it is subscribed no more")
    assert [engine() for engine in engines] == [None, None]
    answer = rig.call("reset")
    assert (answer.success, "unconfigured" in answer.message) == (False, True)
    answer = rig.call("save_map")
    assert (answer.success, "no network is loaded" in answer.message) == (False, True)
    assert manager.state == "unconfigured"


def test_cleanup_frees_the_arrays_of_a_real_network(rig: Rig):
    def held() -> int:
        return sum(array.nbytes for array in jax.live_arrays())

    before = held()
    manager = Manager(rig, engine=open_engine, model="tiny", device="cpu")
    manager.walk(CONFIGURE)
    weights = held() - before
    assert weights > 1_000_000
    assert rig.wait_for_diagnostics(model="tiny")["memory"].endswith(" GB")
    manager.walk(CLEANUP)
    assert held() - before < 0.01 * weights


def test_autostart_is_active_at_once(rig: Rig):
    manager = Manager(rig, autostart=True)
    assert manager.state == "active"
    manager.walk(DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE)
    manager.wait_for_subscription()
    rig.infer(0)


def test_nothing_is_published_while_inactive(rig: Rig):
    manager = Manager(rig)
    manager.walk(CONFIGURE, ACTIVATE)
    manager.wait_for_subscription()
    rig.subscribe_to_outputs()
    rig.infer(0, 1)
    rig.engine.gate.clear()
    rig.publish(2)
    rig.wait_until(lambda: len(rig.engine.inferences) == 2, "the inference runs")
    manager.walk(DEACTIVATE)  # answered while it runs
    seen = len([topic for _, topic, _ in rig.deliveries if topic != "/diagnostics"])
    rig.engine.gate.set()
    rig.wait_until(lambda: rig.count("inferences") == 3, "its update reaches the map")
    assert rig.call("reset").success  # publishes an empty path while active
    rig.wait_for_diagnostics(lifecycle="inactive")
    after = [topic for _, topic, _ in rig.deliveries if topic != "/diagnostics"]
    assert after[seen:] == []


def test_shutdown_is_possible_in_each_state_and_final(rig: Rig):
    manager = Manager(rig)
    manager.walk(CONFIGURE, ACTIVATE, SHUTDOWNS["active"])
    assert (manager.state, manager.subscribed) == ("finalized", False)
    assert not manager.ask(CONFIGURE)
    assert manager.state == "finalized"


def test_a_node_that_is_destroyed_leaves_the_graph_and_its_name_to_another(rig: Rig):
    """While it is still referred to, as a node in a cycle of references is."""
    old = rig.open()
    rig.wait_until(lambda: ("vggt", "/") in rig.peer.get_node_names_and_namespaces(), "it is seen")
    assert old.close(TIMEOUT)
    rig.executors[-1].shutdown()
    rig.threads[-1].join(TIMEOUT)  # which may be in a timer of the node
    old.destroy_node()
    names = rig.peer.get_node_names_and_namespaces
    rig.wait_until(lambda: ("vggt", "/") not in names(), "it is seen no more")
    log = rig.subscribe("/rosout", Log, latched=True)
    rig.open().get_logger().info("of the second one")
    rig.wait_until(lambda: any("of the second one" in line.msg for line in log), "its log is heard")


# ---- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [UserError("no file model.safetensors; name another"), RuntimeError("XLA: out of memory")],
    ids=["failure", "error"],
)
def test_a_network_that_cannot_be_opened_is_a_reason_and_not_the_end(rig: Rig, fault: Exception):
    faults = [fault]

    def open_engine(*_: object) -> PlanarEngine:
        if faults:
            raise faults.pop()
        return rig.engine

    manager = Manager(rig, engine=open_engine)
    assert not manager.ask(CONFIGURE)
    assert manager.state == "unconfigured"
    rig.wait_for_diagnostics(str(fault), lifecycle="unconfigured")
    assert rig.status("network").level == DiagnosticStatus.ERROR
    manager.walk(CONFIGURE, ACTIVATE)
    manager.wait_for_subscription()
    rig.infer(0)
    rig.wait_for_status("network", lambda status: status.level == DiagnosticStatus.OK)


def test_a_map_that_cannot_be_loaded_frees_the_network_again(rig: Rig, tmp_path):
    manager = Manager(rig, map=str(tmp_path / "none"))
    assert not manager.ask(CONFIGURE)
    with pytest.raises(UserError, match="no network is loaded"):
        _ = manager.node.inference.pipeline
    rig.wait_for_diagnostics(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("number", "label"), [(ACTIVATE, ""), (99, ""), (0, "activate"), (0, "none of them")]
)
def test_a_transition_that_there_is_not_is_refused(rig: Rig, number: int, label: str):
    manager = Manager(rig)
    assert not manager.ask(number, label)
    assert manager.state == "unconfigured"
    assert not rig.failures
    manager.walk(CONFIGURE)


def test_configure_compiles_for_the_size_that_is_given(rig: Rig):
    rig.engine.missing.add(SIZE)
    manager = Manager(rig, image_size=f"{INPUT[1]}x{INPUT[0]}")
    future = manager.begin(CONFIGURE)
    rig.wait_for_diagnostics("/vggt: network configuring: compiling for")
    assert not future.done()
    rig.engine.missing.clear()
    rig.wait_until(future.done, "configure")
    assert future.result().success
    assert {size for size, _ in rig.engine.prepared} == {SIZE}
    manager.walk(ACTIVATE)
    manager.wait_for_subscription()
    rig.infer(0)
    assert rig.count("waiting for a program") == 0


def test_a_program_that_cannot_be_compiled_fails_configure_with_its_reason(rig: Rig, monkeypatch):
    def prepare(*_: object, **__: object) -> None:
        raise OutOfMemory("the device's memory does not hold a window of one frame")

    monkeypatch.setattr(rig.engine, "prepare", prepare)
    manager = Manager(rig, image_size="640x480")
    assert not manager.ask(CONFIGURE)
    rig.wait_for_diagnostics("does not hold a window of one frame", lifecycle="unconfigured")
    assert manager.node.inference.engine is None


def test_cleanup_and_shutdown_wait_for_the_inference_that_runs(rig: Rig):
    manager = Manager(rig)
    manager.walk(CONFIGURE, ACTIVATE)
    manager.wait_for_subscription()
    rig.engine.gate.clear()
    rig.publish(0)
    assert rig.engine.inside.wait(TIMEOUT)
    manager.walk(DEACTIVATE)
    future = manager.begin(CLEANUP)
    before = len(rig.received["/diagnostics"])
    rig.wait_until(lambda: len(rig.received["/diagnostics"]) > before + 2, "reports meanwhile")
    assert not future.done()
    rig.engine.gate.set()
    rig.wait_until(future.done, "cleanup")
    assert future.result().success and manager.state == "unconfigured"


def test_cleanup_waits_for_the_compilation_that_runs(rig: Rig):
    class Compiling(PlanarEngine):
        compiled = Event()

        def close(self, timeout: float) -> bool:
            return self.compiled.wait(timeout)

    engine = Compiling()
    manager = Manager(rig, engine=lambda *_: engine)
    manager.walk(CONFIGURE)
    future = manager.begin(CLEANUP)
    rig.wait_for_diagnostics("/vggt: network inactive")
    assert not future.done()
    engine.compiled.set()
    rig.wait_until(future.done, "cleanup")
    assert future.result().success


def test_the_process_ends_while_a_network_is_being_opened(rig: Rig):
    inside = Event()

    def open_engine(_: object, progress) -> PlanarEngine:
        inside.set()
        while True:  # as the steps of a long opening
            time.sleep(0.01)
            progress("reading weights")

    manager = Manager(rig, engine=open_engine)
    future = manager.begin(CONFIGURE)
    assert inside.wait(TIMEOUT)
    assert manager.node.close(TIMEOUT)
    rig.wait_until(future.done, "the transition ends")
    assert not future.result().success


# ---- in any order -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(WALKS))
def test_random_walks_are_those_of_the_standard_life_cycle(rig: Rig, seed: int):
    walk_at_random(rig, seed)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_random_walks_are_those_of_the_standard_life_cycle():
    for seed in range(WALKS, 1000):
        rig = Rig()
        try:
            walk_at_random(rig, seed)
        finally:
            rig.close()


def walk_at_random(rig: Rig, seed: int) -> None:
    """Requests at random, with images in between: the answers are those of the state machine."""
    chance = random.Random(seed)
    manager = Manager(rig)
    state, stamp = "unconfigured", 0
    for _ in range(STEPS):
        possible = [n for (before, n) in GOALS if before == state and n not in SHUTDOWNS.values()]
        number = chance.choice([*possible * 3, CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, 77])
        if chance.random() < 0.02:
            number = SHUTDOWNS.get(state, number)
        goal = GOALS.get((state, number))
        assert manager.ask(number) == (goal is not None), (state, number)
        state = goal or state
        assert manager.state == state
        for _ in range(chance.randrange(4)):
            stamp += 1
            rig.images.publish(image_message(header(START + stamp * PERIOD, CAMERA), GREY))
        if chance.random() < 0.2 and state != "finalized":
            assert rig.call("reset").success == (state != "unconfigured")
    assert not rig.failures
    while state not in ("active", "finalized"):
        number = {"unconfigured": CONFIGURE, "inactive": ACTIVATE}[state]
        manager.walk(number)
        state = GOALS[state, number]
    if state == "active":
        manager.wait_for_subscription()
        rig.infer(stamp + 10)
