# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt COMMAND ...`: options and their help come from the types of the function behind.

Only the chosen command's module is imported, so that help never waits for a network library.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, get_type_hints

from vggt_ros.errors import UserError

INTERRUPTED = 130  # what a shell expects after Ctrl-C


class Command(NamedTuple):
    """A row of `vggt --help`; `positional` names the arguments that need no flag."""

    module: str
    function: str
    summary: str
    positional: str = ""


COMMANDS = {
    "demo": Command("vggt_ros.tools.demo", "demo", "node, player and viewer on the bundled clip"),
    "run": Command(
        "vggt_ros.tools.run", "run", "reconstruct a folder, video or bag into a directory", "source"
    ),
    "view": Command("vggt_ros.tools.viewer", "view", "show such a directory in the browser", "run"),
    "verify": Command("vggt_ros.tools.verify", "verify", "compare the network with a golden case"),
    "weights": Command(
        "vggt_ros.tools.weights",
        "convert",
        "convert a checkpoint into one that loads fast",
        "source",
    ),
    "warm": Command(
        "vggt_ros.tools.warm", "warm", "compile at install time what the node will need", "model"
    ),
    "bench": Command("vggt_ros.tools.bench.main", "bench", "measure, as a table or JSON", "name"),
    "colmap": Command("vggt_ros.tools.colmap", "colmap", "write a run as COLMAP files", "run"),
    "train": Command("vggt_ros.train.run", "train", "train or fine-tune a network", "config"),
    "eval": Command(
        "vggt_ros.tools.evaluate", "evaluate", "score a run against the truth", "run truth"
    ),
}


def main() -> None:
    """The program `vggt`; exits 0, 1 after an error, 2 after a wrong option, 130 after Ctrl-C."""
    try:
        sys.exit(call(sys.argv[1:]))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one may not spoil the exit
        print("vggt: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `vggt bench ... | head` has read enough
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
        ["usage: vggt COMMAND ...", "", *rows, "", "vggt COMMAND --help tells its options"]
    )


def _tyro_cli(command: Command, prog: str, arguments: list[str]) -> Any:
    try:
        import tyro
    except ModuleNotFoundError:
        raise UserError("tyro is missing; install: pip install 'vggt_ros[tools]'") from None
    function = getattr(import_module(command.module), command.function)
    if command.positional:
        function = _with_positional(function, command.positional.split())
    return tyro.cli(function, prog=prog, args=arguments)


def _with_positional(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """The function with arguments that are given by their place on the command line."""
    import tyro

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    hints = get_type_hints(function, include_extras=True)
    hints |= {name: tyro.conf.Positional[hints[name]] for name in names}
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=hints.get(key, parameter.annotation))
        for key, parameter in signature.parameters.items()
    ]
    called.__annotations__ = hints
    called.__dict__["__signature__"] = signature.replace(parameters=parameters)
    del called.__dict__["__wrapped__"]
    return called


if __name__ == "__main__":
    main()
