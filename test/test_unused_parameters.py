# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the node that have no effect beside others: each is refused, or warned of."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from node_rig import Rig
from rclpy.parameter import Parameter

from vggt_ros.errors import UserError
from vggt_ros.ros.opening import cautions, network_cautions
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.unused import USES

pytestmark = pytest.mark.ros

NO_MAP = {"window_size": 2, "stride": 2}
# Values of a parameter and of others beside which it has no effect, and others beside which it has.
UNUSED: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "bond_timeout": (9.0, {}, {"autostart": False}),
    "max_keyframes": (50, NO_MAP, {}),
    "loop_period": (9, {"loops": False}, {}),
    "sync_tolerance": (0.5, {}, {"cameras": "left,right"}),
    "agreement_tolerance": (0.5, {}, {"min_agreement": 1}),
    "map_points_max": (2000, {"map_voxel": 0.0}, {}),
    "map_clearing": (False, {"map_voxel": 0.0}, {}),
    "map_fusion": (False, {"map_voxel": 0.0}, {}),
    "odom_frame": ("wheels", {"tf_mode": "none"}, {"tf_mode": "map_to_odom"}),
    "visual_odom_frame": ("visual", {"tf_mode": "odom_to_base"}, {}),
    "camera_frame": ("eye", {"tf_mode": "map_to_odom"}, {"tf_mode": "camera"}),
    "transform_tolerance": (0.5, {"tf_mode": "none"}, {"tf_mode": "map_to_odom"}),
    "transform_rate_hz": (9.0, {"tf_mode": "none"}, {"tf_mode": "map_to_odom"}),
    # Those of the pipeline, which vggt run has too (`Settings.cautions`).
    "depth_frames": (1, {"window_size": 4}, {"window_size": 1}),
    "camera_height": (0.5, {}, {"scale_source": "height"}),
    "fixed_scale": (2.0, {}, {"scale_source": "fixed"}),
}
REFUSED: dict[str, dict[str, Any]] = {  # beside the values of others
    "min_cameras": {"min_cameras": 2},
    "mapping": {"mapping": False},
    "min_agreement": {"min_agreement": 1, "window_size": 1},
    "map": {"map": "there", "loops": False},
}
# What the network, a message or the graph decides, and the warning that lasts as long.
WARNED_LATER = {
    "layout": "attention (test_attention.py)",
    "seed": "network_cautions",
    "memory_fraction": "network_cautions, cautions",
    "loops": "the map's loops, where windows share no frame (test_node_map.py)",
    "track_queries": "network_cautions; tracks, once points are asked for (test_node.py)",
    "mask_network": "mask_network",
    "image_size": "image_size (test_node_mistakes.py)",
    "intrinsics": "calibration (test_node_camera.py)",
    "rectify": "calibration (test_node_camera.py)",
    "scale_source": "measurements of each source (test_robot_sources.py)",
    "map_voxel": "map, where it had to grow (test_node_map.py)",
}
# Beside any values of the others; what each changes.
ALWAYS = {
    "autostart": "the life cycle",
    "model": "the network",
    "dtype": "its numbers",
    "device": "where it runs",
    "cache_dir": "where programs are kept",
    "window_size": "frames of an inference",
    "stride": "when there is one",
    "max_rate_hz": "which images are used, of one camera and of a rig",
    "network_width": "the grid",
    "keyframes": "the window; false asks for what a window of one frame has anyway",
    "image_transport": "which topic is read, where it is published",
    "image_reliability": "QoS of what is read",
    "mono16_bits": "images of 16 bits",
    "mono16_black": "images of 16 bits",
    "cameras": "which topics are read",
    "mask_file": "what is ignored",
    "mask_sky": "what is ignored",
    "mask_wait": "how long a mask is waited for, once any came",
    "min_confidence": "depth, clouds",
    "depth_resolution": "depth, confidence, rgb",
    "window_points_step": "~/window_points",
    "path_length": "~/path",
    "scan_min_height": "~/scan, and ~/occupancy where there is a map",
    "scan_max_height": "the same",
    "scan_max_range": "the same",
    "map_period": "~/keyframes, and ~/map_points and ~/occupancy where there is a map",
    "map_path": "~/save_map",
    "map_directory": "which of map and map_path may be set",
    "world_frame": "frame of map and poses",
    "base_frame": "mount of the camera, ~/scan",
    "tf_mode": "/tf",
    "tf_when_lost": "~/pose, and /tf where there is any",
    "tf_wait": "mount of the camera",
}


def test_every_parameter_has_an_effect_or_a_warning():
    """A new parameter is to be put into one of the tables."""
    tables = [*UNUSED, *REFUSED, *WARNED_LATER, *ALWAYS]
    assert sorted(tables) == sorted(row.name for row in fields(Parameters))
    assert USES.keys() <= UNUSED.keys()


@pytest.mark.parametrize("name", UNUSED)
def test_a_parameter_that_is_set_in_vain_is_named_with_its_value(name: str):
    value, beside, otherwise = UNUSED[name]
    (said,) = [text for text in cautions(Parameters(**beside | {name: value})) if name in text]
    shown = f"{value:g}" if isinstance(value, float) and name not in USES else value
    assert said.startswith(f"{name} is {shown}, but ")
    assert not [text for text in cautions(Parameters(**beside)) if text.startswith(f"{name} is")]
    assert not [t for t in cautions(Parameters(**otherwise | {name: value})) if name in t]


@pytest.mark.parametrize("name", REFUSED)
def test_a_parameter_that_others_contradict_is_refused(name: str):
    with pytest.raises(UserError):
        Parameters(**REFUSED[name])


def test_the_defaults_are_all_used():
    assert cautions(Parameters()) == []


def test_what_the_network_does_not_use_is_said():
    trackless = "the weights of small have no track head"
    engine = SimpleNamespace(name="small", random_weights=False, trackless=trackless)
    engine.device = SimpleNamespace(platform="cpu")
    given = Parameters(seed=3, memory_fraction=0.25, track_queries=64)
    seed, tracks, memory = network_cautions(engine, given)
    assert seed == "seed is 3, but not used: small has trained weights"
    assert tracks == f"track_queries is 64, but not used: {trackless}"
    assert memory.startswith("memory_fraction is 0.25, but not used: the network is on the CPU")
    engine.random_weights, engine.device.platform, engine.trackless = True, "gpu", ""
    assert network_cautions(engine, given) == []
    assert network_cautions(engine, Parameters()) == []


def test_a_warning_follows_what_is_set_while_the_node_runs(rig: Rig):
    node = rig.start(window_size=2, seed=4)
    assert node.set_parameters([Parameter("agreement_tolerance", value=0.5)])[0].successful
    words = "agreement_tolerance is 0.5, but not used: min_agreement is 0"
    rig.wait_for_diagnostics(words, "seed is 4, but not used: planar has trained weights")
    assert node.set_parameters([Parameter("min_agreement", value=1)])[0].successful
    rig.wait_until(lambda: words not in rig.status("settings").message, "the warning ends")


def test_masks_that_are_to_be_covered_and_never_come_are_said(rig: Rig):
    rig.start(mask_network="box")
    rig.infer(0)
    rig.wait_for_diagnostics("mask_network is box, but not used: nothing is masked")
