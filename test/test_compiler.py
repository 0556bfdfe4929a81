# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Kept programs: one is loaded only by the very code that wrote it."""

import errno
import shutil
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from vggt_ros.engine import compiler
from vggt_ros.engine.compiler import Compiler, program_sources
from vggt_ros.engine.shapes import EncoderProgram
from vggt_ros.model.config import TINY

pytestmark = pytest.mark.slow

SHAPE = EncoderProgram((28, 28), 1)


@pytest.fixture
def package(root, tmp_path, monkeypatch):
    """A copy of the sources, which the fingerprint reads from there."""
    for folder in ("model", "engine"):
        shutil.copytree(root / "vggt_ros" / folder, tmp_path / "vggt_ros" / folder)
    monkeypatch.setattr(compiler, "PACKAGE", tmp_path / "vggt_ros")
    return tmp_path / "vggt_ros"


def compiler_in(cache) -> Compiler:
    return Compiler(TINY, np.dtype("float32"), jax.devices("cpu")[0], cache)


def test_every_module_of_the_model_and_the_compiler_itself_end_up_in_programs(package):
    sources = {path.relative_to(package).as_posix() for path in program_sources()}
    modules = {path.relative_to(package).as_posix() for path in package.glob("model/**/*.py")}
    assert len(modules) > 10 and modules | {"engine/compiler.py"} <= sources


@pytest.mark.parametrize(
    "edited", ["model/vggt.py", "model/new_folder/kernels.py", "engine/compiler.py"]
)
def test_an_edit_of_a_source_changes_the_fingerprint(package, tmp_path, edited):
    before = compiler_in(tmp_path).fingerprint(SHAPE)
    assert compiler_in(tmp_path).fingerprint(SHAPE) == before
    path = package / edited
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\nEDITED = True\n")
    assert compiler_in(tmp_path).fingerprint(SHAPE) != before


def test_a_moved_module_changes_the_fingerprint(package, tmp_path):
    before = compiler_in(tmp_path).fingerprint(SHAPE)
    (package / "model/stream.py").rename(package / "model/moved.py")
    assert compiler_in(tmp_path).fingerprint(SHAPE) != before


def test_a_program_that_other_code_wrote_is_not_used(package, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    compiler_in(cache)(SHAPE)
    traced = []
    trace = Compiler.trace
    monkeypatch.setattr(
        Compiler, "trace", lambda self, shape: traced.append(shape) or trace(self, shape)
    )
    compiler_in(cache)(SHAPE)
    assert not traced, "the same code loads what it wrote"
    with (package / "model/stream.py").open("a") as file:
        file.write("# edited\n")
    compiler_in(cache)(SHAPE)
    assert traced == [SHAPE] and len(list(cache.glob("*.export"))) == 2


def test_a_full_disk_costs_the_kept_program_and_is_said_until_one_is_kept(tmp_path, monkeypatch):
    @contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
        yield

    made = compiler_in(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(compiler, "atomic_write", full)
        assert callable(made(SHAPE))
    assert f"cannot be kept in {tmp_path} (No space left on device)" in made.cache_fault
    assert not list(tmp_path.glob("*.export"))
    assert callable(made(SHAPE)) and made.cache_fault == ""
    assert len(list(tmp_path.glob("*.export"))) == 1


@pytest.mark.parametrize("damage", ["torn", "other bytes", "a folder"])
def test_a_kept_program_that_is_damaged_is_made_again(tmp_path, damage):
    compiler_in(tmp_path)(SHAPE)
    (path,) = tmp_path.glob("*.export")
    whole = path.read_bytes()
    if damage == "a folder":  # as any file that cannot be read
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "torn" else whole[:-1] + b"?")
    again = compiler_in(tmp_path)
    assert callable(again(SHAPE))
    assert bool(again.cache_fault) is (damage == "a folder")
