# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt COMMAND ...`: options and help texts are made from the signature of a function.

Only the module of the chosen command is imported, so that help does not wait for JAX or Flax.
"""

import functools
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from vggt_ros.errors import UserError, install_extra

INTERRUPTED = 130  # exit code after Ctrl-C, by the shells' convention


class Command(NamedTuple):
    """A command: a function, its line in `vggt --help`, and the names of positional arguments."""

    module: str
    function: str
    summary: str
    positional: str = ""
    python_only: str = ""  # arguments that are no options


COMMANDS = {
    "demo": Command("vggt_ros.tools.demo", "demo", "node, player and viewer on the bundled clip"),
    "run": Command(
        "vggt_ros.tools.run",
        "run",
        "reconstruct a folder, video or bag into a directory",
        "source",
        "engine",
    ),
    "fleet": Command(
        "vggt_ros.tools.fleet", "fleet", "reconstruct many sources, on several workers", "sources"
    ),
    "app": Command("vggt_ros.tools.app", "app", "a page that reconstructs what is uploaded"),
    "view": Command("vggt_ros.tools.view", "view", "show a run directory in the browser", "run"),
    "verify": Command("vggt_ros.tools.verify", "verify", "compare the network with a golden case"),
    "weights": Command(
        "vggt_ros.tools.weights",
        "convert",
        "inspect a checkpoint, convert it into a file that loads fast",
        "source",
    ),
    "warm": Command(
        "vggt_ros.tools.warm", "warm", "compile the programs of a node in advance", "model"
    ),
    "bench": Command("vggt_ros.tools.bench.main", "bench", "run one of the benchmarks", "name"),
    "colmap": Command("vggt_ros.tools.colmap", "colmap", "write a run as COLMAP files", "run"),
    "export": Command(
        "vggt_ros.tools.export",
        "export",
        "write a run for nerfstudio, as GLB, mesh, KITTI, rosbag2",
        "run",
    ),
    "train": Command("vggt_ros.train.run", "train", "train or fine-tune a network", "config"),
    "eval": Command(
        "vggt_ros.tools.evaluate", "evaluate", "score a run against ground truth", "run truth"
    ),
}


def main() -> None:
    """The program `vggt`; exits 0, 1 after an error, 2 after a wrong option, 130 after Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):  # a name of a file may be of any bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(call(sys.argv[1:]))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the exit
        print("vggt: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe is gone: `vggt bench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def call(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    known = {name: command for name, command in COMMANDS.items() if _exists(command)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(known))
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name not in known:
            raise UserError(f"there is no command {name!r}; choose from: {', '.join(known)}")
        result = _tyro_cli(known[name], f"vggt {name}", rest)
    except UserError as error:
        print(f"vggt: {error}", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def _exists(command: Command) -> bool:
    return find_spec(command.module) is not None


def _overview(known: dict[str, Command]) -> str:
    rows = [f"  {name:<9} {command.summary}" for name, command in known.items()]
    return "\n".join(
        ["usage: vggt COMMAND ...", "", *rows, "", "vggt COMMAND --help lists its options"]
    )


def _tyro_cli(command: Command, prog: str, arguments: list[str]) -> Any:
    try:
        import tyro
    except ModuleNotFoundError:
        raise UserError(f"tyro is missing; install it {install_extra('tools')}") from None
    function = getattr(import_module(command.module), command.function)
    function = _with_hints(function, command.positional.split(), command.python_only.split())
    return tyro.cli(function, prog=prog, args=arguments)


def _with_hints(
    function: Callable[..., Any], positional: Sequence[str], python_only: Sequence[str]
) -> Callable[..., Any]:
    """The function with hints for tyro: positional arguments, and descriptions of settings."""
    import tyro

    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if value != signature.parameters[name].default:  # else it would count as given
                given.arguments[name] = _at_home(value)
        return function(*given.args, **given.kwargs)

    hints = get_type_hints(function, include_extras=True)
    hints |= {name: tyro.conf.Positional[hints[name]] for name in positional}
    for name, about in _settings_help(function).items():
        hints[name] = Annotated[hints[name], tyro.conf.arg(help=about)]
    parameters = [
        parameter.replace(annotation=hints.get(key, parameter.annotation))
        for key, parameter in signature.parameters.items()
        if key not in python_only
    ]
    called.__annotations__ = hints
    called.__dict__["__signature__"] = signature.replace(parameters=parameters)
    del called.__dict__["__wrapped__"]
    return called


def _at_home(value: Any) -> Any:
    """Paths with `~` resolved, which shells leave in --out=~/run; anything else as it is."""
    if isinstance(value, Path):
        try:
            return value.expanduser()
        except RuntimeError:  # of a user that there is not
            return value
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(map(_at_home, value))
    return value


def _settings_help(function: Callable[..., Any]) -> dict[str, str]:
    """Descriptions of arguments that are fields of `Settings` and not in the docstring."""
    from vggt_ros.settings import Settings

    about = {row.name: row.metadata["about"] for row in fields(Settings)}
    described = re.findall(r"^ +(\w+):", function.__doc__ or "", re.MULTILINE)
    arguments = inspect.signature(function).parameters
    return {name: about[name] for name in arguments if name in about and name not in described}


if __name__ == "__main__":
    main()
