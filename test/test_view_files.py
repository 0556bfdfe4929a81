# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""RViz and Foxglove show what the node publishes, with the type that each display needs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vggt_ros.ros.interface import OUTPUTS, Topic, of_rig
from vggt_ros.ros.rig.view_files import main

ROOT = Path(__file__).resolve().parent.parent
FOXGLOVE = json.loads((ROOT / "config/foxglove.json").read_text())
PANELS: dict[str, dict[str, Any]] = FOXGLOVE["configById"]
TOPICS: dict[str, Topic] = {topic.name.replace("~", "/vggt"): topic for topic in OUTPUTS}
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
DISPLAYS = {  # of RViz
    "Image": IMAGE,
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "Path": "nav_msgs/msg/Path",
    "Pose": "geometry_msgs/msg/PoseStamped",
    "Odometry": "nav_msgs/msg/Odometry",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "LaserScan": "sensor_msgs/msg/LaserScan",
    "Map": "nav_msgs/msg/OccupancyGrid",
}
IN_3D = set(DISPLAYS.values()) - {IMAGE}
NUMBERS = r"(u?int(8|16|32|64)|float(32|64)|bool)"


def displays() -> list[dict[str, Any]]:
    config = yaml.safe_load((ROOT / "config/vggt.rviz").read_text())
    return [d for d in config["Visualization Manager"]["Displays"] if "Topic" in d]


def panels(kind: str) -> list[dict[str, Any]]:
    return [panel for name, panel in PANELS.items() if name.startswith(f"{kind}!")]


def texts(value: Any) -> Iterator[str]:
    """All keys and texts of a JSON document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def field(path: str) -> tuple[str, str]:
    """The topic of a message path, and the type of its field by our own message's definition."""
    topic, _, name = path.partition(".")
    package, _, kind = TOPICS[topic].kind.split("/")
    assert package == "vggt_ros", path
    name, indexed, _ = name.partition("[:]")
    found = re.search(rf"^(\S+) {name}\s", (ROOT / f"msg/{kind}.msg").read_text(), re.MULTILINE)
    assert found, f"{kind} has no field {name}"
    assert found[1].endswith("[]") == bool(indexed), path
    return topic, found[1].removesuffix("[]")


# ---- RViz ---------------------------------------------------------------------------------------


def test_rviz_displays_have_the_type_of_their_topic():
    for display in displays():
        kind = DISPLAYS[display["Class"].removeprefix("rviz_default_plugins/")]
        assert TOPICS[display["Topic"]["Value"]].kind == kind, display["Name"]


def test_rviz_subscribes_with_the_qos_of_each_topic():
    for display in displays():
        topic, qos = TOPICS[display["Topic"]["Value"]], display["Topic"]
        assert topic.reliability == "reliable" and qos["Reliability Policy"] == "Reliable"
        assert qos["Durability Policy"] == ("Transient Local" if topic.kept else "Volatile")


# ---- Foxglove -----------------------------------------------------------------------------------


def test_every_panel_has_one_place_in_the_layout():
    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        return leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(FOXGLOVE["layout"])) == sorted(PANELS)


def test_every_name_in_the_layout_is_that_of_a_declared_topic():
    named = {re.split(r"[.\[]", text)[0] for text in texts(FOXGLOVE) if text.startswith("/")}
    assert named <= set(TOPICS)
    kinds = {TOPICS[name].kind for name in named}
    own = {"vggt_ros/msg/MapStatus", "vggt_ros/msg/PointTracks"}
    assert kinds >= {*DISPLAYS.values(), INFO, DIAGNOSTICS} | own


def test_panels_have_topics_of_the_type_they_show():
    for panel in panels("Image"):
        mode = panel["imageMode"]
        assert TOPICS[mode["imageTopic"]].kind == IMAGE
        assert TOPICS[mode["calibrationTopic"]].kind == INFO
    for panel in panels("3D"):
        assert {TOPICS[name].kind for name in panel["topics"]} == IN_3D
    for panel in panels("DiagnosticSummary"):
        assert TOPICS[panel["topicToRender"]].kind == DIAGNOSTICS
    for panel in panels("RawMessages"):
        assert panel["topicPath"] in TOPICS
    known = ("Image", "3D", "DiagnosticSummary", "RawMessages", "Plot", "StateTransitions")
    assert all(name.split("!")[0] in known for name in PANELS)


def test_plots_are_of_fields_that_their_messages_have():
    for panel in panels("Plot"):
        paths = [*panel["paths"], panel.get("xAxisPath")]
        for path in filter(None, paths):
            _, kind = field(path["value"])
            assert re.fullmatch(NUMBERS, kind), path["value"]
    for panel in panels("StateTransitions"):
        assert [field(path["value"]) for path in panel["paths"]] == [("/vggt/status", "uint8")]


@pytest.mark.parametrize("path", ["/vggt/status.speed", "/vggt/status.state[:]", "/vggt/tracks.u"])
def test_a_field_that_is_not_there_is_found(path: str):
    with pytest.raises(AssertionError):
        field(path)


# ---- of a rig -----------------------------------------------------------------------------------

CAMERAS = ("front", "left", "right")


@pytest.fixture
def of_cameras(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is written for a rig: RViz's and Foxglove's."""
    assert main([",".join(CAMERAS), "--out", str(tmp_path)]) == 0
    rviz = yaml.safe_load((tmp_path / "vggt.rviz").read_text())
    return rviz, json.loads((tmp_path / "foxglove.json").read_text())


def topics_of_rig() -> dict[str, Topic]:
    return {topic.name.replace("~", "/vggt"): topic for topic in of_rig(OUTPUTS, CAMERAS)}


def test_rviz_shows_what_each_camera_of_a_rig_has(of_cameras):
    rviz, _ = of_cameras
    found = [d for d in rviz["Visualization Manager"]["Displays"] if "Topic" in d]
    known = topics_of_rig()
    for display in found:
        kind = DISPLAYS[display["Class"].removeprefix("rviz_default_plugins/")]
        assert known[display["Topic"]["Value"]].kind == kind, display["Name"]
    shown = [display["Topic"]["Value"] for display in found]
    own = ["depth/image", "depth/confidence", "rgb/image_rect_color", "points"]
    assert {f"/vggt/{camera}/{topic}" for camera in CAMERAS for topic in own} <= set(shown)
    assert len(shown) == len(set(shown)) == len(displays()) + 2 * len(own)
    names = [display["Name"] for display in found]
    assert "Depth left" in names and len(names) == len(set(names))
    synced = [p["SyncSource"] for p in rviz["Panels"] if p.get("SyncSource")]
    assert set(synced) <= set(names)


def test_foxglove_shows_what_each_camera_of_a_rig_has(of_cameras):
    _, layout = of_cameras
    panels = layout["configById"]
    named = {re.split(r"[.\[]", text)[0] for text in texts(layout) if text.startswith("/")}
    known = topics_of_rig()
    assert named <= set(known)
    assert {f"/vggt/{camera}/points" for camera in CAMERAS} <= set(panels["3D!vggt_map"]["topics"])

    def leaves(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(layout["layout"])) == sorted(panels)
    images = [p["imageMode"] for name, p in panels.items() if name.startswith("Image!")]
    assert len(images) == 3 * len(CAMERAS)
    for mode in images:
        assert known[mode["imageTopic"]].kind == IMAGE
        assert known[mode["calibrationTopic"]].kind == INFO
        assert mode["imageTopic"].split("/")[2] == mode["calibrationTopic"].split("/")[2]


@pytest.mark.parametrize(("names", "words"), [("front", "one name"), ("", "no cameras given")])
def test_names_that_are_no_rig_are_refused(tmp_path, capsys, names, words):
    assert main([names, "--out", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err
