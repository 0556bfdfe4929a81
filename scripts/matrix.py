# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tests of the core, without ROS, on the oldest versions that pyproject.toml allows and the newest.

    python3 scripts/matrix.py                    every row whose Python is on this machine
    python3 scripts/matrix.py oldest-3.11        one row
    python3 scripts/matrix.py extras-3.11        what needs large libraries: vggt app, fleet, mesh
    python3 scripts/matrix.py --require          end with 1 where a Python is missing, too

Each row has an environment of its own in .cache/matrix. Standard library only; uv, which resolves
the oldest versions, is installed there.
"""

import argparse
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "matrix"
PYTHONS = "3.11", "3.12", "3.13", "3.14"
TOOLS = (
    "beartype", "hypothesis", "opencv-python-headless", "playwright", "pytest", "pytest-timeout",
    "pytest-xdist",
)  # fmt: skip
# Of the core: images, geometry, network, engine, map, pipeline, files; nothing of `tools` or `ros`.
TESTS = (
    "alignment", "calibration", "checkpoint", "compiler", "descriptors", "encodings",
    "engine", "engine_faults", "engine_parts", "geometry", "graph", "grid",
    "keyframes", "masks", "map_files", "model", "model_units", "pipeline",
    "random_weights", "rectify", "scale", "sixteen_bits", "timeline",
    "velocity", "voxels", "weights",
)  # fmt: skip
# With libraries that are too large for the environment of `make test`, or contradict its pins.
EXTRAS = "tools", "graph", "app", "fleet", "mesh"
TESTS_OF_EXTRAS = "app_page", "fleet_ray", "export"


class Row(NamedTuple):
    """One environment; `resolution` is uv's."""

    name: str
    python: str
    resolution: str
    extras: tuple[str, ...] = ("graph",)
    tests: tuple[str, ...] = TESTS


ROWS = (
    Row("oldest-3.11", "3.11", "lowest-direct"),
    *(Row(f"newest-{python}", python, "highest") for python in PYTHONS),
    Row("extras-3.11", "3.11", "highest", EXTRAS, TESTS_OF_EXTRAS),
)


def interpreter(version: str) -> Path | None:
    """A Python of that version that runs; None where there is none."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *map(str, reversed(pyenv))):
        if candidate is None:
            continue
        ask = "import sys; print(sys.version_info[0], sys.version_info[1], sep='.')"
        asked = subprocess.run([candidate, "-c", ask], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return Path(candidate)
    return None


def uv() -> Path:
    """The installer, in an environment of its own."""
    found = FOLDER / "uv" / "bin" / "uv"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER / "uv"], check=True)
        subprocess.run([found.with_name("pip"), "install", "-q", "uv"], check=True)
    return found


def run(row: Row, python: Path, arguments: list[str]) -> str:
    """Install and test; empty, or what failed."""
    environment = FOLDER / row.name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for extra in row.extras for name in extras[extra])]
    python_of = environment / "bin" / "python"
    subprocess.run([uv(), "venv", "-q", "--clear", "-p", python, environment], check=True)
    # The core's versions are in question; those of pytest and the like are the newest.
    for names, resolution in ((wanted, row.resolution), (TOOLS, "highest")):
        command = [uv(), "pip", "install", "-q", "-p", python_of, "--resolution", resolution]
        if subprocess.run([*command, *names]).returncode:
            return "its versions cannot be installed"
    subprocess.run([uv(), "pip", "list", "-q", "-p", python_of, "--format", "freeze"])
    tests = [f"test/test_{name}.py" for name in row.tests]
    # Old libraries use what is deprecated in each other; that is not ours to mend.
    quiet = ["-W", "ignore::DeprecationWarning"] if row.resolution == "lowest-direct" else []
    # The plugin of dash, which comes with open3d, warns of itself.
    command = [python_of, "-m", "pytest", "-q", "-p", "no:dash", "-m", "not ros and not chaos"]
    command += [*quiet, *tests]
    command += arguments
    return "tests failed" if subprocess.run(command, cwd=ROOT).returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests on the oldest and the newest versions.")
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--require", action="store_true", help="a Python that is missing fails too")
    options, pytest_arguments = parser.parse_known_args()
    if unknown := set(options.rows) - {row.name for row in ROWS}:
        parser.error(f"no row {', '.join(sorted(unknown))}")
    outcomes, failed = [], False
    for row in ROWS:
        if options.rows and row.name not in options.rows:
            continue
        python = interpreter(row.python)
        if python is None:
            outcomes.append(f"{row.name}: NOT RUN, there is no Python {row.python} here")
            failed |= options.require
            continue
        fault = run(row, python, pytest_arguments)
        outcomes.append(f"{row.name}: {fault.upper() or 'passed'}")
        failed |= bool(fault)
    print("\n".join(["", "matrix:", *(f"  {line}" for line in outcomes)]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
