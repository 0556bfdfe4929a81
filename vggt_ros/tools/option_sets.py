# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of commands: taken from another command, and refused where nothing uses them."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from vggt_ros.errors import UserError

PORTS = (0, 65535)
Command = TypeVar("Command", bound=Callable[..., Any])


def with_options_of(
    other: Callable[..., Any], without: Sequence[str]
) -> Callable[[Command], Command]:
    """Give a function with `**options` the keyword arguments of `other` in its signature.

    They keep their defaults, types and descriptions, and come last; those of `without` are left
    out.
    """

    def extend(function: Command) -> Command:
        mine, theirs = inspect.signature(function), inspect.signature(other)
        own = [row for row in mine.parameters.values() if row.kind is not row.VAR_KEYWORD]
        added = [row for name, row in theirs.parameters.items() if name not in without]
        hints = get_type_hints(other, include_extras=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        vars(function)["__signature__"] = mine.replace(
            parameters=[*own, *(row.replace(kind=keyword) for row in added)]
        )
        function.__annotations__ |= {row.name: hints[row.name] for row in added}
        function.__doc__ = (function.__doc__ or "").rstrip() + "\n" + "".join(
            text for name, text in descriptions(other).items() if name not in without
        )  # fmt: skip
        return function

    return extend


def descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """The entries of the docstring's Args, by name, with their lines as they are."""
    _, _, entries = (function.__doc__ or "").partition("    Args:\n")
    found = re.findall(r"^( {8}(\w+): .*\n(?: {12,}.*\n)*)", entries, re.MULTILINE)
    return {name: text for text, name in found}


def check_limits(given: Mapping[str, Any], **limits: tuple[int | float, int | float]) -> None:
    """Raise `UserError` for a number outside of (least, most), or that is not one.

    `given`: the arguments of a call, by name; those that it lacks are not checked.
    """
    for name, (least, most) in limits.items():
        if name in given and not least <= given[name] <= most:
            wanted = f"{least:.12g} or more" if most == math.inf else f"{least:.12g} to {most:.12g}"
            raise UserError(f"--{name.replace('_', '-')} is {given[name]:.12g}; give {wanted}")


def refuse_unused(
    command: Callable[..., Any], given: Mapping[str, Any], unused: Mapping[str, str]
) -> None:
    """Raise `UserError` for an option that was given, and that nothing uses beside the others.

    `given`: the arguments of a call of `command`; `unused`: what has no effect in this call, with
    the rest of a sentence that begins with the option, and names the next step.
    """
    defaults = inspect.signature(command).parameters
    for name, text in unused.items():
        if given[name] != defaults[name].default:
            no = "no-" if given[name] is False else ""
            raise UserError(f"--{no}{name.replace('_', '-')} {text}")
