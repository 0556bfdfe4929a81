# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The program `vggt`: help without JAX, errors in one line, exit codes."""

import functools
import signal
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from vggt_ros.engine.engine import open_engine
from vggt_ros.settings import Settings
from vggt_ros.tools import cli


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`vggt probe PATH --count N`, whose function is given as source."""

    def install(body: str) -> None:
        (tmp_path / "probe_command.py").write_text(
            "from pathlib import Path\nfrom vggt_ros.errors import UserError\n"
            f"def probe(path: Path, *, count: int = 1):\n    {body}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        row = cli.Command("probe_command", "probe", "probes", "path")
        monkeypatch.setitem(cli.COMMANDS, "probe", row)
        sys.modules.pop("probe_command", None)

    return install


def test_help_lists_only_commands_that_exist(capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "fly", cli.Command("vggt_ros.tools.fly", "fly", "not yet"))
    assert cli.call(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in ("demo", "run", "view", "verify", "weights", "warm", "bench"):
        assert f"  {name} " in listed
    assert "fly" not in listed


def test_help_does_not_import_jax_or_ros():
    program = """
import sys
from vggt_ros.tools.cli import call
for name in ([], ["demo"], ["run"], ["view"], ["verify"], ["weights"], ["warm"], ["bench"]):
    try:
        call([*name, "--help"])
    except SystemExit as end:
        assert not end.code, name
    for heavy in ("jax", "rclpy", "viser"):
        assert heavy not in sys.modules, (name, heavy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: vggt weights" in done.stdout


def test_arguments_have_their_types_and_the_result_is_the_exit_code(command):
    command("return count if path == Path('here') else 99")
    assert cli.call(["probe", "here", "--count", "7"]) == 7


def test_paths_may_begin_at_home_where_a_shell_leaves_that_as_it_is(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    command("return 0 if path == Path('/home/ada/runs') else 1")
    assert cli.call(["probe", "~/runs"]) == 0


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_what_is_not_given_has_its_default(command, monkeypatch):
    """Or an option that nobody gave would be refused where nothing uses it."""
    row, received = cli.COMMANDS[command], {}
    module = import_module(row.module)
    function = getattr(module, row.function)
    parameters = signature(function).parameters

    @functools.wraps(function)
    def receive(*args, **kwargs):
        received.update(signature(function).bind(*args, **kwargs).arguments)

    monkeypatch.setattr(module, row.function, receive)
    line, chosen = [], {("export", "to"): "glb", ("bench", "name"): "full"}
    required = [name for name, each in parameters.items() if each.default is each.empty]
    for name in required:
        option = [] if name in row.positional.split() else [f"--{name.replace('_', '-')}"]
        line += [*option, chosen.get((command, name), "given")]
    assert cli.call([command, *line]) == 0
    assert {name: value for name, value in received.items() if name not in required} == {
        name: parameters[name].default for name in received if name not in required
    }


@pytest.mark.parametrize(
    "command, names",
    [
        ("run", "window_size stride network_width min_confidence scale_source fixed_scale"),
        ("warm", "window_size stride network_width track_queries"),
        ("demo", "window_size"),
    ],
)
def test_help_of_settings_is_their_description(capsys, monkeypatch, command, names):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match="0"):
        cli.call([command, "--help"])
    help_text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    about = {row.name: row.metadata["about"] for row in fields(Settings)}
    for name in names.split():
        assert about[name] in help_text


def test_a_user_error_is_one_line_and_exit_code_1(command, capsys):
    command("raise UserError('no such thing; make one')")
    assert cli.call(["probe", "here"]) == 1
    assert capsys.readouterr().err == "vggt: no such thing; make one\n"


def test_an_unknown_command_lists_the_known_ones(capsys):
    assert cli.call(["vew"]) == 1
    assert "choose from: demo, run, fleet" in capsys.readouterr().err


def test_another_exception_keeps_its_traceback(command):
    command("raise RuntimeError('a bug')")
    with pytest.raises(RuntimeError, match="a bug"):
        cli.call(["probe", "here"])


def test_ctrl_c_exits_with_130_and_without_a_traceback(tmp_path: Path):
    (tmp_path / "waits.py").write_text(
        "import time\ndef wait(): print('waiting', flush=True); time.sleep(60)\n"
    )
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from vggt_ros.engine.engine import open_engine
from vggt_ros.settings import Settings
from vggt_ros.tools import cli
cli.COMMANDS["wait"] = cli.Command("waits", "wait", "waits")
sys.argv = ["vggt", "wait"]
cli.main()
"""
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe) as running:
        assert running.stdout and running.stdout.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert (running.returncode, error) == (130, "vggt: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny", "--track-queries", "-1"], "--track-queries -1"),
        (["tiny", "--track-queries", "5000"], "at most 1024"),
        (["tiny", "--input-size", "0", "480"], "image size 0 x 480"),
        (["tiny", "--network-width", "57"], "network width 57 is not a positive multiple of 14"),
        (["tiny", "--window-size", "2", "--stride", "3"], "stride is 3"),
        (["no/such/file.safetensors"], "no/such/file.safetensors"),
    ],
)
def test_warm_refuses_parameters_that_the_node_refuses(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setattr("vggt_ros.engine.device.keep_compiled", lambda _: None)
    monkeypatch.setattr("vggt_ros.engine.compiler.Compiler.__call__", None)
    assert cli.call(["warm", *arguments, "--cache-dir", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_library_is_named_with_a_line_that_works_from_a_checkout(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert cli.call(["run", "clip"]) == 1
    words = "tyro is missing; install it in a checkout of vggt_ros: pip install '.[tools]'"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("layout", "views"), [("view_time", {0, 1, 2}), ("dual_stream", {0})])
def test_warm_compiles_what_a_node_of_that_layout_asks_for(monkeypatch, tmp_path, layout, views):
    compiled, asked = [], []
    monkeypatch.setattr("vggt_ros.engine.device.keep_compiled", lambda _: None)
    monkeypatch.setattr(
        "vggt_ros.engine.compiler.Compiler.__call__",
        lambda compiler, shape: compiled.append((compiler._config, shape)),
    )
    arguments = [
        "--cameras",
        "2",
        "--window-size",
        "2",
        "--network-width",
        "56",
        "--layout",
        layout,
    ]
    assert cli.call(["warm", "tiny", *arguments, "--cache-dir", str(tmp_path)]) == 0
    engine = open_engine("tiny", layout=layout, background=True)
    monkeypatch.setattr(engine.selection, "request", lambda shapes: asked.extend(shapes) or True)
    settings = Settings(window_size=2)
    engine.prepare(
        (42, 56), 2, depth_frames=settings.frames_with_depth, extra_views=settings.extra_views,
        track_queries=settings.track_queries, cameras=2,
    )  # fmt: skip
    assert [shape for _, shape in compiled] == asked
    assert {config.layout for config, _ in compiled} == {layout} == {engine.layout}
    assert {getattr(shape, "views", 0) for shape in asked} == views
