# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read off the source: arrows point from shells to core, never back."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "vggt_ros"
SHELLS = {"ros", "tools", "train"}
PURE = {"imaging", "engine", "mapping", "model", "windows"}  # areas of the core that are folders
ROOT = {"errors", "files", "frames", "geometry", "pipeline", "settings", "timeline", "tracking",
        "views"}  # and those that are one module  # fmt: skip
CORE = PURE | ROOT
MAY_IMPORT = {  # area: the areas of ours that it may know, itself and `errors` besides
    "errors": set(),
    "files": set(),
    "geometry": set(),
    "timeline": set(),
    "imaging": set(),
    "mapping": {"geometry", "files"},
    "model": {"files"},
    "engine": {"model", "files"},
    "settings": {"imaging", "mapping"},
    "tracking": {"imaging"},
    "frames": {"geometry", "imaging", "mapping"},
    "views": {
        "engine.interface",
        "engine.extra_views",
        "frames",
        "geometry",
        "imaging",
        "mapping",
        "tracking",
        "windows.results",
    },
    "windows": {
        "engine.interface",
        "frames",
        "geometry",
        "imaging",
        "mapping",
        "settings",
        "timeline",
        "tracking",
    },
    "pipeline": {"engine.interface", "imaging", "mapping", "windows"} | ROOT,
    "ros": CORE - {"model"},
    "tools": CORE,
    "train": CORE - {"engine", "pipeline"},
}
EXCEPTIONS = {
    ("tools.cli", "train"),  # `vggt train` starts the training
    ("tools.bench.train", "train"),  # and `vggt bench train` times it
    ("tools.evaluate", "train"),  # `vggt eval MODEL rooms` draws the rooms that it scores in
    ("tools.demo", "ros"),  # `vggt demo` listens to the node
    ("ros.harness.player", "tools"),  # bags are read by one reader
}
ONLY_IN = {  # foreign package: the areas that may import it
    "rclpy": {"ros"},
    "tf2_ros": {"ros"},
    "cv_bridge": {"ros"},
    "sensor_msgs_py": {"ros"},
    "std_srvs": {"ros"},
    "rosbags": {"ros", "tools"},
    "av": {"tools"},
    "evo": {"tools"},
    "matplotlib": {"tools", "train"},
    "open3d": {"tools"},
    "pillow_heif": {"tools"},
    "pycolmap": {"tools"},
    "tqdm": {"tools", "train"},
    "trimesh": {"tools"},
    "tyro": {"tools"},
    "viser": {"tools"},
    "ray": {"tools"},
    "gradio": {"tools"},
    "grain": {"train"},
    "gtsam": {"mapping"},
    "optax": {"train"},
    "orbax": {"model", "train"},
    "flax": {"engine", "model", "tools", "train"},
    "jax": {"engine", "model", "tools", "train"},
}
OUTSIDE_WORLD = {"argparse", "datetime", "logging", "sched", "signal", "sys", "time"}


class Import(NamedTuple):
    """`module` of ours imports `name`, at its top or within a function."""

    module: str
    name: str
    at_top: bool

    @property
    def foreign(self) -> str:
        return self.name.split(".")[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def area(module: str) -> str:
    first = module.split(".")[0]
    return "ros" if first == "msg" else first


@cache
def paths() -> dict[str, Path]:
    return {module_name(path): path for path in PACKAGE.rglob("*.py")}


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in paths().items()}


def imports_in(node: ast.AST, module: str, at_top: bool = True) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue  # names for the type checker alone: nothing is loaded
        if isinstance(child, ast.Import):
            yield from (Import(module, alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}: imports are absolute"
            whole = (PACKAGE.parent / Path(*str(child.module).split("."))).is_dir()
            parts = [f".{alias.name}" for alias in child.names] if whole else [""]
            yield from (Import(module, f"{child.module}{part}", at_top) for part in parts)
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_in(child, module, at_top and not inner)


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, tree in trees().items() for found in imports_in(tree, name))


def ours() -> Iterator[tuple[Import, str]]:
    """Every import of a module of ours, and that module."""
    for found in imports():
        if found.name.startswith("vggt_ros."):
            yield found, found.name.removeprefix("vggt_ros.")


def may_import(importer: str, used: str) -> bool:
    allowed = MAY_IMPORT[area(importer)] | {area(importer), "errors"}
    return area(used) in allowed or used in allowed or (importer, area(used)) in EXCEPTIONS


def test_every_area_imports_what_its_row_allows():
    wrong = [f"{found.module} imports {used}" for found, used in ours()
             if not may_import(found.module, used)]  # fmt: skip
    assert not wrong


def test_the_rows_are_the_areas():
    """The root has few modules, and each has a row, as each folder does."""
    areas = {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert areas == ROOT and len(areas) < 10
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"msg"}
    assert folders | areas == set(MAY_IMPORT) == CORE | SHELLS


@pytest.mark.parametrize(
    "importer, used",
    [
        ("mapping.metric.scale", "imaging.grid"),
        ("mapping.cloud.voxels", "frames"),
        ("pipeline", "engine.engine"),
        ("pipeline", "model.config"),
        ("model.stream", "geometry"),
        ("tools.run", "train.config"),
    ],
)
def test_the_rows_refuse(importer, used):
    assert not may_import(importer, used)


def test_no_file_is_longer_than_one_sitting():
    long = {name: len(path.read_text().splitlines()) for name, path in paths().items()}
    assert not {name: lines for name, lines in long.items() if lines > 300}


def test_no_module_needs_itself_to_be_imported():
    needs: dict[str, set[str]] = {name: set() for name in trees()}
    for found, used in ours():
        if found.at_top and used in needs:
            needs[found.module].add(used)
    TopologicalSorter(needs).prepare()  # raises CycleError with the circle


def test_ros_is_known_under_ros_only():
    wrong = [
        f"{found.module} imports {found.name}"
        for found in imports()
        if found.foreign.endswith("_msgs") and area(found.module) != "ros"
    ]
    assert not wrong


def test_foreign_libraries_stay_where_they_belong():
    wrong = [
        f"{found.module} imports {found.name}"
        for found in imports()
        if area(found.module) not in ONLY_IN.get(found.foreign, {area(found.module)})
    ]
    assert not wrong


@pytest.mark.parametrize(
    "library",
    ["torch", "viser", "tyro", "av", "matplotlib", "evo", "cv_bridge", "gtsam", "gradio", "ray"],
)
def test_optional_libraries_are_imported_late(library):
    assert not [f"{x.module}" for x in imports() if x.foreign == library and x.at_top]


def test_the_core_reads_no_clock_environment_or_terminal():
    core = {name: tree for name, tree in trees().items() if area(name) in CORE}
    wrong = [
        f"{x.module} imports {x.name}"
        for x in imports()
        if x.module in core and x.foreign in OUTSIDE_WORLD
    ]
    for name, tree in core.items():
        for node in ast.walk(tree):
            called = (
                node.func.id
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                else ""
            )
            read = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if called in ("print", "input") or read in ("os.environ", "os.getenv"):
                wrong.append(f"{name} uses {called or read}")
    assert not wrong


@pytest.mark.parametrize("module", ["geometry", "pipeline", "engine.interface", "tools.run"])
def test_geometry_and_pipeline_come_without_the_network(module):
    """Who only wants geometry, or help on a command, does not wait for Flax, nor JAX."""
    code = f"import sys, vggt_ros.{module}; sys.exit(bool({{'flax', 'jax'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_file_says_what_it_is_for():
    files = sorted(PACKAGE.rglob("*.py"))
    licence = "# SPDX-License-Identifier: Apache-2.0"
    assert not [
        f"{file}: no licence line" for file in files if licence not in file.read_text()[:200]
    ]
    assert not [
        f"{name}: no docstring" for name, tree in trees().items() if not ast.get_docstring(tree)
    ]
    vague = {"utils", "common", "helpers", "base", "types", "constants", "misc"}
    assert not vague & {file.stem for file in files}
