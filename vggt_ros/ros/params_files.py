# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether files of parameters that were given to the node are about this node."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from vggt_ros.ros.parameters import Parameters

OF_ANY_NODE = {"use_sim_time", "qos_overrides", "start_type_description_service"}


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
    known = {row.name for row in fields(Parameters)} | OF_ANY_NODE
    exact = [name for key, values in ours if "*" not in key for name in values]
    unknown = [name for name in dict.fromkeys(exact) if str(name).split(".")[0] not in known]
    if unknown:
        return f"{file} sets what this node does not have: {', '.join(map(str, unknown))}"
    return ""


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
