# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What became of the tensors of a checkpoint: loaded, missing, unexpected, of another shape."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.model.new_parts import is_new, layout_of_part, source_of

Shape = tuple[int, ...]
SAMPLES = 3  # names that are printed of each kind
LEAST_SHARE = 0.5  # of the tensors of a file that must fit, where not all of a network are needed


class Report(NamedTuple):
    """Tensors of a checkpoint against those a model needs; as text, a table and sample names."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # and needed
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, Shape, Shape], ...]  # name, found, needed
    switched_off: tuple[str, ...]  # of heads that were not requested
    absent: tuple[str, ...] = ()  # of heads that the file lacks, and that were not requested
    copied: tuple[tuple[str, str], ...] = ()  # not in the file, and the tensor that they start from
    neutral: tuple[str, ...] = ()  # not in the file: new parts, which start without an effect
    notes: tuple[str, ...] = ()  # how names were found

    @property
    def balanced(self) -> bool:
        """Whether every tensor has its place, and every place its tensor."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Unexpected tensors of modules that this network does not have: they change nothing."""
        wrong = [name for name, _, _ in self.wrong_shape]
        known = (*self.loaded, *self.missing, *self.switched_off, *wrong)
        ours = {module_of(name) for name in known}
        return tuple(name for name in self.unexpected if module_of(name) not in ours)

    @property
    def complete(self) -> bool:
        """Whether the network is what the file says: no more than foreign tensors are left over."""
        return not (self.missing or self.wrong_shape) and self.foreign == self.unexpected

    @property
    def share(self) -> float:
        """Of the file's tensors, those that fit."""
        sizes = len(self.loaded), len(self.switched_off), len(self.unexpected)
        found = sum(sizes) + len(self.wrong_shape)
        return (sizes[0] + sizes[1]) / found if found else 0.0

    def __str__(self) -> str:
        columns = {
            "loaded": self.loaded,
            "missing": (*self.missing, *self.absent, *self._names_copied(), *self.neutral),
            "unexpected": self.unexpected,
            "wrong shape": tuple(name for name, _, _ in self.wrong_shape),
            "switched off": self.switched_off,
        }
        modules = sorted({module_of(name) for names in columns.values() for name in names})
        lines = [f"{'module':<14}" + "".join(f"{title:>14}" for title in columns)]
        for module in [*modules, "total"]:
            counts = [
                sum(module in ("total", module_of(name)) for name in names)
                for names in columns.values()
            ]
            lines.append(f"{module:<14}" + "".join(f"{count:>14,}" for count in counts))
        return "\n".join([*lines, *self._explained(), *self.notes])

    def _explained(self) -> list[str]:
        """One line a kind that is not empty: why it is fine or not, and sample names."""
        shapes = [f"{name} {found}, needed {needed}" for name, found, needed in self.wrong_shape]
        copied = [f"{name} from {source}" for name, source in self.copied]
        heads = sorted({module_of(name) for name in self.absent})
        left_out = [name for name in self.unexpected if name in set(self.foreign)]
        kinds = (
            ("missing, and needed", self.missing),
            (f"missing, which is fine unless asked for: no {', '.join(heads)} here", self.absent),
            ("missing, which is fine: new parts that start as copies", copied),
            ("missing, which is fine: new parts that start without an effect", self.neutral),
            ("of another shape", shapes),
            ("unexpected, left out: modules that this network does not have", left_out),
            ("unexpected, in modules of this network",
             [name for name in self.unexpected if name not in set(left_out)]),
        )  # fmt: skip
        return [f"{len(names):,} {text}: {_samples(names)}" for text, names in kinds if names]

    def _names_copied(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.copied)

    def fault(self) -> str:
        """The imbalance in words, with an example of each kind."""
        parts = []
        if self.wrong_shape:
            name, found, needed = self.wrong_shape[0]
            count = len(self.wrong_shape)
            parts.append(f"{count} of another shape (e.g. {name} {found}, needed {needed})")
        if self.missing:
            there = {module_of(name) for name in (*self.loaded, *self.unexpected)}
            heads = sorted({module_of(name) for name in self.missing} - there)
            whole = f": there is no {', '.join(heads)}" if heads else ""
            parts.append(f"{len(self.missing)} missing (e.g. {self.missing[0]}){whole}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} without a place (e.g. {self.unexpected[0]})")
        if layout := next(filter(None, map(layout_of_part, self.unexpected)), ""):
            parts.append(f"which is a part of {layout}: name that layout")
        return ", ".join(parts)

    def require(self, *, partial: bool = False) -> None:
        """Raise UserError unless a network can be made of it, of half of the tensors at least.

        With `partial` what is missing or of another shape may start at random, and any number may
        be left over; something must fit.
        """
        few = self.share < LEAST_SHARE
        if self.complete and not few:
            return
        if not self.loaded:
            raise UserError(f"none of these weights fits this model: {self.fault()}")
        if not partial:
            share = f"only {self.share:.0%} of them do: " if few else ""
            raise UserError(
                f"these weights do not fit this model: {share}{self.fault()}; as a start for"
                " training, `vggt weights --partial --to FILE` takes those that do, and draws what"
                " is missing at random"
            )


def _samples(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SAMPLES])
    return f"{shown}, ..." if len(names) > SAMPLES else shown


def module_of(name: str) -> str:
    """The first part of an official name, or of a path in our own file."""
    return re.split("[./]", name, maxsplit=1)[0]


def compare(
    found: Mapping[str, Shape], needed: Mapping[str, Shape], known: Collection[str]
) -> Report:
    """Balance of names and shapes; what is `known` but not needed belongs to heads that are off.

    New parts of a layout (`new_parts.py`) that are not in the file are no fault.
    """
    origin = {name: name if name in found else source_of(name) for name in needed}
    used = {
        name: source for name, source in origin.items() if source is not None and source in found
    }
    wrong = {
        source: (source, tuple(found[source]), needed[name])
        for name, source in used.items()
        if tuple(found[source]) != needed[name]
    }
    missing = [name for name in needed if name not in used]
    extra = [name for name in found if name not in set(used.values())]
    return Report(
        loaded=tuple(dict.fromkeys(s for s in used.values() if s not in wrong)),
        missing=tuple(name for name in missing if not is_new(name)),
        unexpected=tuple(name for name in extra if name not in known),
        wrong_shape=tuple(wrong.values()),
        switched_off=tuple(name for name in extra if name in known),
        copied=tuple((n, s) for n, s in used.items() if n != s and s not in wrong),
        neutral=tuple(name for name in missing if is_new(name)),
    )
