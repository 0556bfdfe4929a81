# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether parameters that were given to the node, in files or one by one, are this node's."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from vggt_ros.ros.parameters import Parameters

OF_ANY_NODE = {"use_sim_time", "qos_overrides", "start_type_description_service"}
KNOWN = {row.name for row in fields(Parameters)} | OF_ANY_NODE
FROM_LAUNCH = "launch_params_"  # files that launch_ros writes, for one node each


def files_in(arguments: Sequence[str]) -> list[Path]:
    """The files that a command line names with --params-file."""
    pairs = zip(arguments, arguments[1:], strict=False)
    return [Path(value) for option, value in pairs if option == "--params-file"]


def unreached(file: Path, node: str) -> str:
    """What of a file does not reach a node, such as /left/vggt; empty: it has all it needs.

    A section for several nodes may hold what is for others, so that its names are not checked.
    """
    try:
        found = list(sections(yaml.safe_load(file.read_text())))
    except (OSError, UnicodeError, yaml.YAMLError):  # rcl refuses it, by name
        return ""
    ours = [(key, values) for key, values in found if matches(key, node)]
    if not ours:
        keys = ", ".join(key for key, _ in found) or "none"
        return (
            f"no parameter of {file} reaches this node: it is {node}, and the file's keys are"
            f" {keys}; write /** instead, which fits every name"
        )
    is_own = file.name.startswith(FROM_LAUNCH)
    exact = [str(name) for key, values in ours if is_own or "*" not in key for name in values]
    if unknown := _unknown(exact):
        source = "the launch file" if is_own else file
        return f"{source} sets what this node does not have: {unknown}"
    return ""


def undeclared(arguments: Sequence[str], node: str) -> str:
    """Which parameters of a command line (-p name:=value) the node does not have; empty: none.

    ROS takes any name. One may be preceded by the name of the node that it is for.
    """
    pairs = zip(arguments, arguments[1:], strict=False)
    given = [
        value.partition(":=")[0]
        for option, value in pairs
        if option in ("-p", "--param") and ":=" in value  # else it is an option of the program
    ]
    own = node.rpartition("/")[2]
    names = [name for whose, _, name in (each.rpartition(":") for each in given)
             if whose in ("", own, node)]  # fmt: skip
    unknown = _unknown(names)
    return f"the command line sets what this node does not have: {unknown}" if unknown else ""


def _unknown(names: Sequence[str]) -> str:
    """Those that are no parameters of the node, each with the one that may be meant."""
    found = []
    for name in dict.fromkeys(names):
        if name.split(".")[0] not in KNOWN:
            near = get_close_matches(name, KNOWN, 1)
            found.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return ", ".join(found)


def sections(content: Any, outer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys of nodes, such as /** or /left/vggt, and their parameters."""
    for name, inner in content.items() if isinstance(content, dict) else ():
        if name == "ros__parameters" and isinstance(inner, dict):
            yield outer, inner
        else:
            yield from sections(inner, f"{outer}/{str(name).strip('/')}")


def matches(key: str, node: str) -> bool:
    """As rcl does it: * stands for one part of a name, ** for any number of them."""
    wild = {"**": r"(/\w+)*", "*": r"/\w+"}
    parts = [wild.get(part, f"/{re.escape(part)}") for part in key.strip("/").split("/")]
    return re.fullmatch("".join(parts), node) is not None
