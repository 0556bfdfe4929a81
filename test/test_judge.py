# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clips of the other renderer: depth, cameras and tracks say the same; made once, and kept."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mitsuba", reason="the other renderer needs the extra [judge]")

from vggt_ros.errors import UserError  # noqa: E402
from vggt_ros.geometry import inverse_rigid, unproject  # noqa: E402
from vggt_ros.tools.evaluate import evaluate  # noqa: E402
from vggt_ros.train import score  # noqa: E402
from vggt_ros.train.judge import render  # noqa: E402
from vggt_ros.train.judge.motions import MOTIONS, move  # noqa: E402
from vggt_ros.train.metrics import constant_baseline  # noqa: E402

SIZE = (42, 56)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("judge")


def drawn(folder, motion, count=1, frames=2):
    return list(render.clips(motion, count, frames, *SIZE, 24, folder))


@pytest.mark.parametrize("motion", MOTIONS)
def test_points_of_one_frame_lie_on_the_depth_of_the_others(folder, motion):
    for clip in drawn(folder, motion, count=3 if motion == "orbit" else 1):  # every kind of scene
        assert clip.images.shape == (2, *SIZE, 3)
        assert 0.1 < clip.images.mean() < 0.9 and clip.images.std() > 0.03
        pixels, seen = unproject(clip.depth[0], clip.intrinsics), np.isfinite(clip.depth[0])
        second_from_first = inverse_rigid(clip.world_from_camera[1]) @ clip.world_from_camera[0]
        points = pixels[seen] @ second_from_first[:3, :3].T + second_from_first[:3, 3]
        u, v, z = (points[points[:, 2] > 0.05] @ clip.intrinsics.T).T
        u, v = np.rint(u / z).astype(int), np.rint(v / z).astype(int)
        inside = (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
        assert inside.mean() > 0.3  # frames overlap
        ratio = z[inside] / clip.depth[1][v[inside], u[inside]]
        assert np.mean(np.abs(ratio - 1) < 0.05) > 0.6  # others are hidden, or at an edge
        assert abs(np.median(ratio) - 1) < 0.01


def test_tracks_are_where_the_points_are(folder):
    (clip, *_) = drawn(folder, "arc")
    np.testing.assert_allclose(clip.tracks[0], clip.queries, atol=1e-3)
    assert clip.visible[0].mean() > 0.9
    place = np.rint(clip.queries).astype(int)
    points = unproject(clip.depth[0], clip.intrinsics)[place[:, 1], place[:, 0]]
    last_from_first = inverse_rigid(clip.world_from_camera[-1]) @ clip.world_from_camera[0]
    uv = (points @ last_from_first[:3, :3].T + last_from_first[:3, 3]) @ clip.intrinsics.T
    np.testing.assert_allclose(clip.tracks[-1], uv[:, :2] / uv[:, 2:], atol=0.05)


def test_a_clip_is_the_same_each_time_and_is_kept(folder, tmp_path):
    again, kept = drawn(tmp_path, "stereo"), drawn(folder, "stereo")
    for name, value in again[0]._asdict().items():
        np.testing.assert_array_equal(value, getattr(kept[0], name), err_msg=name)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    drawn(tmp_path, "stereo")
    assert file.stat().st_mtime_ns == written


def test_motions_are_what_they_are_called():
    random = np.random.default_rng(0)
    arc = move("arc", 4, 1.0, random)
    ahead = arc[:, :3, 2]
    turned = np.degrees(np.arccos(np.sum(ahead[1:] * ahead[:-1], axis=-1)))
    assert (turned > 2).all() and (turned < 16).all()
    left, right = move("stereo", 2, 1.0, random)
    np.testing.assert_allclose(left[:3, :3], right[:3, :3])
    shift = left[:3, :3].T @ (right[:3, 3] - left[:3, 3])
    assert shift[0] > 0.02 and np.abs(shift[1:]).max() < 1e-9  # the right one is to the right
    robot = move("robot", 5, 1.0, random)
    assert np.ptp(robot[:, 2, 3]) < 1e-9  # stays at its height


def test_rows_of_every_motion_and_of_all(folder):
    found = score.judge(constant_baseline, 1, (2,), SIZE, folder)
    assert set(found) == {f"other/{motion}" for motion in (*MOTIONS, "all", "nothing")}
    assert [row.frames for row in found["other/all"]] == [2]
    assert found["other/all"] == found["other/nothing"]  # the baseline was scored
    assert 0.1 < found["other/all"][0].abs_rel < 2.0
    motions = [found[f"other/{motion}"][0].abs_rel for motion in MOTIONS]
    assert found["other/all"][0].abs_rel == pytest.approx(np.mean(motions))
    assert "other/arc" in score.table(found) and "scale %" in score.table(found)


def test_a_number_of_clips_that_is_none_is_refused():
    with pytest.raises(UserError, match="--other is -1; give 0 or more"):
        evaluate(Path("small"), Path("rooms"), other=-1)
