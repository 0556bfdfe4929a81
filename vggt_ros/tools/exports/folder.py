# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The folder of an export: an earlier one is replaced whole, anything else is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vggt_ros.errors import UserError
from vggt_ros.files import atomic_folder, replaceable, restore_folder
from vggt_ros.tools.runs.writer import writing

MARK, FORMAT = "vggt.json", "vggt_ros export 1"


@contextmanager
def export_folder(out: Path, kind: str, run: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `out`.

    Raises `UserError` where `check_folder` does.
    """
    check_folder(out)
    with writing(out), atomic_folder(out) as folder:
        yield folder
        mark = {"format": FORMAT, "kind": kind, "run": str(run.resolve())}
        (folder / MARK).write_text(json.dumps(mark, indent=1) + "\n")


def check_folder(out: Path) -> None:
    """Raise `UserError` for a folder with anything but an export of ours in it, or a shell."""
    replaceable(out)
    restore_folder(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give --out a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        early = ""
        if (out / "sparse").is_dir():  # a project of the user must never be taken for one of ours
            early = f" (exports of an early version have no {MARK}: delete such a folder yourself)"
        raise UserError(
            f"{out} is not empty and no export of this command{early}; choose another --out, or"
            " empty it"
        )


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / MARK).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
