# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A fake of launch, which comes with apt ROS and not with pip, and what our launch files define."""

import sys
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

LAUNCH = Path(__file__).resolve().parent.parent / "launch/vggt.launch.py"


class Action(SimpleNamespace):
    """Any class of launch: it keeps its arguments."""

    def __init__(self, *positional: Any, **named: Any):
        super().__init__(positional=positional, **named)


def fake_modules(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> dict[str, ModuleType]:
    """Modules that can be imported from now on, each with these names of classes."""
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        vars(module).update(dict.fromkeys(names[name].split(), Action))
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def fake_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our launch files import of launch and launch_ros."""
    modules = fake_modules(
        monkeypatch,
        {
            "launch": "LaunchContext LaunchDescription LaunchDescriptionEntity",
            "launch.actions": "DeclareLaunchArgument GroupAction IncludeLaunchDescription"
            " OpaqueFunction",
            "launch.launch_description_sources": "PythonLaunchDescriptionSource",
            "launch.substitutions": "EnvironmentVariable",
            "launch_ros": "",
            "launch_ros.actions": "Node PushROSNamespace SetRemap",
            "launch_ros.parameter_descriptions": "ParameterValue",
            "launch_ros.utilities": "",
        },
    )
    utilities = vars(modules["launch_ros.utilities"])
    utilities["prefix_namespace"] = lambda base, inner: f"{base or ''}/{inner.strip('/')}"
    utilities["make_namespace_absolute"] = lambda name: f"/{name.strip('/')}"


def vggt_launch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What launch/vggt.launch.py defines."""
    fake_launch(monkeypatch)
    return run_path(str(LAUNCH))
