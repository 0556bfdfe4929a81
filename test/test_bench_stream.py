# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt bench stream`: rates fitted to measured steps, the plot, random weights."""

import json

import numpy as np
import pytest

from vggt_ros.errors import UserError
from vggt_ros.model.config import TINY, VGGT_1B
from vggt_ros.model.random_weights import random_weights
from vggt_ros.tools.bench import flops, main, plot, rigs
from vggt_ros.tools.bench.flops import Work
from vggt_ros.tools.bench.plot import Rates, fit

pytestmark = pytest.mark.slow

WORK = {s: flops.step(VGGT_1B, s, (392, 518)).total for s in range(1, 17)}


def test_rates_are_recovered_from_exact_times():
    truth = Rates(600e12, 300e12)
    found = fit(WORK, {s: truth.seconds(work) for s, work in WORK.items()})
    assert found == pytest.approx(truth, rel=1e-9)


def test_noise_changes_the_rates_little():
    truth, random = Rates(600e12, 300e12), np.random.default_rng(0)
    times = {s: truth.seconds(work) * random.uniform(0.98, 1.02) for s, work in WORK.items()}
    assert fit(WORK, times) == pytest.approx(truth, rel=0.1)


def test_one_window_or_negative_attention_give_one_rate():
    assert fit({4: WORK[4]}, {4: 2.0}) == pytest.approx((WORK[4].total / 2,) * 2)
    free = {s: work.gemm / 1e12 for s, work in WORK.items()}
    free[16] /= 2  # attention of negative time
    gemm, attention = fit(WORK, free)
    assert gemm == attention > 0


def test_the_plot_measures_only_the_step(tmp_path, monkeypatch, capsys):
    class Stepper:
        size, config, dtype = (168, 224), TINY, np.dtype(np.float32)

        def __init__(self, options):
            assert options.windows == tuple(range(1, 17))

        def at(self, s):
            return lambda: None

    def interleaved(sides, repeats):
        return {s: 1e-12 * sum(flops.step(TINY, int(s), (168, 224)).total) for s in sides}

    monkeypatch.setattr(plot, "Stepper", Stepper)
    monkeypatch.setattr(plot, "interleaved", interleaved)
    plot_file = tmp_path / "step.png"
    main.bench("stream", json=True, plot=plot_file)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert plot_file.read_bytes().startswith(b"\x89PNG")
    assert len(rows) == 16 + 3 and "step_s/tiny/224x168/S16" in rows
    assert rows["model_off/tiny/224x168"]["value"] < 1e-6
    assert rows["gemm_rate/tiny/224x168"]["value"] == pytest.approx(1000)


def test_an_impossible_plot_is_refused(tmp_path):
    with pytest.raises(UserError, match="--plot is of stream, and full does not use it"):
        main.bench("full", plot=tmp_path / "full.png")
    with pytest.raises(UserError, match=r"\.png"):
        main.bench("stream", plot=tmp_path / "stream.jpeg")


def test_pooled_weights_have_the_shapes_and_keep_the_variance():
    import jax

    from vggt_ros.model.weights import abstract

    heads = ("camera", "depth")
    weights = random_weights(TINY, heads, np.float32, pooled_on=jax.devices()[0])
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract(TINY, heads, np.float32))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), weights) == shapes
    kernel = weights["aggregator"]["stages"][1]["frame_blocks"]["mlp"]["fc1"]["kernel"]
    assert np.std(kernel) == pytest.approx(TINY.aggregator.embed_dim**-0.5, rel=0.02)


def test_work_adds_and_multiplies():
    assert flops.plus(Work(1, 2) * 3, Work(1, 1)) == Work(4, 7)
    assert Work(4, 7).total == 11


def test_steps_of_rigs_are_timed_against_one_cameras(monkeypatch, capsys):
    asked = []

    class Stepper:
        size, config = (168, 224), TINY

        def __init__(self, options):
            pass

        def at_instant(self, instants, cameras, *, at_once):
            asked.append((instants, cameras, at_once))
            return lambda: None

    def interleaved(sides, repeats):
        return {"one": 1.0, "rig": 2.0, "one by one": 2.5}

    monkeypatch.setattr(rigs, "Stepper", Stepper)
    monkeypatch.setattr(rigs, "interleaved", interleaved)
    main.bench("stream", json=True, cameras=(2, 3), windows=(4,))
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["rig_over_one/tiny/224x168/T4xN2"]["value"] == 2.0
    assert rows["at_once_over_one_by_one/tiny/224x168/T4xN3"]["value"] == 0.8
    assert (4, 3, True) in asked and (4, 3, False) in asked and (4, 1, False) in asked
    work = [flops.step(TINY, 4 * n, (168, 224), new=n, depth_frames=n).total for n in (1, 2)]
    times = sum(work[1]) / sum(work[0])
    assert f"{times:.3g} times" in rows["rig_over_one/tiny/224x168/T4xN2"]["against"]


@pytest.mark.parametrize(
    ("name", "cameras", "said"),
    [
        ("full", (2,), "--cameras is of stream, and full does not use it"),
        ("stream", (1, 2), "--cameras takes numbers from 2 on"),
    ],
)
def test_impossible_rigs_are_refused(name, cameras, said):
    with pytest.raises(UserError, match=said):
        main.bench(name, cameras=cameras)
