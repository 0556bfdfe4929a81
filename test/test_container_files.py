# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files for containers and for tests on a server agree with the files that they name."""

import re
from pathlib import Path
from runpy import run_path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = "jazzy", "lyrical"
DOCKERFILE = (ROOT / "docker/jazzy.Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yaml").read_text())


@pytest.mark.parametrize("name", DISTRIBUTIONS[1:])
def test_the_images_differ_by_the_name_of_the_distribution_alone(name: str):
    other = (ROOT / f"docker/{name}.Dockerfile").read_text()
    assert other.replace(name, "jazzy").replace(name.capitalize(), "Jazzy") == DOCKERFILE
    ignored = (ROOT / f"docker/{name}.Dockerfile.dockerignore").read_text()
    assert ignored == (ROOT / "docker/jazzy.Dockerfile.dockerignore").read_text()


def test_the_image_has_the_pinned_jax():
    (pin,) = re.findall(r"^jax==(\S+)$", (ROOT / "requirements/core.txt").read_text(), re.MULTILINE)
    assert re.findall(r"^ARG JAX=(.*)$", DOCKERFILE, re.MULTILINE) == [f"jax[cuda13]=={pin}"]


def test_the_image_is_made_of_files_that_are_there_and_not_left_out():
    ignored = (ROOT / "docker/jazzy.Dockerfile.dockerignore").read_text().split()
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)
    files = re.findall(r"src/vggt_ros/(requirements/\S+\.txt)", DOCKERFILE)
    for name in [*copied, *files, "CMakeLists.txt", "config/fastdds.xml", "launch", "msg"]:
        assert (ROOT / name).exists() and name.split("/")[0] not in ignored, name
    skipped = re.findall(r'--skip-keys "(.*?)"', DOCKERFILE)[0].split()
    declared = {node.text for node in ElementTree.parse(ROOT / "package.xml").getroot()}
    assert set(skipped) <= declared


def test_the_container_shares_gpu_network_and_memory_with_the_host():
    service = COMPOSE["services"]["vggt"]
    build = service["build"]
    for name in DISTRIBUTIONS:
        dockerfile = build["dockerfile"].replace("${DISTRO:-jazzy}", name)
        assert (ROOT / "docker" / build["context"] / dockerfile).is_file()
    assert (service["ipc"], service["network_mode"]) == ("host", "host")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    volumes = dict(volume.split(":") for volume in service["volumes"])
    assert set(volumes) == set(COMPOSE["volumes"])
    home = {path.removeprefix("/home/ubuntu/") for path in volumes.values()}
    assert re.findall(r"mkdir -p (.*)$", DOCKERFILE, re.MULTILINE) == [" ".join(sorted(home))]


def test_arguments_of_the_container_are_those_of_the_launch_file():
    given = re.findall(r"(\w+):=", COMPOSE["services"]["vggt"]["command"])
    launch_file = (ROOT / "launch/vggt.launch.py").read_text()
    assert given and all(f'    "{name}": ' in launch_file for name in given)


def targets(job: str) -> list[str]:
    """Targets of the Makefile that a job runs."""
    lines = [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]
    return [found for line in lines for found in re.findall(r"^make ([\w-]+)", line, re.MULTILINE)]


def test_the_workflow_runs_targets_of_the_makefile_on_supported_pythons():
    makefile = (ROOT / "Makefile").read_text()
    assert targets("pip") == ["lint", "test"]
    assert targets("versions") == ["test-matrix"] and targets("audit") == ["audit"]
    for target in ("lint", "test", "test-matrix", "audit"):
        assert re.search(rf"^{target}:$", makefile, re.MULTILINE)
    low, high = re.findall(r"\((3), (\d+)\)", makefile)
    first, last = (".".join(version) for version in (low, high))
    pythons = WORKFLOW["jobs"]["pip"]["strategy"]["matrix"]["python"]
    assert (pythons[0], pythons[-1]) == (first, last)


def test_the_workflow_builds_what_the_images_are_made_of():
    """The same steps on the same distributions, in the distribution's own container."""
    job = WORKFLOW["jobs"]["ros"]
    assert set(DISTRIBUTIONS) <= set(job["strategy"]["matrix"]["distro"])
    steps = " ".join(step.get("run", "") for step in job["steps"])
    for command in ("rosdep install --from-paths src", "colcon build", "-r src/vggt_ros/"):
        assert command in steps and command in DOCKERFILE


def test_the_rows_of_the_matrix_are_those_of_the_workflow():
    known = run_path(str(ROOT / "scripts/matrix.py"))["ROWS"]
    rows = WORKFLOW["jobs"]["versions"]["strategy"]["matrix"]["row"]
    assert set(rows) == {row.name for row in known}
    oldest = re.findall(r'^requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert [row.python for row in known if row.resolution == "lowest-direct"] == oldest
