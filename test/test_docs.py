# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the pages name exists: links, commands with their options, files, launch arguments.

Nothing is run: options of `vggt` are read from the source of the function that a command names.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from launch_rig import vggt_launch

from vggt_ros.tools.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES += [*ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md", ROOT / "test/golden/README.md"]
OF_OTHERS = {"build/build.py", "navigation_launch.py", "rs_launch.py"}
OF_OTHERS |= {"table.md"}  # what a command in a page writes
SKIPPED_FOLDERS = {".git", ".venv", "build", "install", "log", "__pycache__"}


def blocks_and_prose(text: str) -> tuple[list[str], str]:
    """Lines of code blocks, without comments and with continued ones joined; the text outside."""
    code, prose, fenced = [], [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(re.sub(r"\s+# .*|^# .*", "", line).strip())
        else:
            prose.append(line)
    return re.sub(r"\s*\\\n", " ", "\n".join(code)).splitlines(), "\n".join(prose)


def commands(text: str, sentences: bool = True) -> Iterator[list[str]]:
    """Words of every command in a line of a block, and of code within sentences."""
    lines, prose = blocks_and_prose(text)
    if sentences:
        lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for part in (part for line in lines for part in re.split(r"\s*(?:&&|;|\|)\s*", line)):
        try:
            words = shlex.split(part)
        except ValueError:  # not a line of a shell
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def wrong_links(page: Path, text: str) -> list[str]:
    wrong = []
    prose = re.sub(r"`[^`]*`", "", blocks_and_prose(text)[1])
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or anchor and anchor not in anchors(target):
            wrong.append(link)
    return wrong


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in found}


@cache
def arguments(name: str) -> set[str]:
    """Arguments of the function behind `vggt NAME`."""
    command = COMMANDS[name]
    spec = find_spec(command.module)
    assert spec and spec.origin
    for item in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(item, ast.FunctionDef) and item.name == command.function:
            every = [*item.args.args, *item.args.kwonlyargs]
            return {argument.arg for argument in every} - set(command.python_only.split())
    raise AssertionError(f"{command.module} has no function {command.function}")


def wrong_vggt_commands(_: Path, text: str) -> list[str]:
    """Unknown commands and options; in a block also a command that lacks what it is about."""
    wrong = [words for words in commands(text) if words[0] == "vggt" and not is_known(words)]
    for words in commands(text, sentences=False):
        if words[0] == "vggt" and words[1] in COMMANDS and COMMANDS[words[1]].positional:
            wrong += [words] if words[2:3] == [] or words[2].startswith("--") else []
    return [shlex.join(words) for words in wrong]


def is_known(words: list[str]) -> bool:
    if words[1:2] in ([], ["--help"], ["COMMAND"], ["..."]):  # `vggt` itself
        return True
    if words[1] not in COMMANDS:
        return False
    names = {name.replace("_", "-") for name in arguments(words[1])}
    known = {"--help", *(f"--{name}" for name in names), *(f"--no-{name}" for name in names)}
    return {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def wrong_targets(_: Path, text: str) -> list[str]:
    """Targets of make, modules and scripts of Python."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wrong = []
    for words in commands(text):
        program, *rest = words
        if program == "make" and rest and rest[0] not in targets:
            wrong.append(shlex.join(words))
        if program in ("python", "python3") and len(rest) > 1 and rest[0] == "-m":
            if rest[1].startswith("vggt_ros") and find_spec(rest[1]) is None:
                wrong.append(shlex.join(words))
    return wrong


@cache
def files() -> list[str]:
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.*"))
    return [f"/{path}" for path in found if not SKIPPED_FOLDERS & set(path.parts)]


def wrong_files(_: Path, text: str) -> list[str]:
    """`voxels.py` or `cloud/voxels.py`: such a path ends the path of a file of the repository.

    Of files of other kinds only those in config/: pages name many that users have.
    """
    named = re.findall(r"(?<![\w./~*-])(?:[a-z\d_/.-]+\.(?:py|md)|config/[a-z\d_.]+\w)\b", text)
    return [
        name
        for name in named
        if not (name in OF_OTHERS or name.endswith(".launch.py"))  # launch files: see below
        and not any(file.endswith(f"/{name}") for file in files())
    ]


def wrong_launch_arguments(text: str, launch: dict) -> list[str]:
    known = {*launch["TOPICS"], *launch["PARAMETERS"], *launch["OTHERS"]}
    known |= {name for more in launch["FILES"].values() for name in more}
    wrong = []
    for words in commands(text):
        if words[:3] == ["ros2", "launch", "vggt_ros"]:
            names = [word.partition(":=")[0] for word in words[4:] if ":=" in word]
            wrong += [words[3]] if words[3] not in launch["FILES"] else []
            wrong += [name for name in names if name not in known and "/" not in name]
    return wrong


@pytest.mark.parametrize("check", [wrong_links, wrong_vggt_commands, wrong_targets, wrong_files])
def test_what_the_pages_name_exists(check):
    wrong = {str(page): check(page, page.read_text()) for page in PAGES}
    assert not {name: found for name, found in wrong.items() if found}


def test_launch_arguments_exist(monkeypatch):
    launch = vggt_launch(monkeypatch)
    assert not [
        found for page in PAGES for found in wrong_launch_arguments(page.read_text(), launch)
    ]


def test_the_checks_find_what_is_wrong(monkeypatch):
    page = ROOT / "README.md"
    assert wrong_links(page, "[a](docs/none.md) [b](#none) [c](LICENSE)") == [
        "docs/none.md",
        "#none",
    ]
    text = "`vggt none`, `vggt run x --none 1`, `vggt bench --model tiny`"
    assert wrong_vggt_commands(page, text) == ["vggt none", "vggt run x --none 1"]
    text = "    vggt bench --model small  # no name\n    vggt run x --no-fuse"
    assert wrong_vggt_commands(page, text) == ["vggt bench --model small"]
    assert wrong_targets(page, "`make none` `make test`") == ["make none"]
    assert wrong_targets(page, "    python -m vggt_ros.none x") == ["python -m vggt_ros.none x"]
    assert wrong_files(page, "none.py, `tools/none.py`, `tools/run.py`") == [
        "none.py",
        "tools/none.py",
    ]
    line = "    ros2 launch vggt_ros vggt.launch.py none:=1 \\\n        image:=/x"
    assert wrong_launch_arguments(line, vggt_launch(monkeypatch)) == ["none"]
