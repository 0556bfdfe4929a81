# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: names and paths, checks of keys and values, keys of earlier releases."""

from pathlib import Path

import pytest

from vggt_ros.errors import UserError
from vggt_ros.model.vggt import PRESETS
from vggt_ros.tools.cli import call
from vggt_ros.train import run
from vggt_ros.train.config import RECIPES, find_recipe, read_recipe, recipe_from

NAMES = {
    "small", "small_cpu", "small_cpu_wide", "small_rig", "small_varied", "small_varied_cpu",
    "small_cameras_cpu", "small_cameras_cpu_wide",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1e-3", "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("loss: {camra: 2}", "did you mean 'camera'"),
        ("steps: many", "steps must be of type int"),
        ("data: {kind: photos}", "one of scenes, co3d"),
        ("buckets: [[2, 30, 28]]", "multiples of 14"),
        ("data: {kind: co3d}", "needs data.root"),
        ("data: {motion_scale: [4, 1]}", "motion_scale is two positive numbers"),
        ("data: {motions: sideways}", "must be one of robots, varied"),
        ("data: {motions: varied, motion_scale: [1, 4]}", "no data.motion_scale"),
        ("data: {motions: varied, robots_share: 0.5, rooms_share: 0.6}", "at most 1"),
        ("data: {robots_share: 0.5}", "at most 1"),
        ("{heads: [depth], dense_share: 0.5}", "heads must have camera"),
        ("dense_share: 1.5", "between 0 and 1"),
        ("data: {motion_scale: [1, 4], paces: [1, 4]}", "motion_scale is given twice"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_an_error_with_a_hint(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_recipe(path)


def test_the_recipes_of_the_package_are_valid_and_listed_in_the_help():
    assert {path.stem for path in RECIPES.iterdir()} == NAMES
    for name in NAMES:
        assert read_recipe(name).model in PRESETS
        assert name in str(run.train.__doc__)


def test_a_bare_name_is_a_recipe_of_the_package_in_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a folder of that name is not a recipe
    assert find_recipe("small") == RECIPES / "small.yaml"
    assert read_recipe("small").steps == 7000


def test_a_file_takes_precedence_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("small", "my.yaml"):
        (tmp_path / name).write_text("steps: 3")
        assert read_recipe(name).steps == 3


@pytest.mark.parametrize("name", ["smal", "configs/small.yaml", "small.yaml"])
def test_an_unknown_recipe_is_an_error_that_lists_those_of_the_package(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=", ".join(sorted(NAMES))):
        read_recipe(name)
    assert call(["train", name]) == 1
    assert f"there is no recipe '{name}'" in capsys.readouterr().err


def test_keys_of_earlier_releases_are_accepted():
    old = recipe_from({"data": {"paces": [1, 4]}})
    assert old == recipe_from({"data": {"motion_scale": [1, 4]}})
    assert old.data.motion_scale == (1.0, 4.0)


def test_help_needs_no_recipe_file(capsys):
    with pytest.raises(SystemExit) as end:
        call(["train", "small", "--help"])
    assert end.value.code == 0
    assert "--official" in capsys.readouterr().out


def test_the_run_folder_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    folders = []

    class FakeRun:
        def __init__(self, recipe, folder):
            folders.append(folder)

        def train(self, minutes, official):
            assert (minutes, official) == (2.0, True)

    monkeypatch.setattr(run, "Run", FakeRun)
    monkeypatch.chdir(tmp_path)
    assert call(["train", "small", "--minutes", "2", "--official"]) == 0
    assert call(["train", "small", "--minutes", "2", "--official", "--out", "mine"]) == 0
    assert folders == [Path("runs/small"), Path("mine")]


@pytest.mark.parametrize("minutes", ["-1", "nan"])
def test_a_time_that_is_none_is_refused(tmp_path, monkeypatch, capsys, minutes: str):
    monkeypatch.chdir(tmp_path)
    assert call(["train", "small", "--minutes", minutes]) == 1
    assert f"--minutes is {minutes}; give 0 or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
