# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of names balances in both directions; an imbalance is reported and refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import CONFIG, GOLDEN, official, weights

from vggt_ros.errors import UserError
from vggt_ros.model.config import VGGT_1B
from vggt_ros.model.weights import abstract, balance, flatten, read, table, unflatten
from vggt_ros.model.weights import official as exported


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in official().items()}


def test_vggt_1b_balances():
    listed = json.loads((GOLDEN / "vggt_1b_params.json").read_text())["state_dict"]
    report = balance(VGGT_1B, {name: tuple(x["shape"]) for name, x in listed.items()})
    assert report.balanced and len(report.loaded) == len(set(report.loaded)) == 1_797
    assert sum(x.size for x in flatten(abstract(VGGT_1B)).values()) == 1_256_537_516
    assert "total                  1,797             0             0" in str(report)


def test_every_row_of_every_stack_is_filled_once():
    rows = [(entry.path, entry.row) for entry in table(CONFIG)]
    assert len(set(rows)) == len(rows)
    for path, leaf in flatten(abstract(CONFIG)).items():
        mine = sorted(row for where, row in rows if where == path and row is not None)
        assert mine == list(range(leaf.shape[0])) or (path, None) in rows


def test_weights_survive_the_round_trip():
    back = dict(exported(CONFIG, weights()))
    assert back.keys() == official().keys()
    for name, x in official().items():
        assert np.array_equal(back[name], x), name


def test_paths_survive_the_round_trip():
    flat = flatten(weights())
    assert flatten(unflatten(flat)).keys() == flat.keys()


def test_heads_that_are_off_are_reported_and_balance():
    loaded, report = read(CONFIG, official(), ("depth",))
    assert loaded.keys() == {"encoder", "aggregator", "depth_head"}
    assert report.balanced and len(report.switched_off) == 41 + 62 + 186
    without = {name: x for name, x in official().items() if not name.startswith("track")}
    assert read(CONFIG, without, ("camera", "depth", "points"))[1].balanced


def test_half_precision_is_for_the_matrices_of_the_encoder():
    half = flatten(read(CONFIG, official(), (), jnp.bfloat16)[0])
    assert half["encoder", "blocks", "mlp", "fc1", "kernel"].dtype == jnp.bfloat16
    assert half["encoder", "blocks", "norm1", "scale"].dtype == jnp.float32


def test_each_kind_of_imbalance_is_reported_and_refused():
    tensors = dict(official())
    del tensors["camera_head.trunk.1.ls1.gamma"]
    tensors["depth_head.norm.weight"] = np.ones(7, np.float32)
    tensors["point_head.unknown"] = np.ones(1, np.float32)
    report = balance(CONFIG, {name: x.shape for name, x in tensors.items()})
    assert report.missing == ("camera_head.trunk.1.ls1.gamma",)
    assert report.wrong_shape == (("depth_head.norm.weight", (7,), (96,)),)
    assert report.unexpected == ("point_head.unknown",)
    with pytest.raises(UserError, match=r"1 of another shape.*1 missing.*1 without a place"):
        read(CONFIG, tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    tensors = dict(official())
    bad = tensors["aggregator.frame_blocks.2.attn.qkv.weight"].copy()
    bad[3, 5] = value
    tensors["aggregator.frame_blocks.2.attn.qkv.weight"] = bad
    with pytest.raises(UserError, match=r"frame_blocks\.2\.attn\.qkv\.weight.*NaN or infinity"):
        read(CONFIG, tensors, ())
