# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Levels and statuses of /diagnostics as a user reads them, on a clock of their own."""

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from made_updates import update
from node_rig import Rig

from vggt_ros.mapping.metric.scale import Estimate
from vggt_ros.mapping.status import LOST, TRACKING, MapStatus
from vggt_ros.ros.health.alarms import HELD_REPORTS
from vggt_ros.ros.health.diagnostics import Health

pytestmark = pytest.mark.ros

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PARTS = (
    "input", "topics", "settings", "network", "timing", "map", "scale", "tf", "masks", "outputs",
    "events",
)  # fmt: skip


class Watched:
    """A node's health without the node: images at 30 Hz, every fourth inferred where asked."""

    def __init__(self, *, is_ready: bool = True):
        self.now, self.lines = 0.0, []
        self.health = Health(lambda: self.now, self.lines.append, lambda _: None)
        self.health.network = {"weights": "loaded"}
        self.no_image = ""
        if is_ready:
            self.health.used()

    def images(self, outcomes: str) -> None:
        """Images at 30 Hz: `u` used (and inferred), `d` dropped, `s` skipped."""
        for outcome in outcomes:
            self.now += 1 / 30
            self.health.image_arrived(0.0)
            if outcome == "u":
                self.health.used()
                self.infer()
            else:
                self.health.count({"d": "dropped", "s": "skipped"}[outcome])

    def infer(self, **changes) -> None:
        """One more update."""
        status = MapStatus(state=TRACKING, segments=1, keyframes=9)
        self.health.inferred(update([0], status=status, **changes), 0.1, {"network": 0.05})

    def report(self) -> dict[str, DiagnosticStatus]:
        """The statuses by name, without the node's."""
        self.now += 1.0
        found = self.health.report("/vggt", self.no_image)
        return {status.name.removeprefix("/vggt").removeprefix(": "): status for status in found}

    def levels(self, part: str, reports: int = HELD_REPORTS + 1) -> list[bytes]:
        """Of a part (empty: the summary), in this many reports."""
        return [self.report()[part].level for _ in range(reports)]


def rows(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


# ---- what is reported ---------------------------------------------------------------------------


def test_one_status_sums_up_in_eight_keys_that_the_details_have_too():
    watched = Watched()
    watched.images("u" * 60)
    report = watched.report()
    assert tuple(report) == ("", *PARTS)
    summary = rows(report[""])
    assert len(summary) <= 8
    details = {key: value for part in PARTS for key, value in rows(report[part]).items()}
    assert details == details | {k: v for k, v in summary.items() if k != "last problem"}
    assert (report[""].level, report[""].message) == (OK, "all is well")
    expected = {"image rate [Hz]": "30.0", "inference rate [Hz]": "30.0", "state": "ready"}
    expected |= {"latency mean [ms]": "100.0", "map state": "tracking", "last problem": "none"}
    assert summary == summary | expected
    assert rows(report["timing"])["network [ms]"] == "50.0"


def test_the_summary_has_the_worst_level_and_says_which_part():
    watched = Watched()
    watched.infer()
    watched.health.tf = "off: camera already has parent base_link"
    watched.no_image = "no image for 9 s on /image: it has no publisher"
    summary = watched.report()[""]
    assert summary.level == ERROR
    assert summary.message == (
        "input: no image for 9 s on /image: it has no publisher;"
        " tf: off: camera already has parent base_link"
    )
    assert rows(summary)["last problem"] == f"{watched.no_image} (0 s ago)"


def test_a_rate_is_that_of_now():
    watched = Watched()
    for _ in range(3):
        watched.images("u")
        watched.now += 20.0 - 1 / 30  # slower than what is averaged over
    watched.now -= 11.0
    assert rows(watched.report()[""])["image rate [Hz]"] == "0.1"
    watched.images("u" * 30)
    watched.now += 3.0
    assert rows(watched.report()[""])["image rate [Hz]"] == "0.0", "the camera was unplugged"


# ---- levels -------------------------------------------------------------------------------------


def test_most_images_dropped_is_a_warning_with_figures_and_a_cure():
    watched = Watched()
    watched.images("uddd" * 15)
    found = watched.report()["input"]
    assert found.level == WARN
    assert found.message.startswith("75% of the last 60 images are dropped: 30.0 Hz arrive, 7.")
    assert "set max_rate_hz" in found.message
    watched.images("usss" * 60)  # as the advice says
    assert watched.levels("input")[-1] == OK


def test_images_dropped_while_the_network_is_opened_are_none_too_many():
    watched = Watched(is_ready=False)
    watched.images("d" * 100)
    assert watched.report()["input"].level == OK
    watched.images("u" * 40)
    assert watched.report()["input"].level == OK


def test_a_share_about_the_limit_does_not_flap():
    watched, levels = Watched(), []
    for i in range(60):
        watched.images(("ud" if i % 2 else "udd") * 5)  # 50 to 67 %
        levels.append(watched.report()["input"].level)
    assert sum(a != b for a, b in zip(levels, levels[1:], strict=False)) <= 1
    assert levels[-1] == WARN


def test_one_window_in_three_refused_is_a_warning_until_few_are():
    watched = Watched()
    for i in range(30):
        watched.infer(accepted=i % 3 != 0, reason="the cameras disagree")
    found = watched.report()["map"]
    assert found.level == WARN
    assert "33% of the last 30 windows do not fit the map: the cameras disagree" in found.message
    assert "move more slowly" in found.message
    for _ in range(30):
        watched.infer()
    assert watched.levels("map")[-1] == OK


@pytest.mark.parametrize(
    ("state", "level"),
    [
        ("off: camera already has parent base_link", WARN),
        ("off: tf2_msgs is not installed", WARN),
        ("late: base_link -> camera is not known at the image's stamp", WARN),
        ("off: tf_mode is none", OK),
        ("camera: vggt_world -> camera", OK),
    ],
)
def test_tf_that_is_off_is_a_warning_unless_the_user_asked_for_it(state: str, level: bytes):
    watched = Watched()
    watched.infer()
    watched.health.tf = state
    report = watched.report()
    assert (report["tf"].level, report["tf"].message) == (level, state)
    assert report[""].level == level and rows(report[""])["tf"] == state


def test_sources_of_scale_that_contradict_are_a_warning():
    watched = Watched()
    conflict = "height gives 1.4 times the scale against odometry, which is kept"
    watched.infer(metric=True, scale=Estimate("odometry", 1.0, 0.1, 0, conflict))
    found = watched.report()["scale"]
    assert (found.level, found.message) == (WARN, conflict)
    assert rows(found)["scale"] == "metres, from odometry"


def test_refusals_are_a_warning_and_nothing_but_refusals_an_error():
    watched = Watched()
    for _ in range(9):
        watched.health.refuse_image("encoding 'x' is not known")
    assert watched.report()["input"].level == WARN
    watched.health.refuse_image("encoding 'x' is not known")
    found = watched.report()["input"]
    assert found.level == ERROR and "10 in a row are refused: encoding 'x'" in found.message
    watched.health.used()
    assert watched.levels("input", 2) == [WARN, WARN], "some are used again"
    watched.now += 10.0
    assert watched.levels("input")[-1] == OK


def test_refusals_of_other_messages_do_not_say_that_no_image_is_used():
    """Queries at 30 Hz, each of them wrong, beside a camera of 1 Hz."""
    watched = Watched()
    for _ in range(3):
        watched.images("u")
        for _ in range(30):
            watched.health.refuse("query 1 is not finite")
        found = watched.report()["input"]
        assert (found.level, found.message) == (WARN, "query 1 is not finite")


def test_what_comes_and_goes_with_each_report_is_a_problem_all_the_time():
    watched = Watched()
    watched.infer()
    levels = []
    for i in range(10):
        watched.health.tf = "camera: world -> camera" if i % 2 else "late: no odometry"
        levels += watched.levels("tf", 1)
    assert levels == [WARN] * 10
    assert watched.report()["tf"].message == "until just now: late: no odometry"
    assert watched.levels("tf")[-1] == OK


def test_what_was_wrong_last_stays_in_the_summary():
    watched = Watched()
    watched.infer()
    watched.health.tf = "late: no odometry"
    watched.report()
    watched.health.tf = "camera: world -> camera"
    watched.levels("", 60)
    watched.infer()
    summary = watched.report()[""]
    assert summary.level == OK
    assert rows(summary)["last problem"].endswith("late: no odometry (57 s ago)")


# ---- lasting warnings ---------------------------------------------------------------------------


def test_a_node_that_is_not_active_is_not_judged_by_what_images_showed_last():
    """It was lost as it was deactivated, which is hours ago; what was asked of it still counts."""
    watched = Watched()
    status = MapStatus(state=LOST, segments=1, keyframes=9)
    watched.health.inferred(update([0], status=status), 0.1, {})
    watched.health.set_warning("what images show", "the last 10 images show next to nothing")
    watched.health.set_warning("surface", "min_agreement is 2, and 3% are seen", "outputs")
    watched.health.tf = "off: camera already has parent base_link"
    assert watched.levels("")[-1] == WARN
    watched.health.enter("inactive")
    assert watched.levels("")[-1] == OK
    watched.health.set_warning("~/save_map", "~/save_map failed: the disk is full", "map")
    assert watched.report()["map"].message == "~/save_map failed: the disk is full"
    watched.health.enter("active")
    assert "the last 10 images" in watched.report()["input"].message


def test_a_lasting_warning_is_shown_in_its_part_and_logged_as_it_begins():
    watched = Watched()
    watched.infer()
    for heard in range(3):
        watched.now += 1.0
        watched.health.set_warning("depth", f"depth does not serve: {heard} heard", part="scale")
    watched.health.set_warning("sizes", "many sizes")
    report = watched.report()
    assert (report["scale"].level, report["scale"].message) == (
        WARN,
        "depth does not serve: 2 heard",
    )
    assert (report["input"].level, report["input"].message) == (WARN, "many sizes")
    assert watched.lines == ["depth does not serve: 0 heard", "many sizes"]
    watched.health.set_warning("depth", "")
    watched.health.set_warning("sizes", "")
    assert watched.levels("")[-1] == OK


# ---- through topics -----------------------------------------------------------------------------


def test_a_network_that_is_too_slow_for_the_camera_is_said(rig: Rig):
    rig.start()
    rig.infer(0)
    rig.engine.gate.clear()
    for i in range(1, 41):
        rig.publish(i)
    # Of 40 one is being inferred, and the newest waits.
    rig.wait_for_diagnostics("images are dropped", "set max_rate_hz", dropped="38")
    assert rig.level("/vggt: input") == rig.level("/vggt") == WARN
    rig.engine.gate.set()
