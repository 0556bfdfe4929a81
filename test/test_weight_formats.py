# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt weights --format`: the same weights bit for bit in every format, and back."""

import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from golden_model import CONFIG, assert_equal_weights, official, official_file, weights
from safetensors.numpy import load_file

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.model.config import TINY
from vggt_ros.model.npz_files import read_npz, write_npz
from vggt_ros.model.orbax_files import read_orbax, write_orbax
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.weights import flatten
from vggt_ros.tools.weights import convert


@pytest.fixture
def source(tmp_path) -> Path:
    """An official file and its configuration, in a folder of their own."""
    (tmp_path / "source").mkdir()
    return official_file(tmp_path / "source")


def test_weights_go_through_every_format_and_back_bit_for_bit(source, tmp_path, capsys):
    for dtype in ("float32", "bfloat16"):
        direct = tmp_path / f"{dtype}.safetensors"
        convert(str(source), direct, dtype)
        convert(str(source), tmp_path / "a.npz", dtype)
        convert(str(tmp_path / "a.npz"), tmp_path / "b", dtype, format="orbax")
        convert(str(tmp_path / "b"), tmp_path / "c.safetensors", dtype)
        assert (tmp_path / "c.safetensors").read_bytes() == direct.read_bytes()
    parameters = sum(leaf.size for leaf in flatten(weights()).values())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 8
    assert all(f"{len(flatten(weights()))} arrays, {parameters:,} parameters" in x for x in said)


def test_official_names_are_those_that_were_read(source, tmp_path):
    convert(str(source), tmp_path / "own.npz")
    (tmp_path / "out").mkdir()
    convert(str(tmp_path / "own.npz"), tmp_path / "out" / "model.safetensors", format="official")
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert back.keys() == official().keys()
    assert all(np.array_equal(back[name], x) for name, x in official().items())
    assert open_weights(tmp_path / "out")[0] == CONFIG
    (tmp_path / "out" / "config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match="config.json is of another network"):
        convert(str(source), tmp_path / "out" / "other.safetensors", format="official")


def test_the_mean_of_two_sources_is_that_of_each_weight(source, tmp_path):
    shifted = jax.tree.map(lambda x: np.asarray(x) + 0.5, weights())
    save(tmp_path / "shifted.safetensors", CONFIG, shifted)
    out = tmp_path / "mean.safetensors"
    convert(str(source), out, average=str(tmp_path / "shifted.safetensors"), share=0.25)
    found = flatten(open_weights(out)[1])
    for path, x in flatten(weights()).items():
        np.testing.assert_allclose(found[path], x + 0.125, rtol=1e-6, atol=1e-6)
    convert(str(source), out, "bfloat16", average=str(tmp_path / "shifted.safetensors"), share=0.25)
    kernel = "encoder", "blocks", "mlp", "fc1", "kernel"
    kept = next(x for path, x in flatten(open_weights(out, dtype="bfloat16")[1]).items() if
                path == kernel)  # fmt: skip
    expected = (flatten(weights())[kernel] + 0.125).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(kept), expected)


def test_dense_heads_may_have_a_share_of_their_own(source, tmp_path):
    shifted = jax.tree.map(lambda x: np.asarray(x) + 0.5, weights())
    save(tmp_path / "shifted.safetensors", CONFIG, shifted)
    out, second = tmp_path / "mean.safetensors", str(tmp_path / "shifted.safetensors")
    convert(str(source), out, average=second, share=0.25, dense_share=1.0)
    found = flatten(open_weights(out)[1])
    for path, x in flatten(weights()).items():
        added = 0.5 if path[0] in ("depth_head", "point_head", "track_head") else 0.125
        np.testing.assert_allclose(found[path], x + added, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match=r"a share of -0\.1: it must be between"):
        convert(str(source), out, average=second, dense_share=-0.1)


def test_a_mean_is_of_two_networks_of_one_kind_and_is_written(source, tmp_path):
    save(tmp_path / "tiny.safetensors", TINY, random_weights(TINY))
    out = tmp_path / "mean.safetensors"
    for options, words in (
        (
            {"to": out, "average": str(tmp_path / "tiny.safetensors")},
            "tiny.safetensors is another network than",
        ),
        ({"to": out, "average": str(source), "share": 1.5}, "a share of 1.5: it must be between"),
        ({"average": str(source)}, "name the file with --to"),
    ):
        with pytest.raises(UserError, match=words):
            convert(str(source), **options)
    assert not out.exists()


def test_files_of_others_in_these_formats_are_read(source, tmp_path):
    np.savez(tmp_path / "theirs.npz", **official())
    nested = {name.replace(".", "/"): x for name, x in official().items()}
    write_orbax(tmp_path / "theirs", nested, {})
    for theirs in ("theirs.npz", "theirs"):
        assert_equal_weights(open_weights(tmp_path / theirs, CONFIG)[1], flatten(weights()))
    step = tmp_path / "10"
    step.mkdir()
    (tmp_path / "theirs").rename(step / "default")  # as a CheckpointManager writes
    assert_equal_weights(open_weights(step, CONFIG)[1], flatten(weights()))


@pytest.mark.parametrize("at_once", [20, 2**20])
def test_single_arrays_survive_with_their_types(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("vggt_ros.model.orbax_files.AT_ONCE", at_once)
    half = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
    tensors = {"a/0": half, "a/b": np.float32(3.5)[None], "c": np.arange(4)}
    write_npz(tmp_path / "x.npz", tensors, {"k": "v"})
    write_orbax(tmp_path / "x", tensors, {"k": "v"})
    for found, metadata in (read_npz(tmp_path / "x.npz"), read_orbax(tmp_path / "x")):
        assert metadata == {"k": "v"} and found.keys() == tensors.keys()
        for name, tensor in reversed(tensors.items()):
            assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
            np.testing.assert_array_equal(np.asarray(found[name]), tensor)


def test_damaged_files_and_other_names_are_refused(source, tmp_path):
    save(tmp_path / "own.npz", CONFIG, weights(), "npz")
    whole = (tmp_path / "own.npz").read_bytes()
    (tmp_path / "own.npz").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="own.npz is damaged"):
        open_weights(tmp_path / "own.npz")
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(UserError, match="own.npz is damaged"):
        open_weights(tmp_path / "own.npz")
    write_orbax(tmp_path / "o", {"x": np.ones(3)}, {})
    (tmp_path / "o" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match="o is damaged or no Orbax checkpoint"):
        open_weights(tmp_path / "o")
    for to, kind, words in (
        ("a.npz", "safetensors", "must end in .safetensors"),
        ("a", "auto", "--format orbax"),
        ("a.npz", "orbax", "Orbax writes a folder"),
        ("source", "orbax", "is there and no Orbax checkpoint"),
    ):
        with pytest.raises(UserError, match=words):
            convert(str(source), tmp_path / to, format=kind)
    assert (tmp_path / "source" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind, name", [("safetensors", "w.safetensors"), ("orbax", "w")])
def test_ctrl_c_leaves_the_older_file_and_nothing_else(source, tmp_path, kind, name):
    (tmp_path / "to").mkdir()
    convert(str(source), tmp_path / "to" / name, format=kind)
    before = flatten(open_weights(tmp_path / "to" / name)[1])
    program = f"""
import os, signal, sys
from vggt_ros.model import checkpoint
from vggt_ros.tools import cli
write = checkpoint.WRITERS[{kind!r}]
def interrupted(path, tensors, metadata):
    class Slow(dict):  # Ctrl-C in the middle of the file
        def items(self):
            for number, item in enumerate(super().items()):
                if number == 20:
                    os.kill(os.getpid(), signal.SIGINT)
                yield item
        def values(self):
            return (value for _, value in self.items())
    write(path, Slow(tensors), metadata)
checkpoint.WRITERS[{kind!r}] = interrupted
sys.argv = ["vggt", "weights", {str(source)!r}, "--to", {str(tmp_path / "to" / name)!r},
            "--format", {kind!r}]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130 and "vggt: interrupted" in done.stderr, done.stderr
    assert [path.name for path in (tmp_path / "to").iterdir()] == [name]
    assert_equal_weights(open_weights(tmp_path / "to" / name)[1], before)
