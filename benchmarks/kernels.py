# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of a program that XLA compiled for a GPU, read from its text: bytes and operations.

Of each kernel, the bytes that it reads and writes at least, and the operations of its products;
loops count as often as they run.  The text is that of `compiled.as_text()` (XLA's HLO).
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from vggt_ros.errors import UserError

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1,
         "s64": 8, "u64": 8, "f64": 8, "s16": 2, "u16": 2}  # fmt: skip
# Instructions that start no kernel; the callees of loops and calls are counted instead.
NO_KERNEL = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "iota",
    "fusion-done", "partition-id", "replica-id",
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """A line of the text."""

    name: str
    type: str  # of its result, as text: f32[4,1041]{1,0}, or a tuple of such
    operation: str
    operands: list[str]
    rest: str  # attributes, and the operands before them


class Kernel(NamedTuple):
    """A kernel, or a call of a library."""

    name: str  # in the text
    operation: str  # as in the text, or the target of a custom call
    type: str
    source: str  # the operation of JAX that it comes from
    times: int  # that it runs in one run of the program
    bytes: float  # read and written in one run of it
    operations: float  # of its matrix products


class Program(NamedTuple):
    """Computations by name, and the one that is run."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Instructions of all computations."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            name, kind, operation, rest = found.groups()
            current.append(Instruction(name, kind, operation, _operands(rest), rest))
    return Program(computations, entry)


def kernels(program: Program) -> list[Kernel]:
    """All kernels of a run, in the order of the text.

    Raises UserError where what runs depends on the data.
    """
    return list(_walk(program, program.entry, 1))


def _walk(program: Program, computation: str, times: int) -> Iterator[Kernel]:
    types = {x.name: x.type for x in program.computations[computation]}
    for x in program.computations[computation]:
        if x.operation == "while":
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', x.rest)
            if count is None:
                raise UserError(f"{x.name} loops as often as the data say: it cannot be counted")
            yield from _walk(program, _attribute(x, "body"), times * int(count[1]))
        elif x.operation == "conditional":
            raise UserError(f"{x.name} branches as the data say: it cannot be counted")
        elif x.operation == "call":
            yield from _walk(program, _attribute(x, "to_apply"), times)
        elif x.operation not in NO_KERNEL:
            yield _kernel(program, x, types, times)


def _kernel(program: Program, x: Instruction, types: dict[str, str], times: int) -> Kernel:
    source = re.search(r'op_name="([^"]*)"', x.rest)
    operation, operations = x.operation, 0.0
    inputs = [types.get(name, "") for name in x.operands]
    if operation.startswith("fusion"):
        called = _attribute(x, "calls")
        # An asynchronous fusion has its inputs in its type, too.
        written = size(x.type) / 2 if operation == "fusion-start" else size(x.type)
        moved = written + _read(program.computations.get(called, []))
        operations = _products(program, called)
    else:
        moved = size(x.type) + sum(map(size, inputs))
        if operation == "custom-call":
            operation = _attribute(x, "custom_call_target")
            operations = _library_operations(operation, x, inputs)
    return Kernel(x.name, operation, x.type, source[1] if source else "", times, moved, operations)


def _read(computation: list[Instruction]) -> float:
    """Bytes that a fusion reads: of an input that is only sliced, the slices."""
    total = 0.0
    for x in computation:
        if x.operation != "parameter":
            continue
        uses = [y for y in computation if x.name in y.operands]
        if uses and all(y.operation in ("dynamic-slice", "gather", "slice") for y in uses):
            total += min(size(x.type), sum(size(y.type) for y in uses))
        elif not uses or any(y.operation != "dynamic-update-slice" for y in uses):
            total += size(x.type)  # what is updated in place is not read
    return total


def _products(program: Program, computation: str) -> float:
    """Operations of the matrix products in a fusion and the fusions within it."""
    total, instructions = 0.0, program.computations.get(computation, [])
    types = {x.name: x.type for x in instructions}
    for x in instructions:
        if x.operation == "dot":
            sizes = shape(types[x.operands[0]])
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.rest)
            depth = math.prod(sizes[int(i)] for i in axes[1].split(",")) if axes else 1
            total += 2.0 * math.prod(shape(x.type)) * depth
        elif x.operation == "fusion":
            total += _products(program, _attribute(x, "calls"))
    return total


def _library_operations(target: str, x: Instruction, inputs: list[str]) -> float:
    """Operations of a call of cuBLAS, or of cuDNN's attention or convolution."""
    if "matmul" in target or "gemm" in target:
        found = re.search(r'lhs_contracting_dimensions":\[([^\]]*)\]', x.rest)
        axes = [int(i.strip('"')) for i in found[1].split(",")] if found and found[1] else []
        sizes = shape(inputs[0])
        return 2.0 * math.prod(shape(x.type)) * math.prod(sizes[i] for i in axes)
    if "fmhaSoftmax" in target:  # two products forwards, five backwards
        batch, heads, queries, channels = shape(x.type)
        keys = shape(inputs[1])[1]
        products = 5 if "Backward" in target else 2
        return 2.0 * products * batch * heads * queries * keys * channels
    if "conv" in target and len(inputs) > 1:
        window = re.search(r"window=\{size=([\dx]+)", x.rest)
        taps = math.prod(int(n) for n in window[1].split("x")) if window else 1
        images = [shape(kind) for kind in (x.type, *inputs[:2])]
        largest = sorted((s for s in images if len(s) == 4), key=math.prod)[-2:]
        pixels = min(math.prod(s[:3]) for s in largest)
        return 2.0 * taps * pixels * math.prod(s[3] for s in largest)
    return 0.0


def size(kind: str) -> float:
    """Bytes of a type; of a tuple, of all its parts."""
    return float(sum(
        BYTES.get(name, 4) * math.prod(int(n) for n in numbers.split(",") if n)
        for name, numbers in _ARRAY.findall(kind)
    ))  # fmt: skip


def shape(kind: str) -> list[int]:
    """Sizes of an array; of a tuple, those of its first part."""
    found = _ARRAY.search(kind)
    return [int(n) for n in found[2].split(",") if n] if found else []


def _operands(rest: str) -> list[str]:
    """Names within the outermost parentheses."""
    depth = 0
    for place, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            return re.findall(r"%([\w.\-]+)", rest[:place])
    return []


def _attribute(x: Instruction, name: str) -> str:
    found = re.search(rf'{name}=[%"]?([\w.\-$]+)', x.rest)
    return found[1] if found else ""
