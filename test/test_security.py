# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What comes over the network reaches no shell, no pickle, and no file that is not allowed."""

import ast
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from node_rig import Rig
from rclpy.parameter import Parameter

from vggt_ros.errors import UserError
from vggt_ros.ros.file_parameters import LIVE_FILES, check_files
from vggt_ros.ros.health.notices import LONGEST, printable
from vggt_ros.ros.parameters import Parameters, choices
from vggt_ros.ros.tf.tf_advice import mount_line
from vggt_ros.ros.tf.tf_cache import TfCache

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {  # they run what they are given
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads",
    "marshal.load", "shelve.open", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip


@cache
def sources() -> tuple[tuple[Path, ast.Module], ...]:
    folders = (ROOT / name for name in ("vggt_ros", "scripts", "launch"))
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    return tuple((path.relative_to(ROOT), ast.parse(path.read_text())) for path in paths)


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Every call of a name, such as `os.system`."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield path, ast.unparse(node.func), node


def test_nothing_is_evaluated_or_unpickled_and_no_shell_is_started():
    wrong = [f"{path}: {name}" for path, name, _ in calls() if name in FORBIDDEN]
    for path, name, call in calls():
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if given.get("shell") not in (None, "False"):
            wrong.append(f"{path}: {name} with a shell")
        if given.get("allow_pickle") not in (None, "False"):
            wrong.append(f"{path}: {name} with pickles")
        if name.endswith("torch.load") and given.get("weights_only") != "True":
            wrong.append(f"{path}: {name} that may execute code")
    assert not wrong


def test_the_node_itself_starts_no_process():
    imported = {
        str(path)
        for path, tree in sources()
        if path.is_relative_to("vggt_ros/ros") and "harness" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and "subprocess" in ast.unparse(node)
    }
    assert not imported


@pytest.mark.parametrize("frame", ["$(reboot)", "a b", "x'; reboot #", "`reboot`", "--help", "\n"])
def test_names_of_frames_stand_quoted_in_lines_to_paste(frame: str):
    words = shlex.split(mount_line(TfCache(), frame, "camera"))
    assert words[words.index("--frame-id") + 1] == frame


def test_what_a_message_says_stays_on_its_line_of_the_log():
    text = printable("a frame 'x\n[FATAL] [1.0] [robot]: falls\x1b[2J' " + "y" * 100_000)
    assert len(text) <= LONGEST and text.isprintable()
    assert text.startswith("a frame 'x\\n[FATAL] [1.0] [robot]: falls\\x1b[2J'")
    assert printable("Zürich, 中: fine") == "Zürich, 中: fine"


# ---- files --------------------------------------------------------------------------------------


def test_no_other_parameter_that_can_change_names_a_file():
    """A live text without choices is a path."""
    live = {row.name for row in fields(Parameters) if row.metadata["live"]}
    texts = {row.name for row in fields(Parameters) if isinstance(row.default, str)}
    free = {row.name for row in fields(Parameters) if row.name in live & texts and not choices(row)}
    assert free == {*LIVE_FILES}


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder of maps, with a link that leads out of it."""
    folder = tmp_path / "maps"
    (folder / "office").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (folder / "out").symlink_to(tmp_path / "secret")
    return folder


@pytest.mark.parametrize("directory", ["", "given"])
@pytest.mark.parametrize(
    ("inside", "allowed"),
    [
        ("office", True), ("new/deep.ply", True), ("office/../hall", True), ("../secret", False),
        ("out/map", False), (".", False), ("/etc/cron.d/x", False), ("~nobody-x/y", False),
        ("a\0b", False),
    ],
)  # fmt: skip
def test_paths_that_are_set_at_run_time_stay_below_a_folder(
    maps: Path, directory: str, inside: str, allowed: bool
):
    start = Parameters(map_path=str(maps / "first"), map_directory=str(maps) if directory else "")
    value = inside if inside[0] in "/~" else str(maps / inside)
    if allowed:
        check_files(start, start, {"map_path": value})
        return
    with pytest.raises(UserError, match="not below|no path"):
        check_files(start, start, {"map_path": value})


def test_the_folder_of_a_map_that_was_given_at_the_start_is_open_too(maps: Path, tmp_path: Path):
    start = Parameters(map=str(maps / "office"), map_path=str(tmp_path / "new" / "map"))
    for value in (maps / "hall", tmp_path / "new" / "other"):
        check_files(start, start, {"map": str(value)})
    with pytest.raises(UserError, match="not below"):
        check_files(start, start, {"map": str(tmp_path / "secret")})


def test_with_none_no_path_can_be_set_but_those_of_the_start(maps: Path):
    start = Parameters(map_path=str(maps / "first"), map_directory="none")
    with pytest.raises(UserError, match="cannot be set at run time"):
        check_files(start, start, {"map": str(maps / "office")})
    check_files(start, start, {"min_confidence": 2.0, "map_path": start.map_path})


@pytest.mark.slow
def test_a_running_node_refuses_paths_with_the_reason(rig: Rig, maps: Path):
    node = rig.start(map_path=str(maps / "first"))

    def change(value: str):
        return node.set_parameters([Parameter("map_path", value=value)])[0]

    assert change(str(maps / "second")).successful
    refused = change("/etc/cron.d/x")
    assert not refused.successful and f"is not below {maps}" in refused.reason
    assert change(str(maps / "first")).successful, "back to that of the start"
    assert node.parameters.now.map_path == str(maps / "first")
    assert not node.set_parameters([Parameter("mask_file", value="/etc/passwd")])[0].successful
