# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Make the bundled clip: a robot drives through a synthetic room, recorded as a rosbag2.

Every run gives the same numbers: seed of the room, trajectory and stamps are constants.  Beside the
bag lies the ground truth (poses, depth, intrinsics) for `vggt eval` and the tests.
"""

import io
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.geometry import quaternion_from_rotation
from vggt_ros.train.rooms import render, scenes, trajectories

SEED = 13
FRAMES, RATE, WIDTH, HEIGHT = 48, 12, 320, 240
FOV_X = np.deg2rad(75.0)
FIRST_NS = 1_700_000_000_000_000_000
FRAME_ID = "camera_optical_frame"
HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    out = HERE / "vggt_ros" / "assets" / "clip"
    world, trajectory = staged()
    intrinsics = render.intrinsics_for(jnp.float32(FOV_X), HEIGHT, WIDTH)
    images, depth = film(world, trajectory, intrinsics)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    stamps = [FIRST_NS + round(i * 1e9 / RATE) for i in range(FRAMES)]
    write_bag(out / "bag", images, stamps, np.asarray(intrinsics, np.float64))
    write_truth(out, trajectory, stamps, depth, np.asarray(intrinsics, np.float64))
    contact_sheet(HERE / "docs" / "pictures" / "clip.png", images)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out.relative_to(HERE)}: {FRAMES} frames, {size / 1e6:.2f} MB")


def staged(seed: int = SEED) -> tuple[scenes.World, trajectories.Trajectory]:
    """The room, and a robot that crosses it in a gentle S: 0.55 m/s, camera 0.6 m high."""
    time = jnp.arange(FRAMES) / RATE
    yaw = 0.55 * jnp.sin(1.45 * time - 0.7)
    speed = 0.55
    path = jnp.cumsum(speed / RATE * jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], -1), axis=0)
    position = jnp.column_stack(
        [path - path.mean(axis=0) - jnp.array([0.9, 0.0]), jnp.full(FRAMES, 0.6)]
    )
    bump = 0.004 * jnp.sin(9.0 * time)  # an uneven floor
    trajectory = trajectories.trajectory_through(position, yaw, bump - 0.05, 0.5 * bump, 1 / RATE)
    world = scenes.sample_world(jax.random.key(seed))
    static = world.solids._replace(swing=jnp.zeros_like(world.solids.swing))
    return scenes.cleared(world._replace(solids=static), trajectory.position), trajectory


def film(
    world: scenes.World, trajectory: trajectories.Trajectory, intrinsics: jax.Array, side: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Render frame by frame: uint8 images [s h w 3] and float32 z-depth [s h w] in metres."""
    draw = jax.jit(partial(render.draw, height=HEIGHT, width=WIDTH, side=side))
    shots = [
        draw(world, jax.tree.map(lambda a, i=i: a[i : i + 1], trajectory), intrinsics)
        for i in range(FRAMES)
    ]
    images = np.concatenate([np.asarray(shot.images) for shot in shots])
    depth = np.concatenate([np.asarray(shot.depth) for shot in shots])
    return np.round(images * 255).astype(np.uint8), depth


def write_bag(path: Path, images: np.ndarray, stamps: list[int], intrinsics: np.ndarray) -> None:
    """`/camera/image_raw/compressed` (jpeg) and `/camera/camera_info`, one of each a frame."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = store.types
    header_type, time_type = kind["std_msgs/msg/Header"], kind["builtin_interfaces/msg/Time"]
    image_type = kind["sensor_msgs/msg/CompressedImage"]
    info_type, region = kind["sensor_msgs/msg/CameraInfo"], kind["sensor_msgs/msg/RegionOfInterest"]
    projection = np.column_stack([intrinsics, np.zeros(3)])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        to_image = bag.add_connection(
            "/camera/image_raw/compressed", image_type.__msgtype__, typestore=store
        )
        to_info = bag.add_connection("/camera/camera_info", info_type.__msgtype__, typestore=store)
        for rgb, stamp in zip(images, stamps, strict=True):
            time = time_type(sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = header_type(stamp=time, frame_id=FRAME_ID)
            jpeg = io.BytesIO()
            Image.fromarray(rgb).save(jpeg, "jpeg", quality=88, subsampling=0)
            data = np.frombuffer(jpeg.getvalue(), np.uint8)
            image = image_type(header=header, format="rgb8; jpeg compressed bgr8", data=data)
            info = info_type(
                header=header, height=HEIGHT, width=WIDTH, distortion_model="plumb_bob",
                d=np.zeros(5), k=intrinsics.reshape(-1), r=np.eye(3).reshape(-1),
                p=projection.reshape(-1), binning_x=0, binning_y=0,
                roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
            )  # fmt: skip
            for connection, message in ((to_info, info), (to_image, image)):
                raw = store.serialize_cdr(message, connection.msgtype)
                bag.write(connection, stamp, raw)


def write_truth(
    out: Path,
    trajectory: trajectories.Trajectory,
    stamps: list[int],
    depth: np.ndarray,
    intrinsics: np.ndarray,
) -> None:
    """Camera in world as TUM lines, z-depth of every second pixel in millimetres, K as JSON."""
    camera_from_world = np.asarray(trajectory.camera_from_world, np.float64)
    world_from_camera = np.swapaxes(camera_from_world[:, :, :3], 1, 2)
    quaternion = np.asarray(quaternion_from_rotation(world_from_camera))
    lines = ["# stamp tx ty tz qx qy qz qw: camera (x right, y down, z ahead) in world (z up)"]
    for stamp, position, q in zip(stamps, np.asarray(trajectory.position), quaternion, strict=True):
        seconds = f"{stamp // 10**9}.{stamp % 10**9:09d}"
        lines.append(" ".join([seconds, *(f"{x:.7f}" for x in (*position, *q))]))
    (out / "trajectory.tum").write_text("\n".join(lines) + "\n")
    millimetres = np.round(depth[:, ::2, ::2] * 1000).astype(np.uint16)
    # Differences between neighbours are small and compress five times better than the depth.
    np.savez_compressed(out / "depth.npz", rows=np.diff(millimetres, axis=2, prepend=np.uint16(0)))
    facts = {
        "frames": FRAMES, "rate_hz": RATE, "width": WIDTH, "height": HEIGHT,
        "intrinsics": intrinsics.tolist(), "frame_id": FRAME_ID, "seed": SEED,
        "topics": {"image": "/camera/image_raw/compressed", "camera_info": "/camera/camera_info"},
        "depth": "np.cumsum(load('depth.npz')['rows'], axis=2, dtype=uint16): mm, [s h/2 w/2], "
        "every second pixel from (0, 0)",
    }  # fmt: skip
    (out / "clip.json").write_text(json.dumps(facts, indent=1) + "\n")


def contact_sheet(path: Path, images: np.ndarray, columns: int = 4, rows: int = 3) -> None:
    picks = images[np.linspace(0, len(images) - 1, columns * rows).round().astype(int)]
    sheet = picks.reshape(rows, columns, *picks.shape[1:]).transpose(0, 2, 1, 3, 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.reshape(rows * HEIGHT, columns * WIDTH, 3)).quantize(256).save(path)


if __name__ == "__main__":
    main()
