# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a rig's cameras stand by the tree of frames: late, in part, or contradicting itself."""

import numpy as np
import pytest
from fakes.room import turn

from vggt_ros.errors import UserError
from vggt_ros.mapping.rig.report import static_line
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.rig.mounts import RigMounts
from vggt_ros.ros.rig.names import camera_list, camera_names
from vggt_ros.ros.tf.tf_cache import TfCache

START, SECOND = 1_700_000_000_000_000_001, 1_000_000_000
OPTICAL = {"front": "front_optical", "left": "left_optical"}


def pose(*xyz: float, degrees: float = 0.0) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = turn(np.radians([0.0, 0.0, degrees])), xyz
    return found


class Setup:
    """A tree of frames, the mounts that are read from it, and what is said of them."""

    def __init__(self, base: str = "base_link"):
        self.tree, self.warnings = TfCache(), dict[str, str]()
        self.mounts = RigMounts(
            lambda: self.tree, base, lambda subject, text: self.warnings.update({subject: text})
        )

    def say(self, parent: str, child: str, found: np.ndarray, *, static: bool = True) -> None:
        transform = transform_message(header(START, parent), child, found)
        self.tree.add([transform], is_static=static)

    def at(self, seconds: float, optical=OPTICAL) -> dict[str, np.ndarray]:
        return self.mounts.at(START + round(seconds * SECOND), optical)


def test_cameras_are_placed_on_the_base():
    setup = Setup()
    setup.say("base_link", "front_optical", pose(0.3, 0, 0.5))
    setup.say("base_link", "mast", pose(0, 0, 1.0))
    setup.say("mast", "left_optical", pose(0, 0.2, 0, degrees=90))
    found = setup.at(0)
    np.testing.assert_allclose(found["front"], pose(0.3, 0, 0.5))
    np.testing.assert_allclose(found["left"], pose(0, 0.2, 1.0, degrees=90), atol=1e-12)
    assert set(setup.warnings.values()) == {""}


def test_without_a_base_the_rig_is_its_first_camera():
    setup = Setup()
    setup.say("bar", "front_optical", pose(0.1, 0, 0))
    setup.say("bar", "left_optical", pose(-0.1, 0, 0))
    found = setup.at(0)
    np.testing.assert_allclose(found["front"], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(found["left"], pose(-0.2, 0, 0), atol=1e-12)


def test_no_transform_at_all_is_no_fault_and_late_ones_are_used_from_then_on():
    setup = Setup()
    assert setup.at(0) == {} and setup.warnings == {}
    setup.say("base_link", "front_optical", pose(0.3, 0, 0.5))
    assert set(setup.at(1)) == {"front"}
    assert (
        "does not connect 'left_optical' with 'base_link', as it does for front"
        in (setup.warnings["mount of left"])
    )
    setup.say("base_link", "left_optical", pose(0.3, 0.3, 0.5))
    assert set(setup.at(2)) == {"front", "left"}
    assert set(setup.warnings.values()) == {""}


def test_what_was_known_stays_where_a_moving_transform_is_late():
    setup = Setup()
    setup.say("base_link", "front_optical", pose(0.3, 0, 0.5), static=False)
    setup.say("base_link", "left_optical", pose(0.3, 0.3, 0.5))
    assert set(setup.at(0)) == {"front", "left"}
    assert set(setup.at(3)) == {"front", "left"} and set(setup.warnings.values()) == {""}


def test_a_transform_that_contradicts_itself_is_named_with_figures_and_the_first_is_kept():
    setup = Setup()
    setup.say("base_link", "front_optical", pose(0.3, 0, 0.5))
    setup.say("base_link", "left_optical", pose(0.3, 0.3, 0.5))
    first = setup.at(0)
    setup.say("base_link", "left_optical", pose(0.3, 0.35, 0.5, degrees=5))
    np.testing.assert_array_equal(setup.at(2)["left"], first["left"])
    fault = setup.warnings["mount of left"]
    assert "'base_link' -> 'left_optical' was otherwise before, by 0.050 m and 5.0 degrees" in fault
    setup.say("base_link", "left_optical", pose(0.3, 0.3, 0.5))
    setup.at(4)
    assert setup.warnings["mount of left"] == ""


def test_another_frame_id_is_another_camera():
    setup = Setup()
    setup.say("base_link", "front_optical", pose(0.3, 0, 0.5))
    setup.say("base_link", "left_optical", pose(0.3, 0.3, 0.5))
    setup.say("base_link", "new_optical", pose(0.1, 0.3, 0.5))
    setup.at(0)
    found = setup.at(0.1, {**OPTICAL, "left": "new_optical"})
    np.testing.assert_allclose(found["left"], pose(0.1, 0.3, 0.5))
    assert set(setup.warnings.values()) == {""}


def test_the_line_to_paste_has_the_transform():
    words = static_line("a_optical", "b_optical", pose(1, -2, 0.5, degrees=90)).split()
    at = {name: float(words[words.index(f"--{name}") + 1]) for name in ("x", "y", "z", "qz", "qw")}
    assert at == pytest.approx(
        {"x": 1, "y": -2, "z": 0.5, "qz": 0.5**0.5, "qw": 0.5**0.5}, abs=1e-5
    )
    assert words[-4:] == ["--frame-id", "a_optical", "--child-frame-id", "b_optical"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        ([], ()),
        ("front, left", ("front", "left")),
        ("[front,left,right]", ("front", "left", "right")),
        ("['front', \"left\"]", ("front", "left")),
        (["front", "left"], ("front", "left")),
    ],
)
def test_names_are_a_list_or_a_text(value: object, names: tuple[str, ...]):
    assert camera_names(camera_list(value)) == names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("front", "leave it empty for one camera, and remap image:=front/image"),
        ("front,left,front", "'front' twice"),
        ("front,2nd", "'2nd', which no topic may have"),
        ("front,,left", "''"),
        (["a b", "c"], "'a b'"),
        ([1, 2], "give names"),
        (3, "give names"),
        (",".join(f"c{i}" for i in range(17)), "16 are the most"),
    ],
)
def test_names_that_cannot_be_are_refused(value: object, words: str):
    with pytest.raises(UserError, match=words):
        camera_names(camera_list(value))
