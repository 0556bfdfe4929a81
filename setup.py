# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: where ROS 2 is present, pip builds and installs our messages too.

`VGGT_ROS_MESSAGES=off` leaves them out, for a workspace where colcon has built them.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))
from messages import build, require_compiler  # noqa: E402


def ros_prefixes() -> list[Path]:
    """Where the message generators are: this environment (wheels), a sourced ROS, or nowhere."""
    if os.environ.get("VGGT_ROS_MESSAGES") == "off":
        return []
    sourced = map(Path, filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)))
    prefixes = list(dict.fromkeys([Path(sys.prefix), *sourced]))
    found = any((prefix / "share/rosidl_default_generators").is_dir() for prefix in prefixes)
    return prefixes if found else []


class Messages(build_py):
    """Adds the generated package to ours, its libraries to lib/ and its index to share/."""

    def run(self) -> None:
        super().run()
        ros = ros_prefixes()
        if not ros or self.editable_mode:
            return
        require_compiler()
        stage = ROOT / "build/messages"
        shutil.rmtree(stage, ignore_errors=True)
        python = Path(sys.executable)
        build(ROOT, stage / "build", stage / "install", python=python, ros=ros)
        (generated,) = (stage / "install").glob("**/vggt_ros/msg/__init__.py")
        shutil.copytree(
            generated.parent.parent, Path(self.build_lib, "vggt_ros"), dirs_exist_ok=True
        )
        files = [file for file in (stage / "install").rglob("*") if file.is_file()]
        self.distribution.data_files = [
            (str(file.parent.relative_to(stage / "install")), [str(file.relative_to(ROOT))])
            for file in files
            if generated.parents[2] not in file.parents and "include" not in file.parts
        ]


class Package(Distribution):
    def has_ext_modules(self) -> bool:
        """Whether the wheel holds compiled code, and so fits one platform only."""
        return bool(ros_prefixes())


setup(cmdclass={"build_py": Messages}, distclass=Package)
