# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""RViz's configuration and Foxglove's layout for a rig, made from those of a single camera.

    python3 -m vggt_ros.ros.rig.view_files front,left,right --out views

Displays of what each camera has (images, depth, confidence, points) are repeated for each; all
others stay as they are. `rviz:=true` of vggt.launch.py shows the cameras that the node is given.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.ros.interface import OF_A_CAMERA, of_camera
from vggt_ros.ros.rig.names import camera_names

NODE = "/vggt/"
OWN = tuple(name[2:] for name in OF_A_CAMERA if name.startswith("~/"))
CONFIG = Path(__file__).parents[3] / "config"  # of a checkout


def rviz_config(one: dict[str, Any], cameras: Sequence[str]) -> dict[str, Any]:
    """The content of vggt.rviz for a rig, of that for one camera."""
    made = copy.deepcopy(one)
    manager, names = made["Visualization Manager"], {}
    displays = []
    for display in manager["Displays"]:
        topic = display.get("Topic", {}).get("Value", "").removeprefix(NODE)
        if topic not in OWN:
            displays.append(display)
            continue
        for camera in cameras:
            own = copy.deepcopy(display)
            own["Name"] = f"{display['Name']} {camera}"
            own["Topic"]["Value"] = _of(topic, camera)
            displays.append(own)
        names[display["Name"]] = [f"{display['Name']} {camera}" for camera in cameras]
    manager["Displays"] = displays
    for panel in made["Panels"]:
        if panel.get("SyncSource") in names:
            panel["SyncSource"] = names[panel["SyncSource"]][0]
    window = made.get("Window Geometry", {})
    made["Window Geometry"] = {
        new: value for key, value in window.items() for new in names.get(key, [key])
    }
    return made


def foxglove_layout(one: dict[str, Any], cameras: Sequence[str]) -> dict[str, Any]:
    """The content of foxglove.json for a rig, of that for one camera."""
    made = copy.deepcopy(one)
    panels: dict[str, Any] = {}
    places: dict[str, list[str]] = {}
    for name, panel in made["configById"].items():
        if "topics" in panel:
            panel["topics"] = {
                new: value
                for topic, value in panel["topics"].items()
                for new in _each(topic, cameras)
            }
        mode = panel.get("imageMode", {})
        if "imageTopic" not in mode:
            panels[name] = panel
            continue
        places[name] = [f"{name}_{camera}" for camera in cameras]
        for camera, new in zip(cameras, places[name], strict=True):
            own = copy.deepcopy(panel)
            for key in ("imageTopic", "calibrationTopic"):
                own["imageMode"][key] = _of(mode[key].removeprefix(NODE), camera)
            panels[new] = own
    made["configById"] = panels
    made["layout"] = _placed(made["layout"], places)
    return made


def _each(topic: str, cameras: Sequence[str]) -> list[str]:
    own = topic.removeprefix(NODE)
    return [_of(own, camera) for camera in cameras] if own in OWN else [topic]


def _of(own: str, camera: str) -> str:
    return of_camera(f"~/{own}", camera).replace("~/", NODE)


def _placed(node: Any, places: dict[str, list[str]]) -> Any:
    """The tree of panels, those of each camera side by side where one was."""
    if isinstance(node, str):
        return _beside(places[node]) if node in places else node
    both = {side: _placed(node[side], places) for side in ("first", "second")}
    return {**node, **both}


def _beside(panels: Sequence[str]) -> Any:
    if len(panels) == 1:
        return panels[0]
    return {
        "direction": "row",
        "splitPercentage": round(100 / len(panels)),
        "first": panels[0],
        "second": _beside(panels[1:]),
    }


def write_rviz(config: Path, cameras: Sequence[str], out: Path) -> Path:
    """vggt.rviz of the folder `config` for a rig, as the file `out`."""
    import yaml

    one = yaml.safe_load((config / "vggt.rviz").read_text())
    out.write_text(yaml.safe_dump(rviz_config(one, cameras), sort_keys=False))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description="RViz and Foxglove views of a rig")
    parser.add_argument("cameras", help="names as in parameter cameras: front,left,right")
    parser.add_argument("--config", type=Path, default=CONFIG, help="folder of vggt.rviz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        if not (cameras := camera_names(options.cameras)):
            raise UserError("no cameras given; name them: front,left,right")
        for name in ("vggt.rviz", "foxglove.json"):
            if not (options.config / name).is_file():
                raise UserError(
                    f"{options.config} has no {name}; give its folder as --config:"
                    " $(ros2 pkg prefix --share vggt_ros)/config"
                )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    written = write_rviz(options.config, cameras, options.out / "vggt.rviz")
    layout = foxglove_layout(json.loads((options.config / "foxglove.json").read_text()), cameras)
    path = options.out / "foxglove.json"
    path.write_text(json.dumps(layout, indent=2) + "\n")
    print(f"written: {written}, {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
