# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Official names in files that call their tensors otherwise: prefixes, nested states, relatives.

Training scripts store a network as `module.`, `model.` or `state_dict`, beside an optimiser, in any
depth.  VGGT_MV names one weight twice.  Pi3 stores frame and global blocks in one list.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vggt_ros.errors import UserError

ROOTS = frozenset({"aggregator", "camera_head", "depth_head", "point_head", "track_head"})
PI3_ROOTS = frozenset({"decoder", "encoder"})
ALIASES = (  # of VGGT_MV: one weight, two names
    (r"^aggregator\.view_blocks\.", "aggregator.global_blocks."),
    (r"^aggregator\.time_blocks\.", "aggregator.frame_blocks."),
)


class Named(NamedTuple):
    """Tensors by official name where one was found, and how it was found, in sentences."""

    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def official_names(tensors: Mapping[str, Any], known: Collection[str]) -> Named:
    """The tensors under official names; of several states in a file, that with most `known` names.

    Raises UserError where a weight that is shared has two values.
    """
    stripped = _without_prefix(tensors, known)
    aliased = _without_aliases(stripped)
    return _pi3(aliased)


def head_modules(names: Collection[str]) -> set[str]:
    """Which of the modules of a network have tensors among these names, under any prefix."""
    return {part for name in names for part in name.split(".")} & ROOTS


def _without_prefix(tensors: Mapping[str, Any], known: Collection[str]) -> Named:
    counts: Counter[str] = Counter()
    has_roots = bool(head_modules(tensors))
    for name in tensors:
        prefix = _prefix(name, ROOTS if has_roots else PI3_ROOTS)
        if prefix is not None:
            fits = not has_roots or _unaliased(name[len(prefix) :]) in known
            counts[prefix] += fits
    if not counts:
        return Named(dict(tensors))
    most = max(counts.values())
    prefix = min((p for p, count in counts.items() if count == most), key=lambda p: (len(p), p))
    if not prefix:
        return Named(dict(tensors))
    kept = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    notes = [f"names without {prefix!r}, which {len(kept):,} of them begin with"]
    if left_out := len(tensors) - len(kept):
        notes.append(f"{left_out:,} tensors outside {prefix!r} are no part of the network")
    return Named(kept, tuple(notes))


def _prefix(name: str, roots: Collection[str]) -> str | None:
    """What comes before the first part that is a module of the network; None: there is none."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part in roots:
            return "".join(f"{before}." for before in parts[:i])
    return None


def _unaliased(name: str) -> str:
    for pattern, replacement in ALIASES:
        name = re.sub(pattern, replacement, name)
    return name


def _without_aliases(named: Named) -> Named:
    tensors: dict[str, Any] = {}
    twice = 0
    for name, tensor in named.tensors.items():
        official = _unaliased(name)
        if official not in tensors:
            tensors[official] = tensor
            continue
        twice += 1
        if not np.array_equal(np.asarray(tensors[official]), np.asarray(tensor)):
            raise UserError(
                f"{official} has another value under the name of its alias (view_blocks are"
                " global_blocks, time_blocks are frame_blocks): this network shares them"
            )
    notes = list(named.notes)
    if aliases := sum(_unaliased(name) != name for name in named.tensors):
        notes.append(
            f"{aliases:,} names are VGGT_MV's: view_blocks are global_blocks, time_blocks are"
            " frame_blocks; such weights are of layout view_time"
        )
    if twice:
        notes.append(f"{twice:,} tensors have two names and one value: each is loaded once")
    return Named(tensors, tuple(notes))


def _pi3(named: Named) -> Named:
    """Pi3's alternating list as frame and global blocks; other tensors keep their names."""
    if head_modules(named.tensors) or "decoder.0.attn.qkv.weight" not in named.tensors:
        return named

    def renamed(name: str) -> str:
        if block := re.match(r"decoder\.(\d+)\.(.*)", name):
            index = int(block[1])
            kind = ("frame", "global")[index % 2]
            return f"aggregator.{kind}_blocks.{index // 2}.{block[2]}"
        return re.sub(r"^encoder\.register_token$", "aggregator.register_token", name)

    tensors = {renamed(name): tensor for name, tensor in named.tensors.items()}
    count = sum(name not in tensors for name in named.tensors)
    note = f"{count:,} names are Pi3's: decoder.2i is frame_blocks.i, decoder.2i+1 global_blocks.i"
    return Named(tensors, (*named.notes, note))
