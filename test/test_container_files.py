# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files for containers and for tests on a server agree with the files that they name."""

import re
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "docker/jazzy.Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yaml").read_text())


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
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()
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


def test_the_workflow_runs_targets_of_the_makefile_on_supported_pythons():
    job = WORKFLOW["jobs"]["pip"]
    targets = [step["run"].split()[1] for step in job["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["lint", "test"]
    assert all(re.search(rf"^{target}:$", makefile, re.MULTILINE) for target in targets)
    low, high = re.findall(r"\((3), (\d+)\)", makefile)
    first, last = (".".join(version) for version in (low, high))
    assert (job["strategy"]["matrix"]["python"][0], job["strategy"]["matrix"]["python"][-1]) == (
        first,
        last,
    )
