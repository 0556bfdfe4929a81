# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt` answers at once, says errors in one line, and lists only what is there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_help_lists_commands_that_exist_and_no_others(capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "fly", cli.Command("vggt_ros.tools.fly", "fly", "not yet"))
    assert cli.call(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in ("demo", "run", "view", "verify", "weights", "warm", "bench"):
        assert f"  {name} " in listed
    assert "fly" not in listed


def test_help_does_not_wait_for_jax_or_ros():
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


def test_arguments_arrive_with_their_types_and_the_result_is_the_exit_code(command):
    command("return count if path == Path('here') else 99")
    assert cli.call(["probe", "here", "--count", "7"]) == 7


def test_a_fault_of_the_user_is_one_line_and_exit_1(command, capsys):
    command("raise UserError('no such thing; make one')")
    assert cli.call(["probe", "here"]) == 1
    assert capsys.readouterr().err == "vggt: no such thing; make one\n"


def test_an_unknown_command_names_the_known_ones(capsys):
    assert cli.call(["vew"]) == 1
    assert "choose from: demo, run, view" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(command):
    command("raise RuntimeError('a bug')")
    with pytest.raises(RuntimeError, match="a bug"):
        cli.call(["probe", "here"])


def test_ctrl_c_ends_with_130_and_without_a_traceback(tmp_path: Path):
    (tmp_path / "waits.py").write_text(
        "import time\ndef wait(): print('waiting', flush=True); time.sleep(60)\n"
    )
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
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
    ("arguments", "words"),
    [
        (["tiny", "--queries", "-1"], "--queries -1"),
        (["tiny", "--queries", "5000"], "at most 1024"),
        (["tiny", "--input-size", "0", "480"], "image size 0 x 480"),
        (["tiny", "--network-width", "57"], "network width 57 is not a positive multiple of 14"),
        (["tiny", "--window-size", "2", "--stride", "3"], "stride is 3"),
        (["no/such/file.safetensors"], "no/such/file.safetensors"),
    ],
)
def test_warm_refuses_what_no_node_could_run(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr("vggt_ros.engine.device.keep_compiled", lambda _: None)
    monkeypatch.setattr("vggt_ros.engine.compiler.Compiler.__call__", None)
    assert cli.call(["warm", *arguments, "--cache-dir", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err
