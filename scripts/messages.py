# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Builds ROS message packages with plain CMake; standard library only, for `make` and for pip."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


class BuildError(Exception):
    """One line that says what to install, or where the output of a failed step is."""


def require_compiler() -> None:
    """Raise BuildError unless a C and a C++ compiler and Python's headers are at hand."""
    for variable, names in {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}.items():
        wanted = (os.environ[variable].split()[0],) if os.environ.get(variable) else names
        if not any(map(shutil.which, wanted)):
            raise BuildError(
                f"no {variable} compiler ({' or '.join(wanted)}) found, and the ROS messages are"
                " built from source: install one, e.g. `sudo apt install g++`"
            )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BuildError(
            f"the headers of Python {version} (Python.h) are missing, and the ROS messages need"
            f" them: install them, e.g. `sudo apt install python{version}-dev`"
        )


def build(source: Path, folder: Path, install_to: Path, *, python: Path, ros: list[Path]) -> None:
    """Configure, build and install the message package at `source` into `install_to`.

    `ros` are the prefixes that hold the generators; `folder` keeps the build tree, so that a second
    call compiles only what changed.  The generators run in `python`.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONNOUSERSITE", None)  # pip hides the installed packages from its builds;
    environment.pop("PYTHONPATH", None)  # the generators are among them
    prefixes = os.pathsep.join(map(str, ros))
    packages = [path for prefix in ros for path in prefix.glob("lib/python3*/site-packages")]
    environment |= {
        "AMENT_PREFIX_PATH": prefixes,
        "CMAKE_PREFIX_PATH": prefixes,
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
    }
    cmake = shutil.which("cmake", path=environment["PATH"])
    if not cmake:
        raise BuildError("cmake is missing: `pip install cmake ninja`, or install it with apt")
    ninja = shutil.which("ninja", path=environment["PATH"])
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    steps = (
        [cmake, "-S", source, "-B", folder, f"-DPython3_EXECUTABLE={python}"]
        + ["-G", "Ninja" if ninja else "Unix Makefiles", "-DCMAKE_BUILD_TYPE=Release"]
        + [f"-DCMAKE_INSTALL_PREFIX={install_to}", "-DBUILD_TESTING=OFF"]
        + ["-DVGGT_ROS_MESSAGES_ONLY=ON", "--no-warn-unused-cli"],
        [cmake, "--build", folder, "--parallel"],
        [cmake, "--install", folder],
    )
    with log.open("w") as output:
        for step in steps:
            done = subprocess.run(step, env=environment, stdout=output, stderr=output, check=False)
            if done.returncode:
                tail = "".join(log.read_text(errors="replace").splitlines(True)[-15:])
                print(tail, file=sys.stderr)
                raise BuildError(f"building the messages of {source} failed; all of it is in {log}")
