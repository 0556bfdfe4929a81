# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights as an .npz of NumPy, whose arrays are read one at a time.

NumPy's files know no bfloat16: such arrays are stored as their bits (uint16), and the metadata list
them.  The metadata are one more array, a string of JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import ml_dtypes
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.files import atomic_write

METADATA, BFLOAT16 = "__metadata__", "bfloat16"
FAULTS = (OSError, ValueError, KeyError, EOFError, BadZipFile)


@dataclass(frozen=True)
class Member:
    """An array in the file; `np.asarray` reads it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype  # bfloat16 where its bits are stored

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        try:
            with ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except FAULTS as fault:
            raise UserError(f"{self.path} is damaged at {self.name} ({fault})") from fault
        return array.view(self.dtype).astype(dtype or self.dtype, copy=False)


def read_npz(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays by name and the metadata; reads headers only.  Raises UserError for other files."""
    try:
        with ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            found = {name: _header(archive, name) for name in names}
        found.pop(METADATA, None)
        metadata = {}
        if METADATA in names:
            metadata = json.loads(str(np.load(path, allow_pickle=False)[METADATA]))
    except FAULTS as fault:
        raise UserError(f"{path} is damaged or not an .npz of plain arrays ({fault})") from fault
    halves = set(json.loads(metadata.pop(BFLOAT16, "[]")))
    half = np.dtype(ml_dtypes.bfloat16)
    return {
        name: Member(path, name, shape, half if name in halves else dtype)
        for name, (shape, dtype) in found.items()
    }, metadata


def write_npz(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Write arrays one by one, atomically.  Raises UserError where that fails."""
    halves = [name for name, tensor in tensors.items() if tensor.dtype == ml_dtypes.bfloat16]
    text = np.array(json.dumps(metadata | {BFLOAT16: json.dumps(halves)}))
    try:
        with atomic_write(path) as file, ZipFile(file, "w", allowZip64=True) as archive:
            for name, tensor in [(METADATA, text), *tensors.items()]:
                array = np.asarray(tensor)
                array = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror or fault}") from fault


def _header(archive: ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    return shape, dtype
