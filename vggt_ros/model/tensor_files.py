# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tensor files: tensors by name, each read from disk when it is converted to an array.

Plain reads into fresh memory, no mapping: only requested tensors are resident, one at a time, and
a file that is replaced meanwhile cannot change the weights of a running network.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.files import atomic_write
from vggt_ros.model.npz_files import read_npz
from vggt_ros.model.orbax_files import read_orbax, tree_folder

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
TORCH = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Stored:
    """A tensor on disk; `np.asarray` reads it."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        tensor = aligned(self.shape, self.dtype)
        octets = tensor.reshape(-1).view(np.uint8)
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                read = file.readinto(octets.data)
        except OSError as fault:
            raise UserError(f"{self.path} cannot be read: {fault.strerror or fault}") from fault
        if read != octets.size:
            raise UserError(f"{self.path} became shorter while it was read")
        return tensor.astype(dtype or self.dtype, copy=False)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Empty memory that starts at a multiple of 64 bytes: JAX on a CPU uses it without a copy."""
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 63, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class TensorFiles(NamedTuple):
    """Tensors and metadata of one or several files."""

    tensors: dict[str, Any]  # array-likes with shape and dtype
    metadata: dict[str, str]


def open_files(paths: Iterable[Path]) -> TensorFiles:
    """Tensors of .safetensors files and their index, of .pt, .npz and Orbax's; each name once.

    Raises UserError for a file that is missing, damaged or of another kind.
    """
    tensors: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        part = _open(path)
        if twice := tensors.keys() & part.tensors.keys():
            raise UserError(f"{path} holds {min(twice)!r}, which an earlier file holds too")
        tensors |= part.tensors
        metadata |= part.metadata
    if not tensors:
        raise UserError("the weight files hold no tensors")
    return TensorFiles(tensors, metadata)


def _open(path: Path) -> TensorFiles:
    if (folder := tree_folder(path)) is not None:
        return TensorFiles(*read_orbax(folder))
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix == ".npz":
        return TensorFiles(*read_npz(path))
    if path.suffix == ".json":
        return open_files(_shards(path))
    if path.suffix in TORCH:
        return TensorFiles(_open_torch(path), {})
    raise UserError(
        f"{path} is not a weight file: .safetensors, its .index.json, .pt, .npz and the folders of"
        " Orbax are supported"
    )


# ---- safetensors ------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> TensorFiles:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UserError(f"{path} is truncated ({size} bytes) or not a safetensors file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        tensors = {name: _stored(path, 8 + length, entry) for name, entry in header.items()}
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise UserError(f"{path} has a broken safetensors header ({fault})") from fault
    end = max((t.offset + prod(t.shape) * t.dtype.itemsize for t in tensors.values()), default=0)
    if end > size:
        raise UserError(f"{path} is truncated: {size} of {end} bytes; download or copy it again")
    return TensorFiles(tensors, metadata)


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> Stored:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise UserError(f"{path} holds tensors of type {entry['dtype']}, which VGGT does not use")
    tensor = Stored(path, start + begin, tuple(entry["shape"]), DTYPES[entry["dtype"]])
    if end - begin != prod(tensor.shape) * tensor.dtype.itemsize:
        raise ValueError(f"shape {tensor.shape} does not fit {end - begin} bytes")
    return tensor


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{index} is not an index of sharded weights ({fault!r})") from fault
    return [index.parent / name for name in sorted(names)]


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Write arrays one by one, atomically.  Raises UserError where that fails."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + prod(tensor.shape) * tensor.dtype.itemsize
        code = CODES[np.dtype(tensor.dtype)]
        entries[name] = {"dtype": code, "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % 64)  # aligned data can be mapped by other readers
    try:
        with atomic_write(path) as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in tensors.values():
                file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror or fault}") from fault


# ---- PyTorch ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    """A PyTorch tensor, mapped from its file; `np.asarray` copies it out."""

    tensor: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        import torch  # pyright: ignore[reportMissingImports]

        raw = self.tensor.contiguous()
        if raw.dtype == torch.bfloat16:  # NumPy has no such type
            raw = raw.view(torch.int16)
        return raw.numpy().view(self.dtype).astype(dtype or self.dtype)


# Classes of plain data that training scripts store beside the weights; making one executes nothing.
PLAIN_DATA = ("argparse.Namespace", "types.SimpleNamespace", "collections.OrderedDict",
              "pathlib.PosixPath", "numpy.dtype", "numpy.ndarray")  # fmt: skip


def _open_torch(path: Path) -> dict[str, _Tensor]:
    """Tensors of a dictionary in any depth, names joined by dots; nothing in it is executed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path.name} needs PyTorch to be read; install it {install_extra('convert')}"
        ) from None
    import pickle

    try:
        with torch.serialization.safe_globals(_plain_data()):
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as fault:
        if refused := re.search(r"GLOBAL (\S+)", str(fault)):
            raise UserError(
                f"{path} holds a {refused[1]} beside its weights, which is not read since it could"
                " execute code; where it came from, write the weights alone:"
                " torch.save(model.state_dict(), FILE)"
            ) from fault
        raise _not_a_checkpoint(path, fault) from fault
    except (RuntimeError, ValueError, EOFError, OSError, TypeError, AttributeError) as fault:
        raise _not_a_checkpoint(path, fault) from fault
    found = {name: tensor.detach() for name, tensor in _tensors_in(state, torch.is_tensor)}
    if not found:
        raise UserError(f"{path} does not hold a dictionary of tensors")
    return {name: _Tensor(t, tuple(t.shape), _numpy_dtype(t)) for name, t in found.items()}


def _not_a_checkpoint(path: Path, fault: Exception) -> UserError:
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    return UserError(f"{path} is truncated or not a plain PyTorch checkpoint ({reason})")


def _plain_data() -> list[Any]:
    """The classes of `PLAIN_DATA`, and what NumPy's scalars and arrays are made with."""
    from numpy._core import multiarray

    named = [getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
             for name in PLAIN_DATA]  # fmt: skip
    makers: list[Any] = [multiarray.scalar, multiarray._reconstruct]
    old = [(maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers]
    return [*named, *makers, *old, *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdgSUV")]


def _tensors_in(tree: Any, is_tensor: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Tensors with the keys that lead to them; what is no dictionary and no tensor is passed by."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if is_tensor(value):
            yield str(key), value
        else:
            yield from ((f"{key}.{name}", tensor) for name, tensor in _tensors_in(value, is_tensor))


def _numpy_dtype(tensor: Any) -> np.dtype:
    kind = str(tensor.dtype).removeprefix("torch.")
    return np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
