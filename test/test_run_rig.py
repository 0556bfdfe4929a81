# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run --cameras`: rigs of a bag and of folders, joined and placed as the node does it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.oracle import Oracle
from fakes.rig_ride import THREE, true_mounts
from fakes.room import BASE_FROM_CAMERA, HEIGHT, RIG, WIDTH, drive, numbered_image, turn
from PIL import Image
from rosbags.rosbag2 import Writer
from test_bags import ROS, T, header

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation, rotation_angle
from vggt_ros.mapping.rig.report import LAUNCH_FILE
from vggt_ros.tools.evaluate import evaluate
from vggt_ros.tools.export import export
from vggt_ros.tools.exports.images import export_images
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.format import Run
from vggt_ros.tools.sources.bag_reader import reading

EPOCH, PERIOD = 1_700_000_000_123_456_789, 100_000_000
LAG = {"front": 0, "left": 3_000_007, "right": -9_000_000}  # of the cameras' stamps
ENOUGH = 24  # instants, after which a place that the images alone say is held
Mounts = Mapping[str, np.ndarray]


def image(name: str, i: int, frame_id: str = "", shift: int = 0) -> Any:
    data = numbered_image(i, THREE[name]).reshape(-1)
    head = header(EPOCH + i * PERIOD + LAG[name] + shift, frame_id or f"{name}_optical")
    return T["sensor_msgs/msg/Image"](head, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, data)


def static(mounts: Mounts) -> Any:
    """/tf_static: base_link -> each camera."""
    found = []
    for name, pose in mounts.items():
        vector = T["geometry_msgs/msg/Vector3"](*map(float, pose[:3, 3]))
        rotation = T["geometry_msgs/msg/Quaternion"](
            *map(float, quaternion_from_rotation(pose[:3, :3]))
        )
        transform = T["geometry_msgs/msg/Transform"](vector, rotation)
        head = header(EPOCH, "base_link")
        found.append(T["geometry_msgs/msg/TransformStamped"](head, f"{name}_optical", transform))
    return T["tf2_msgs/msg/TFMessage"](found)


def bag(
    path: Path,
    mounts: Mounts,
    *,
    there: Callable[[str, int], bool] = lambda name, i: True,
    count: int = 10,
    shifts: Mapping[str, int] | None = None,
    frame_ids: Mapping[str, str] | None = None,
) -> Path:
    """The three cameras on topics, recorded as they come; `there`: camera, number."""
    with Writer(path, version=9) as writer:
        if mounts:
            message = static(mounts)
            kind = message.__msgtype__
            to = writer.add_connection("/tf_static", kind, typestore=ROS)
            writer.write(to, EPOCH, ROS.serialize_cdr(message, kind))
        kind = "sensor_msgs/msg/Image"
        topics = {n: writer.add_connection(f"/{n}/image_raw", kind, typestore=ROS) for n in THREE}
        for i in range(count):
            for k, name in enumerate(THREE):
                if there(name, i):
                    shift, frame_id = (shifts or {}).get(name, 0), (frame_ids or {}).get(name, "")
                    message = image(name, i, frame_id, shift)
                    recorded = EPOCH + i * PERIOD + 20_000_000 + k
                    writer.write(topics[name], recorded, ROS.serialize_cdr(message, kind))
    return path


def folders(path: Path, name_of: Callable[[str, int], str], *, lost: tuple[str, int] = ("", -1)):
    """A folder of PNG files for each camera."""
    for name in THREE:
        (path / name).mkdir(parents=True)
        for i in range(10):
            if (name, i) != lost:
                file = path / name / f"{name_of(name, i)}.png"
                Image.fromarray(numbered_image(i, THREE[name])).save(file)
    return path


def reconstruct(source: Path, out: Path, cameras: str = "front,left,right", **options: Any):
    """The run, and the oracle that it asked."""
    engine = Oracle(drive("arc", 300) @ BASE_FROM_CAMERA)
    options = {"window_size": 4, "picture": False, "fuse": False, "quiet": True, **options}
    return run(source, out, cameras=cameras, engine=engine, **options), engine


def of(done: Run, name: str) -> dict[str, Any]:
    """What the summary says of a camera."""
    return next(c for c in done.summary["rig"]["cameras"] if c["name"] == name)


def test_a_bag_with_tf_is_placed_in_metres(tmp_path):
    mounts = true_mounts(THREE)
    done, engine = reconstruct(bag(tmp_path / "bag", mounts), tmp_path / "out")
    assert done.summary["frames"] == 30 and done.summary["refused"] == 0
    assert done.summary["scale"] == {"metric": True, "source": "baseline"}
    assert engine.inferences[-1][-3:] == [(9, n) for n in THREE.values()]
    assert {len(images) for images in engine.inferences} == {3, 6, 9, 12}
    stamps, poses = done.trajectory()
    expected = [EPOCH + i * PERIOD + LAG[n] for i in range(10) for n in THREE]
    assert stamps.tolist() == expected
    assert [done.frame(i).camera for i in range(3)] == list(THREE)
    apart = np.linalg.inv(poses[-3]) @ poses[-2]
    known = np.linalg.inv(mounts["front"]) @ mounts["left"]
    np.testing.assert_allclose(apart, known, atol=0.01)
    for name in THREE:
        lines = (done.path / f"trajectory_{name}.tum").read_text().splitlines()
        assert len(lines) == 10 == of(done, name)["images_used"]
        assert of(done, name)["optical_frame"] == f"{name}_optical"
    assert of(done, "left")["turned_degrees"] < 2 and of(done, "left")["fault"] == ""
    assert of(done, "left")["windows"] == 10
    assert "rig: front, left, right stand as /tf_static says" in done.summary["notes"]
    assert not (done.path / LAUNCH_FILE).exists(), "they would have two parents"


def test_without_tf_the_rig_is_estimated_held_and_a_line_to_paste_is_given(tmp_path, capsys):
    done, _ = reconstruct(bag(tmp_path / "bag", {}, count=ENOUGH), tmp_path / "out", quiet=False)
    assert done.summary["scale"]["metric"] is False
    left, mounts = of(done, "left"), true_mounts(THREE)
    assert left["held"] and left["by_tf"] is None and not left["metric"]
    known = np.linalg.inv(mounts["front"]) @ mounts["left"]
    turned = rotation_angle(np.array(left["by_images"])[:3, :3].T @ known[:3, :3])
    assert np.rad2deg(turned) < 1
    line = "static_transform_publisher --x"
    assert line in left["static_transform"]
    assert left["static_transform"].endswith(
        "--frame-id front_optical --child-frame-id left_optical"
    )
    told = capsys.readouterr().err
    assert f"in units of the map, which are not metres: {left['static_transform']}" in told
    text = (done.path / LAUNCH_FILE).read_text()
    assert "not metres" in text.lower() and text.count("static_transform_publisher") == 2
    assert "'--frame-id', 'front_optical', '--child-frame-id', 'left_optical'" in text
    assert any("does not connect the cameras" in note for note in done.summary["notes"])


@pytest.mark.parametrize("with_tf", [True, False])
def test_the_estimate_is_scored_against_tf(tmp_path, capsys, with_tf):
    """The run may have used it or not: what the images say is measured in both cases."""
    mounts = true_mounts(THREE)
    path = bag(tmp_path / "bag", mounts)
    source = path if with_tf else bag(tmp_path / "other", {})
    reconstruct(source, tmp_path / "out")
    assert evaluate(tmp_path / "out", path) == 0
    told = capsys.readouterr().out
    assert "no trajectory is scored: the bag has no poses (PoseStamped" in told
    report = json.loads((tmp_path / "out/errors.json").read_text())
    rows = {row["camera"]: row for row in report["rig"]}
    assert set(rows) == {"left", "right"}
    for name, row in rows.items():
        known = np.linalg.norm((np.linalg.inv(mounts["front"]) @ mounts[name])[:3, 3])
        assert row["turned_degrees"] < 2 and row["aside_degrees"] < 10, row
        assert row["distance"] == pytest.approx(known, abs=1e-3) and row["metric"] is with_tf
        if with_tf:
            assert row["found"] == pytest.approx(known, rel=0.1)


def test_a_camera_that_is_mounted_otherwise_is_named_and_scored(tmp_path, capsys):
    mounts = true_mounts(THREE)
    knocked = mounts | {"left": mounts["left"].copy()}
    knocked["left"][:3, :3] = turn(np.array([0.0, 0.0, np.radians(8.0)])) @ mounts["left"][:3, :3]
    path = bag(tmp_path / "bag", knocked)
    done, _ = reconstruct(path, tmp_path / "out", quiet=False)
    assert (
        "turned by 8 degrees" in of(done, "left")["fault"]
        and of(done, "left")["turned_degrees"] > 7
    )
    assert f"warning: {of(done, 'left')['fault']}" in capsys.readouterr().err
    evaluate(tmp_path / "out", path)
    (row,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("left ")]
    assert 7.0 < float(row.split()[1]) < 9.0


def test_exports_have_all_cameras_or_say_that_they_have_the_reference_alone(tmp_path, capsys):
    path = bag(tmp_path / "bag", true_mounts(THREE))
    done, _ = reconstruct(path, tmp_path / "out")
    export(done.path, tmp_path / "kitti", to="kitti")
    assert len((tmp_path / "kitti/poses.txt").read_text().splitlines()) == 10
    assert "of the rig, front alone, its reference: 10 frames" in capsys.readouterr().out
    export(done.path, tmp_path / "rosbag2", to="rosbag2")
    found: dict[str, list[Any]] = {}
    with reading(tmp_path / "rosbag2", []) as opened:
        for connection, _, raw in opened.messages(opened.connections):
            found.setdefault(connection.topic, []).append(opened.deserialize(raw, connection))
    assert len(found["/vggt/path"][0].poses) == len(found["/vggt/pose"]) == 10
    for name in THREE:
        heads = [message.header for message in found[f"/vggt/{name}/depth/image"]]
        stamps = [head.stamp.sec * 10**9 + head.stamp.nanosec for head in heads]
        assert stamps == [EPOCH + i * PERIOD + LAG[name] for i in range(10)]
        assert {head.frame_id for head in heads} == {f"{name}_optical"}
    links = {(t.header.frame_id, t.child_frame_id) for m in found["/tf"] for t in m.transforms}
    assert links == {("odom", "base_link"), *(("base_link", f"{name}_optical") for name in THREE)}
    exported, note = export_images(done, tmp_path / "images", "copy")
    assert note == "" and [e.name for e in exported[:2]] == [
        "front/image_000000.png", "left/image_000000.png",
    ]  # fmt: skip
    shown = np.asarray(Image.open(tmp_path / "images" / exported[1].name))
    np.testing.assert_array_equal(shown, numbered_image(0, THREE["left"]))


def test_a_camera_that_ends_early_is_named_and_the_others_go_on(tmp_path):
    path = bag(tmp_path / "bag", true_mounts(THREE), there=lambda n, i: n != "right" or i < 4)
    done, _ = reconstruct(path, tmp_path / "out")
    assert of(done, "right")["images_used"] == 4
    assert of(done, "front")["images_used"] + of(done, "front")["images_unpaired"] == 10
    assert of(done, "front")["images_used"] >= 7
    assert any(n.startswith("right: left out: no image for") for n in done.summary["notes"])


def test_a_clock_that_is_apart_is_named_with_the_offset(tmp_path):
    path = bag(tmp_path / "bag", true_mounts(THREE), shifts={"left": 3_600 * 10**9})
    done, _ = reconstruct(path, tmp_path / "out")
    assert of(done, "left")["images_used"] == 0 < of(done, "right")["images_used"]
    (note,) = [n for n in done.summary["notes"] if "its stamps are" in n]
    assert note.startswith("left: its stamps are 3600")
    assert float(note.split("its stamps are ")[1].split(" ms")[0]) == pytest.approx(3.6e6, abs=50)


def test_equal_frame_ids_are_named_and_seen_all_the_same(tmp_path):
    path = bag(tmp_path / "bag", true_mounts(THREE), frame_ids={"right": "left_optical"})
    done, _ = reconstruct(path, tmp_path / "out")
    assert of(done, "right")["images_used"] == 10 and of(done, "right")["by_tf"] is None
    assert of(done, "left")["by_tf"] is not None
    assert any("frame_id 'left_optical', as those of left" in n for n in done.summary["notes"])


@pytest.mark.parametrize(
    "name_of",
    [
        lambda name, i: f"{i:04d}",
        lambda name, i: f"{name}_{i}",
        lambda name, i: f"{1000 + i / 10:.6f}",
    ],
    ids=["counters", "with the camera's name", "times"],
)
def test_folders_are_joined_by_names_or_times(tmp_path, name_of):
    path = folders(tmp_path / "images", name_of, lost=("left", 7))
    done, engine = reconstruct(path, tmp_path / "out")
    for images in engine.inferences:
        assert [i for i, _ in images] == sorted(i for i, _ in images)
    assert of(done, "left")["images_used"] == 9
    assert of(done, "front")["images_unpaired"] <= 1
    assert done.frame(1).name == f"left/{name_of('left', 0)}.png"
    assert done.summary["source"]["cameras"] == {name: name for name in THREE}
    assert of(done, "left")["optical_frame"] == "left_optical"


def test_points_of_the_first_image_are_tracked_into_all_cameras(tmp_path):
    queries = tmp_path / "queries.json"
    queries.write_text("[[40, 30]]")
    path = folders(tmp_path / "images", lambda name, i: f"{i:04d}")
    done, _ = reconstruct(path, tmp_path / "out", queries=queries, max_frames=6)
    tracks = done.tracks()
    assert done.summary["frames"] == 18
    assert tracks is not None and tracks.tracks.shape == (18, 1, 2)
    u = tracks.tracks[:3, 0, 0] - 40.0
    np.testing.assert_allclose(u - u[0], [0.0, 80.0, 120.0], atol=0.5)  # of the oracle


@pytest.mark.parametrize(
    ("cameras", "options", "words"),
    [
        ("front", {}, "is one camera"),
        ("front,front", {}, "'front' twice"),
        ("front,re/ar", {}, "'re/ar' is no camera"),
        ("front,rear", {}, "no image topic with rear in its path.*/front/image_raw"),
        ("front,left=/front/image_raw", {}, "the topic /front/image_raw twice"),
        ("front,left", {"topic": "/front/image_raw"}, "--topic is of one camera"),
        ("front,left", {"all": True}, "--all is of one camera"),
        ("front,left", {"min_cameras": 3}, "--min-cameras is 3, of 2 cameras"),
        ("front,left", {"sync_tolerance": -1.0}, "--sync-tolerance is -1"),
        ("", {"min_cameras": 2}, "--min-cameras is of a rig"),
        ("front,left", {"scale_source": "odometry"}, "needs a robot"),
    ],
)  # fmt: skip
def test_cameras_that_cannot_be_are_refused(tmp_path, cameras, options, words):
    path = bag(tmp_path / "bag", {}, there=lambda name, i: i < 2)
    with pytest.raises(UserError, match=words):
        reconstruct(path, tmp_path / "out", cameras, **options)


def test_folders_that_do_not_match_are_refused(tmp_path):
    path = folders(tmp_path / "images", lambda name, i: f"{i:04d}" if name == "front" else f"x{i}")
    with pytest.raises(UserError, match="no image of front.*named as one of another camera"):
        reconstruct(path, tmp_path / "out")
    with pytest.raises(UserError, match="has no folder of images or video rear"):
        reconstruct(path, tmp_path / "out", "front,rear")


def test_a_rig_without_metres_although_tf_is_there_says_so_with_figures(tmp_path, capsys):
    """A network that sees no baseline between the cameras of an instant."""

    class OnOneSpot(Oracle):
        def infer(self, frame_ids, images, **options):
            self.rig = [self._without_place(pose) for pose in RIG]
            return super().infer(frame_ids, images, **options)

        @staticmethod
        def _without_place(pose: np.ndarray) -> np.ndarray:
            turned = np.eye(4)
            turned[:3, :3] = pose[:3, :3]
            return turned

    engine = OnOneSpot(drive("arc", 300) @ BASE_FROM_CAMERA)
    path = bag(tmp_path / "bag", true_mounts(THREE), count=8)
    done = run(path, tmp_path / "out", cameras="front,left,right", engine=engine, window_size=3,
               picture=False, fuse=False, max_points=100)  # fmt: skip
    assert done.summary["scale"]["metric"] is False
    fault = done.summary["rig"]["fault"]
    assert "units are not metres, although /tf_static says where" in fault
    assert "left is 0.18" in fault and f"warning: {fault}" in capsys.readouterr().err
