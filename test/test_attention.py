# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows that layout view_time attends as one sequence: counted, warned of, with the reason."""

from pathlib import Path

import pytest
from fakes.oracle import Oracle
from fakes.planar_engine import planar_engine_of_a_run, write_frames
from fakes.room import BASE_FROM_CAMERA, drive, numbered_image
from made_updates import update
from node_rig import PERIOD, Rig
from rig_robot import NAMES, START, RigRobot
from test_run_rig import folders

from vggt_ros.ros.health.attention_health import AttentionHealth
from vggt_ros.ros.messages import header, image_message
from vggt_ros.tools.fleet import fleet
from vggt_ros.tools.run import run
from vggt_ros.windows.results import BESIDE, ONE_CAMERA

pytestmark = pytest.mark.ros

LACKS = "4 instants have 3 of left"


def watched(*reasons: str, cameras: int = 2) -> AttentionHealth:
    health = AttentionHealth("view_time", cameras)
    for reason in reasons:
        health.add(update([0], as_sequence=reason))
    return health


# ---- the node's account


def test_most_windows_as_one_sequence_are_a_warning_with_figures_and_advice():
    assert watched(*[""] * 16, *[LACKS] * 14).warning == ""
    health = watched(*[""] * 14, *[LACKS] * 9, *[BESIDE] * 7)
    assert health.rows == {
        "windows as one sequence": "16 of 30",
        "windows as one sequence lately": "53%",
        "as one sequence": LACKS,
    }
    assert health.warning.startswith(
        "53% of the last 30 windows were attended as one sequence, as in joint, though the weights"
        f" say view_time: {LACKS}; weights"
    )
    assert health.warning.endswith(
        "or set min_cameras to 2, so that only whole instants are inferred"
    )
    for reason in [""] * 3 + [LACKS] * 2:  # it does not flap
        health.add(update([0], as_sequence=reason))
        assert health.warning
    for _ in range(25):
        health.add(update([0]))
    assert health.warning == "" and health.rows["windows as one sequence"] == "18 of 60"
    assert watched(*[BESIDE] * 10).warning.endswith("raise loop_period, or set loops to false")
    assert watched(*[LACKS] * 9).warning == "", "too few to say"


def test_layouts_that_never_attend_by_views_have_no_rows():
    for layout in ("", "joint", "dual_stream"):
        health = AttentionHealth(layout, 2)
        health.add(update([0]))
        assert (health.rows, health.warning) == ({}, "")


# ---- the node


def test_weights_that_are_of_a_rig_with_one_camera_are_a_lasting_warning(rig: Rig):
    """Whether the parameter names the layout, or the weights alone."""
    rig.engine.layout = "view_time"
    rig.start()
    rig.wait_for_diagnostics("the weights say view_time, which is of the cameras of a rig")
    rig.infer(0, 1, 2)
    report = rig.wait_for_diagnostics(
        "or set layout to joint", **{"windows as one sequence": "3 of 3"}
    )
    assert report["as one sequence"] == ONE_CAMERA
    assert "the weights say view_time" in report["/vggt: network"]


def test_the_warning_names_the_parameter_that_asks_for_views():
    assert AttentionHealth("view_time", 0, "view_time").warning.startswith("layout says view_time")


@pytest.mark.slow
def test_images_that_cannot_be_read_break_windows_which_is_counted_and_warned_of(rig: Rig):
    robot = RigRobot(rig, NAMES[:2])
    robot.engine.layout = "view_time"
    robot.start(tf_mode="none", loops=False)
    for i in range(24):
        done = rig.count("inferences")
        robot.publish("front", i)
        msg = image_message(header(START + i * PERIOD, robot.frame("left")), numbered_image(i, 1))
        msg.encoding = "rgb8" if i % 3 else "nonsense"
        robot.images["left"].publish(msg)
        rig.wait_until(lambda n=done: rig.count("inferences") > n, f"inference of instant {i}")
    report = rig.wait_for_diagnostics(
        "windows were attended as one sequence, as in joint, though the weights say view_time",
        "set min_cameras to 2",
        inferences="24",
    )
    apart, windows = map(int, report["windows as one sequence"].split(" of "))
    assert windows == 24 and 12 <= apart < 24
    assert report["as one sequence"] in ("4 instants have 3 of left", "4 instants have 2 of left")


# ---- at a desk


def test_a_run_of_one_camera_says_that_its_weights_are_of_a_rig(tmp_path, capsys):
    engine = planar_engine_of_a_run()
    engine.layout = "view_time"
    folder = write_frames(tmp_path / "images", 5)
    done = run(folder, tmp_path / "out", engine=engine, picture=False)
    assert done.summary["attention"] == {
        "layout": "view_time", "windows": 5, "as_one_sequence": 5, "reasons": {ONE_CAMERA: 5},
    }  # fmt: skip
    text = "5 of 5 windows were attended as one sequence, as in joint, though the weights' layout"
    (note,) = done.summary["notes"]
    assert note.startswith(f"{text} is view_time: {ONE_CAMERA}; ")
    assert f"warning: {note}" in capsys.readouterr().err
    engine.layout = "joint"
    done = run(folder, tmp_path / "out", engine=engine, picture=False)
    assert done.summary["attention"]["as_one_sequence"] == 0 and not done.summary["notes"]
    assert "one sequence" not in capsys.readouterr().err


def test_a_run_of_a_rig_that_lacks_a_camera_says_how_often(tmp_path, capsys):
    engine = Oracle(drive("arc", 300) @ BASE_FROM_CAMERA)
    engine.layout = "view_time"
    path = folders(tmp_path / "images", lambda name, i: f"{i:04d}")
    (path / "left" / "0004.png").write_bytes(b"torn")
    done = run(path, tmp_path / "out", cameras="front,left,right", engine=engine, window_size=3,
               picture=False, fuse=False, loops=False, max_points=100)  # fmt: skip
    found = done.summary["attention"]
    assert (found["windows"], found["as_one_sequence"]) == (10, 1)
    # No window has eight images: its oldest instant is without right as well, or is not shown.
    assert found["reasons"] == {"3 instants have 1 of left and 2 of right": 1}
    assert "warning: 1 of 10 windows were attended as one sequence" in capsys.readouterr().err


def test_a_fleet_sums_up_its_sources(tmp_path, monkeypatch, capsys):
    engine = planar_engine_of_a_run()
    engine.layout = "view_time"
    monkeypatch.setattr("vggt_ros.tools.fleet.open_once", lambda *_, **__: engine)
    sources: list[Path] = [write_frames(tmp_path / name, 3) for name in "ab"]
    assert fleet(sources, tmp_path / "out", picture=False) == 0
    text = "warning: 6 of 6 windows, in 2 of 2 sources, were attended as one sequence"
    assert text in capsys.readouterr().err
