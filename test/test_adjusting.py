# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt colmap --adjust`: cameras that are slightly wrong come closer to the truth."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from fakes.planar_engine import PlanarEngine
from fakes.room import BASE_FROM_CAMERA, HEIGHT, INTRINSICS, WIDTH, drive, true_depth, turn

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, rotation_angle, transform, unproject
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.exports.measured_tracks import pixels_to_follow
from vggt_ros.tools.runs.format import RunFrame, open_run, read_trajectory
from vggt_ros.tools.runs.writer import RunWriter

TRUE = (drive("room") @ BASE_FROM_CAMERA)[60:130:4]  # a straight run and an arc


class TrackingEngine(PlanarEngine):
    """A network that follows points through the room, with a noise of 0.05 pixels."""

    def __init__(self, *, has_tracks: bool = True):
        super().__init__(name="tracking")
        self._random, self._has_tracks = np.random.default_rng(3), has_tracks

    def infer(self, frame_ids, images, *, depth_frames, queries=None, query_frame=0, views=0):
        """As `Engine.infer`; what is hidden by furniture is not visible."""
        self.inferences.append((*frame_ids, query_frame))
        depths = [true_depth(TRUE[i]).astype(np.float32) for i in frame_ids]
        columns, rows = queries.astype(int).T
        world = transform(
            TRUE[frame_ids[query_frame]], unproject(depths[query_frame], INTRINSICS)[rows, columns]
        )
        tracks, visible = [], []
        for i, depth in zip(frame_ids, depths, strict=True):
            there = transform(inverse_rigid(TRUE[i]), world) @ INTRINSICS.T
            uv = there[:, :2] / there[:, 2:]
            x, y = np.rint(uv).astype(int).T
            inside = (there[:, 2] > 0.1) & (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
            z = depth[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)]
            visible.append(inside & (np.abs(z / there[:, 2] - 1) < 0.03))
            tracks.append(uv + self._random.normal(0, 0.05, uv.shape))
        found = np.array(tracks, np.float32), np.array(visible, np.float32)
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        depth = np.stack(depths[-depth_frames:])
        if not self._has_tracks:
            return InferenceResult(encoding, depth, np.ones_like(depth))
        return InferenceResult(encoding, depth, np.ones_like(depth), *found, found[1])


def written(path: Path, poses: np.ndarray, focals: np.ndarray) -> Path:
    """A run of the room with these cameras; its images are noise, so that all of it is texture."""
    random = np.random.default_rng(1)
    with RunWriter(path, {}) as writer:
        for i, pose in enumerate(poses):
            depth = true_depth(TRUE[i]).astype(np.float32)
            image = random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            k = INTRINSICS * [[focals[i], 1, 1], [1, focals[i], 1], [1, 1, 1]]
            stamp = 1_700_000_000_000_000_000 + i * 10**8
            writer.add(RunFrame(depth, np.full_like(depth, 3.0), k, pose, stamp, image))
        writer.summarise({"model": "tracking", "dtype": "float32"})
    return path


def test_each_camera_of_a_rig_has_a_k_of_its_own(tracking, tmp_path, capsys):
    focals = np.where(np.arange(len(TRUE)) % 2, 1.02, 1.0)  # calibrated each, and not alike
    run = written(tmp_path / "run", disturbed(), focals)
    for i, file in enumerate(sorted((run / "frames").iterdir())):
        with np.load(file) as stored:
            arrays = dict(stored) | {"camera": ("front", "left")[i % 2]}
        np.savez(file, **arrays)
    sparse = colmap(run, tmp_path / "out", adjust=True, images="grid")
    model = pycolmap.Reconstruction(str(sparse))
    found = sorted(camera.params[0] for camera in model.cameras.values())
    np.testing.assert_allclose(found, INTRINSICS[0, 0] * np.array([1.0, 1.02]), rtol=1e-6)
    for image in model.images.values():
        number = int(image.name.removesuffix(".png"))
        assert model.cameras[image.camera_id].params[0] == pytest.approx(
            INTRINSICS[0, 0] * focals[number]
        )
    assert "kept, since all frames of a camera have the same" in capsys.readouterr().out


def disturbed(seed: int = 0) -> np.ndarray:
    """The true cameras, each turned by about a degree and moved by about 5 cm."""
    random = np.random.default_rng(seed)
    poses = TRUE.copy()
    for pose in poses:
        pose[:3, :3] = turn(random.normal(0, 0.012, 3)) @ pose[:3, :3]
        pose[:3, 3] += random.normal(0, 0.03, 3)
    return poses


def errors(poses: np.ndarray) -> tuple[float, float]:
    """Rms of centres (metres) and of rotations (radians), after the best similarity."""
    found = pycolmap.estimate_sim3d(poses[:, :3, 3], TRUE[:, :3, 3])
    assert found is not None
    centres = np.array([found * centre for centre in poses[:, :3, 3]])
    rotation = found.rotation.matrix()
    angles = [
        rotation_angle(true[:3, :3].T @ rotation @ pose[:3, :3])
        for true, pose in zip(TRUE, poses, strict=True)
    ]
    away = centres - TRUE[:, :3, 3]
    return float(np.sqrt((away**2).sum(1).mean())), float(np.sqrt(np.mean(np.square(angles))))


@pytest.fixture
def tracking(monkeypatch):
    """The network that `vggt colmap --adjust` opens."""
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: TrackingEngine())


@pytest.mark.parametrize("camera", ["SIMPLE_PINHOLE", "PINHOLE", "OPENCV"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_cameras_come_closer_to_the_truth(tracking, tmp_path, capsys, camera, calibrated):
    poses = disturbed()
    focals = np.ones(len(TRUE)) if calibrated else 1.0 + 0.03 * np.sin(np.arange(len(TRUE)))
    run = written(tmp_path / "run", poses, focals)
    sparse = colmap(run, tmp_path / "out", adjust=True, camera=camera, images="grid")
    found = read_trajectory(sparse / "trajectory.tum").world_from_camera
    (centre, angle), (centre_before, angle_before) = errors(found), errors(poses)
    assert centre < 0.4 * centre_before and angle < 0.4 * angle_before
    text = capsys.readouterr().out
    assert ("kept, since" in text) == calibrated and "points followed by the network" in text
    # It stands where the run stood.
    np.testing.assert_allclose(found[:, :3, 3].mean(0), poses[:, :3, 3].mean(0), atol=1e-6)
    spread = [np.linalg.norm(p[:, :3, 3] - p[:, :3, 3].mean(0)) for p in (found, poses)]
    assert spread[0] == pytest.approx(spread[1], rel=1e-6)
    model = pycolmap.Reconstruction(str(sparse))
    (only,) = model.cameras.values()
    assert only.model.name == camera and model.num_reg_images() == len(TRUE)
    if calibrated:
        assert only.mean_focal_length() == pytest.approx(INTRINSICS[0, 0], rel=1e-6)
    assert model.compute_mean_reprojection_error() < 0.6
    assert {image.name for image in model.images.values()} == {
        p.name for p in (tmp_path / "out" / "images").iterdir()
    }


def test_each_image_may_have_its_own_camera(tracking, tmp_path):
    run = written(tmp_path / "run", disturbed(), np.ones(len(TRUE)))
    sparse = colmap(run, tmp_path / "out", adjust=True, shared_camera=False, images="grid")
    assert len(pycolmap.Reconstruction(str(sparse)).cameras) == len(TRUE)


def test_a_network_without_tracks_is_refused_and_nothing_is_left(monkeypatch, tmp_path, capsys):
    engine = TrackingEngine(has_tracks=False)
    engine.layout = "view_time"  # of a rig, which is said before it begins
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)
    run = written(tmp_path / "run", disturbed(), np.ones(len(TRUE)))
    with pytest.raises(UserError, match="tracking gives no tracks for 8 frames"):
        colmap(run, tmp_path / "out", adjust=True, images="grid")
    assert not (tmp_path / "out").exists()
    assert (
        "layout is view_time, and points are followed in windows of one" in capsys.readouterr().err
    )


def test_an_interrupted_adjustment_goes_on(monkeypatch, tmp_path, capsys):
    run = written(tmp_path / "run", disturbed(), np.ones(len(TRUE)))
    engines = [TrackingEngine() for _ in range(2)]
    remaining = iter(engines)
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: next(remaining))
    infer = engines[0].infer

    def interrupted(*arguments, **options):
        if len(engines[0].inferences) == 2:
            raise KeyboardInterrupt
        return infer(*arguments, **options)

    monkeypatch.setattr(engines[0], "infer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        colmap(run, tmp_path / "out", adjust=True, images="grid")
    assert not (tmp_path / "out").exists(), "an export is whole or absent"
    capsys.readouterr()
    sparse = colmap(run, tmp_path / "out", adjust=True, images="grid")
    assert "going on: 2 inferences are reused" in capsys.readouterr().err
    first, rest = (engine.inferences for engine in engines)
    assert len(rest) >= 2 and not {*first} & {*rest}, "what was answered is not asked again"
    found = read_trajectory(sparse / "trajectory.tum").world_from_camera
    assert errors(found) < errors(disturbed())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_points_are_chosen_where_the_image_changes_and_depth_is_known(tmp_path):
    run = written(tmp_path / "run", TRUE[:1], np.ones(1))
    frame = open_run(run).frame(0)
    frame.image[:, : WIDTH // 2] = 90
    frame.depth[: HEIGHT // 2] = np.nan
    uv = pixels_to_follow(frame)
    assert len(uv) > 4 and (uv[:, 0] >= WIDTH // 2 - 1).all() and (uv[:, 1] >= HEIGHT // 2).all()
