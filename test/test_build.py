# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the build files say of one thing agrees, and set-up does what is needed and no more."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
SETUP = ("scripts", "requirements", "cmake", "msg", "config", "launch")
SETUP_FILES = ("CMakeLists.txt", "package.xml", "pyproject.toml", "setup.py")


def pins(name: str) -> Iterator[Requirement]:
    for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            yield Requirement(line)


def names(requirements: Any) -> set[str]:
    return {pin.name.lower().replace("_", "-") for pin in requirements}


def fields(message: str) -> list[str]:
    lines = (
        line.split("#")[0].split() for line in (ROOT / "msg" / message).read_text().splitlines()
    )
    return [" ".join(line) for line in lines if line]


def test_pip_and_ros_name_the_same_version():
    assert MANIFEST.findtext("version") == PROJECT["version"]


def test_messages_begin_with_the_promised_fields():
    parallel = ["float32[] u", "float32[] v"]
    header = "std_msgs/Header header"
    assert fields("QueryPoints.msg") == [header, "uint32[] ids", *parallel]
    promised = [header, "uint32[] ids", "builtin_interfaces/Time[] stamps", *parallel]
    promised += ["float32[] visibility", "float32[] confidence"]
    assert fields("PointTracks.msg")[: len(promised)] == promised


def test_ros_packages_that_are_imported_are_declared():
    declared = {node.text for node in MANIFEST if node.tag.endswith("depend")}
    files = (ROOT / "vggt_ros/ros").rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    imported = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    ros = re.compile(r"(\w+_msgs|rclpy|tf2_ros|cv_bridge|sensor_msgs_py|\w+_interfaces|std_srvs)\b")
    wanted = {found[1] for name in imported if (found := ros.match(name))}
    assert wanted - {"tf2_ros"} <= declared  # tf2_ros, the Python part, is of tf2_ros_py
    assert "tf2_ros" not in wanted or "tf2_ros_py" in declared


def test_cmake_builds_every_message_with_declared_packages():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert set(re.findall(r"msg/\w+\.msg", text)) == {
        str(file.relative_to(ROOT)) for file in (ROOT / "msg").iterdir()
    }
    declared = {node.text for node in MANIFEST if node.tag.endswith("depend")}
    assert set(re.findall(r"find_package\((\w+)", text)) <= declared


def test_programs_that_cmake_installs_can_be_run():
    text = (ROOT / "CMakeLists.txt").read_text()
    programs = re.findall(r"install\(PROGRAMS (\S+) DESTINATION", text)
    assert programs == ["scripts/vggt", "scripts/vggt_node"]
    assert all(os.access(ROOT / program, os.X_OK) for program in programs)
    done = subprocess.run(
        (sys.executable, ROOT / "scripts/vggt", "--help"),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "vggt COMMAND" in done.stdout


def test_requirements_pin_every_package_once():
    files = [file.stem for file in (ROOT / "requirements").glob("*.txt")]
    seen: dict[str, str] = {}
    for file in files:
        for pin in pins(file):
            assert [rule.operator for rule in pin.specifier] == ["=="], f"{file}: {pin}"
        for name in names(pins(file)):
            assert name not in seen, f"{name} is in {file} and in {seen[name]}"
            seen[name] = file


def test_pins_lie_in_the_ranges_that_pip_is_told():
    extras = PROJECT["optional-dependencies"]
    tested = {"core": PROJECT["dependencies"]}
    tested |= {name: extras[name] for name in ("graph", "tools", "train")}
    for file, ranges in tested.items():
        allowed = {
            pin.name.lower().replace("_", "-"): pin.specifier for pin in map(Requirement, ranges)
        }
        for pin in pins(file):
            (version,) = (rule.version for rule in pin.specifier)
            range_of = allowed.get(pin.name.lower().replace("_", "-"))
            assert pin.name in ("jaxlib",) or range_of is not None, f"{pin.name}: not in pyproject"
            assert range_of is None or version in range_of
        assert set(allowed) <= names(pins(file))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without its environment: what set-up reads of ours, and no more."""
    for folder in SETUP:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "vggt_ros").mkdir()
    for file in (*SETUP_FILES, "vggt_ros/__init__.py"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def refusal(checkout: Path, prepare: str = "", **environment: str) -> str:
    """What set-up says before it exits with 1; `prepare` is Python that runs before it."""
    script = str(checkout / "scripts/environment.py")
    code = (
        f"import sys; sys.argv = [{script!r}, 'run']; sys.path[0] = {str(checkout / 'scripts')!r}"
    )
    code += f"\n{prepare}\nimport runpy; runpy.run_path({script!r}, run_name='__main__')"
    command = (sys.executable, "-c", code)
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert not (checkout / ".venv").exists()
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_an_old_python_is_refused_in_one_line(checkout):
    line = refusal(checkout, "sys.version_info = (3, 9, 2, 'final', 0)")
    assert "is 3.9" in line and "sudo apt install python3.11" in line


def test_an_old_python_can_read_the_refusal(checkout):
    ast.parse((checkout / "scripts/environment.py").read_text(), feature_version=(3, 7))


def test_a_missing_compiler_is_named_in_one_line(checkout):
    assert "sudo apt install g++" in refusal(checkout, PATH=str(checkout))


def test_a_missing_venv_module_is_named_in_one_line(checkout):
    assert re.search(
        r"sudo apt install python3\.\d+-venv", refusal(checkout, "sys.modules['ensurepip'] = None")
    )


def test_missing_python_headers_are_named_in_one_line(checkout):
    line = refusal(checkout, "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'")
    assert re.search(r"sudo apt install python3\.\d+-dev", line)


def test_a_machine_without_wheels_is_told_what_works_there(checkout):
    assert "colcon" in refusal(checkout, "import platform; platform.machine = lambda: 'aarch64'")


class Recorded:
    """Set-up of a checkout whose every step is noted instead of done."""

    def __init__(self, checkout: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.syspath_prepend(str(checkout / "scripts"))
        monkeypatch.delitem(sys.modules, "messages", raising=False)
        spec = importlib.util.spec_from_file_location(
            "environment", checkout / "scripts/environment.py"
        )
        assert spec and spec.loader
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.steps: list[str] = []
        monkeypatch.setattr(self.module, "check_machine", lambda: None)
        monkeypatch.setattr(self.module, "make_venv", self.make_venv)
        monkeypatch.setattr(
            self.module,
            "run",
            lambda *command: self.steps.extend(
                f"pip {Path(str(word)).stem}"
                for option, word in zip(command, command[1:], strict=False)
                if option == "-r" or word == "."
            ),
        )
        monkeypatch.setattr(
            self.module,
            "build",
            lambda source, folder, *_, **__: self.steps.append(f"build {folder.name}"),
        )

    def make_venv(self) -> None:
        self.module.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        self.module.PYTHON.touch()

    def __call__(self, purpose: str) -> list[str]:
        self.steps.clear()
        self.module.main(purpose)
        return list(self.steps)


RUN = ["pip core", "pip graph", "pip tools", "pip ros-jazzy", "pip ros-build"]


def test_set_up_redoes_only_what_changed(checkout, monkeypatch):
    set_up = Recorded(checkout, monkeypatch)
    assert set_up("run") == [*RUN, "build tf2_msgs", "build bond", "build vggt_ros", "pip "]
    assert set_up("run") == []
    assert set_up("test") == ["pip train", "pip dev"]
    assert set_up("run") == []

    (checkout / "msg/QueryPoints.msg").write_text("uint32[] ids\n")
    assert set_up("test") == ["build vggt_ros"]
    with (checkout / "requirements/tools.txt").open("a") as file:
        file.write("six==1.17.0\n")
    assert set_up("run") == ["pip tools"]
    assert set_up("test") == []


def test_set_up_that_broke_off_goes_on_where_it_was(checkout, monkeypatch):
    set_up = Recorded(checkout, monkeypatch)

    def fail(*_, **__):
        raise set_up.module.BuildError("no")

    with monkeypatch.context() as broken:
        broken.setattr(set_up.module, "build", fail)
        with pytest.raises(set_up.module.BuildError):
            set_up("run")
    assert set_up("run") == ["build tf2_msgs", "build bond", "build vggt_ros", "pip "]


@pytest.mark.slow
def test_pip_builds_the_code_where_there_is_no_ros(tmp_path):
    """A wheel without messages: every module and asset of ours, both commands."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "vggt_ros", source / "vggt_ros", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "scripts", source / "scripts")
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / file).write_bytes((ROOT / file).read_bytes() if (ROOT / file).exists() else b"")
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        (sys.executable, "-c", code),
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"VGGT_ROS_MESSAGES": "off"},
    )
    wheel = source / done.stdout.splitlines()[-1]
    assert wheel.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    packed = {str(f.relative_to(tmp_path / "wheel")) for f in (tmp_path / "wheel").rglob("*")}
    ours = {str(f.relative_to(source)) for f in (source / "vggt_ros").rglob("*")}
    assert ours <= packed
    (entries,) = (tmp_path / "wheel").glob("*.dist-info/entry_points.txt")
    assert re.findall(r"^\w+(?= =)", entries.read_text(), re.M) == ["vggt", "vggt_node"]
