# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Many sources, a run of each, and a file that says how far they are: DIR/fleet.json.

    DIR/fleet.json          options, and of every source: its folder, what became of it, figures
    DIR/drive_01/           the run of drive_01.mcap, as `vggt run` writes it

A batch that ended early goes on from that file: what is done, of a source that has not changed
since, is kept.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.files import json_bytes
from vggt_ros.tools.runs.format import Run, is_run, open_run
from vggt_ros.tools.runs.writer import replacing, writing

STATE, FORMAT = "fleet.json", "vggt_ros fleet 1"
WAITING, DONE, FAILED = "waiting", "done", "failed"


class Entry(NamedTuple):
    """A source and what became of it."""

    source: str  # its absolute path
    folder: str  # of its run, in the folder of the batch
    bytes: int = 0  # of its files; 0: there are none
    modified_ns: int = 0  # of the newest of them
    state: str = WAITING
    reason: str = ""  # why it failed
    frames: int = 0
    refused: int = 0  # frames that were refused or could not be read
    segments: int = 0
    metric: bool = False
    seconds: float = 0.0
    waiting_share: float = 0.0  # of that time, for images
    model: str = ""
    random_weights: bool = False
    windows: int = 0
    as_one_sequence: int = 0  # of them, though the layout is view_time

    def finished(self, done: Run) -> "Entry":
        """With the figures of its run."""
        summary, times = done.summary, done.summary["times"]
        return self._replace(
            state=DONE,
            reason="",
            frames=summary["frames"],
            refused=summary["refused"] + summary["unreadable"],
            segments=summary["map"]["segments"],
            metric=summary["scale"]["metric"],
            seconds=times["total_s"],
            waiting_share=times["waiting_share"],
            model=summary["model"],
            random_weights=summary["random_weights"],
            windows=summary["attention"]["windows"],
            as_one_sequence=summary["attention"]["as_one_sequence"],
        )

    def failed(self, reason: str) -> "Entry":
        """Passed over for a reason of one line."""
        fresh = Entry(self.source, self.folder, self.bytes, self.modified_ns)
        return fresh._replace(state=FAILED, reason=" ".join(reason.split()))


class Batch:
    """All sources of a folder, in the order in which they were named."""

    def __init__(self, out: Path, sources: Sequence[Path], options: Mapping[str, Any],
                 *, overwrite: bool = False):  # fmt: skip
        """Begin, or go on where an earlier call ended; failed sources are tried again.

        Raises `UserError` for a folder that holds anything else, or a batch of other options;
        with `overwrite` all begins again.
        """
        self.out, self.options = out, {name: _plain(options[name]) for name in sorted(options)}
        before: dict[str, Entry] = {}
        if (out / STATE).is_file() and not overwrite:
            before = self._read()
        elif out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file; give --out a directory")
        elif not overwrite and out.is_dir() and any(out.iterdir()):
            raise UserError(
                f"{out} is not empty and holds no batch; choose another --out or --overwrite"
            )
        self.entries = self._planned(sources, before)
        self.kept = sum(entry.state == DONE for entry in self.entries)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        self.save(interrupted=True)

    @property
    def waiting(self) -> list[int]:
        """Rows of the sources that are still to be done."""
        return [row for row, entry in enumerate(self.entries) if entry.state == WAITING]

    def count(self, state: str) -> int:
        """Sources in that state."""
        return sum(entry.state == state for entry in self.entries)

    def put(self, row: int, entry: Entry) -> None:
        """What became of one source; the file says so at once."""
        self.entries[row] = entry
        self.save(interrupted=True)

    def save(self, *, interrupted: bool) -> None:
        """Write the file, whole or not at all."""
        document = {
            "format": FORMAT,
            "options": self.options,
            "done": self.count(DONE),
            "failed": self.count(FAILED),
            "waiting": self.count(WAITING),
            "frames": sum(entry.frames for entry in self.entries),
            "interrupted": interrupted,
            "sources": [entry._asdict() for entry in self.entries],
        }
        with replacing(self.out / STATE) as file:
            file.write(json_bytes(document))

    def table(self) -> str:
        """A row for every source, and their sum."""
        head = ("source", "state", "frames", "refused", "segments", "metres", "seconds", "waiting")
        rows = [head, *map(_cells, self.entries)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
        reasons = [entry.reason for entry in self.entries]
        lines[1:] = [
            f"{line}  {why}".rstrip() for line, why in zip(lines[1:], reasons, strict=True)
        ]
        total = f"{self.count(DONE)} of {len(self.entries)} sources done"
        frames = f"{sum(entry.frames for entry in self.entries):,} frames"
        failed = f", {self.count(FAILED)} failed" if self.count(FAILED) else ""
        return "\n".join([*lines, f"{total}{failed}; {frames}"])

    def _read(self) -> dict[str, Entry]:
        path = self.out / STATE
        try:
            found = json.loads(path.read_text())
            entries = [Entry(**row) for row in found["sources"]]
            options = found["options"]
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); choose another --out or --overwrite"
            ) from None
        if options != self.options:
            names = sorted({*options, *self.options})
            changed = (
                f"{name} was {options.get(name, 'default')}, is {self.options.get(name, 'default')}"
                for name in names
                if options.get(name) != self.options.get(name)
            )
            raise UserError(
                f"{self.out} was begun with other options ({'; '.join(changed)}): give the same to"
                " go on, or choose another --out or --overwrite"
            )
        return {entry.source: entry for entry in entries}

    def _planned(self, sources: Iterable[Path], before: Mapping[str, Entry]) -> list[Entry]:
        """An entry for every source; names of folders stay as they were."""
        paths = list(dict.fromkeys(str(path.resolve()) for path in sources))
        taken = {before[path].folder for path in paths if path in before}
        entries = []
        for path in paths:
            size, modified = _measure(Path(path))
            known = before.get(path)
            if known is None:
                known = Entry(path, _folder_name(Path(path), taken))
                taken.add(known.folder)
            same = (known.bytes, known.modified_ns) == (size, modified)
            if not (known.state == DONE and same and _is_complete(self.out / known.folder)):
                known = Entry(path, known.folder, size, modified)
            entries.append(known)
        return entries


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value


def _measure(path: Path) -> tuple[int, int]:
    """Bytes of a file or of all files in a folder, and when the newest was written."""
    files = path.rglob("*") if path.is_dir() else [path]
    facts = [file.stat() for file in files if file.is_file()]
    return sum(fact.st_size for fact in facts), max((f.st_mtime_ns for f in facts), default=0)


def _folder_name(path: Path, taken: set[str]) -> str:
    stem = path.stem or "source"
    names = (stem, f"{path.parent.name}_{stem}", *(f"{stem}_{n}" for n in range(2, 10**6)))
    return next(name for name in names if name not in taken and name != STATE)


def _is_complete(folder: Path) -> bool:
    if not is_run(folder):
        return False
    summary = open_run(folder).summary
    return not summary["interrupted"] and len(open_run(folder).files) == summary["frames"]


def _cells(entry: Entry) -> tuple[str, ...]:
    name = Path(entry.source).name
    if entry.state != DONE:
        return (name, entry.state, *["-"] * 6)
    return (
        name,
        entry.state,
        f"{entry.frames}",
        f"{entry.refused}",
        f"{entry.segments}",
        "yes" if entry.metric else "no",
        f"{entry.seconds:.1f}",
        f"{entry.waiting_share:.0%}",
    )


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
