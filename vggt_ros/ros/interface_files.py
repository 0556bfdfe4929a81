# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files made from the interface's tables: docs/interface.md and config/sros2_policy.xml.

`python -m vggt_ros.ros.interface_files` in a checkout writes both.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from vggt_ros.ros import interface
from vggt_ros.ros.interface import Service, Topic, of_camera, of_rig
from vggt_ros.ros.parameters import markdown as parameters

INTRODUCTION = """# Interface of the node

Topics, services, frames, parameters and keys of `/diagnostics` are a promise: they may be added to,
and are not renamed. This page is made from the node's tables
(`python -m vggt_ros.ros.interface_files`), and tests compare a running node with them. Names with
`~/` are the node's own (`~/points` is `/vggt/points`), others are remapped
(`image:=/camera/image_raw`).
"""
QOS = """QoS: the history is keep last, and durability volatile where nothing else is said. `auto`:
reliable where every publisher is, else best effort, and the subscription follows when that changes;
parameter `image_reliability` sets it for images. A `camera_info` that its publisher keeps
(transient local) is read too. Every topic but `/clock` has the parameters
`qos_overrides.<topic>.<subscription or publisher>.reliability`, `.history` and `.depth`; the
reliability of a subscription to another topic than /tf may be `auto`.
"""
RIG = """## A rig of several cameras

With parameter `cameras` (`[front, left]`) each camera has the topics of this list, and those of the
same names above do not exist; see docs/rigs.md. `NAME` stands for each name.
"""
SECURITY = """## Security

`config/sros2_policy.xml` lets the node publish, read and answer exactly what is listed here, under
its default names. For other names and remapped inputs:

    python3 -c "from vggt_ros.ros.interface_files import policy; \\
        print(policy('/left/vggt', {'image': '/camera/image_raw'}))" > policy.xml
    ros2 security create_keystore keys
    ros2 security generate_artifacts -k keys -p policy.xml
    export ROS_SECURITY_KEYSTORE=keys ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce
    ROS_SECURITY_ENCLAVE_OVERRIDE=/left/vggt ros2 launch vggt_ros vggt.launch.py namespace:=left \\
        image:=/camera/image_raw

For a rig name its cameras too: `policy('/vggt', {}, ['front', 'left'])`.

Tests compare the policy with a running node. It is valid by the schema of sros2 (2024), whose
stylesheet makes exactly these names of it; a node under SROS2 itself has not been run.
"""


def markdown() -> str:
    """The page docs/interface.md."""
    ours = _table(("service", "type", "what it does"), _services(interface.SERVICES))
    rclpy = _table(("service", "type", "of"), _services(interface.RCLPY_SERVICES))
    transforms = _table(
        ("tf_mode", "parent", "child", "note"),
        ((t.mode, f"`{t.parent}`", f"`{t.child}`", t.about) for t in interface.TRANSFORMS),
    )
    return "\n".join(
        [
            INTRODUCTION,
            "## Topics that are read\n",
            _topics(interface.INPUTS),
            "## Topics that are published\n",
            _topics(interface.OUTPUTS),
            "Every managed node of rclpy has these too:\n",
            _topics(interface.RCLPY_OUTPUTS),
            QOS,
            RIG,
            _topics(of_rig(_own(interface.INPUTS), ("NAME",))),
            _topics(of_rig(_own(interface.OUTPUTS), ("NAME",))),
            "## Services\n",
            ours,
            "Every managed node of rclpy has these too:\n",
            rclpy,
            "## Transforms\n",
            "Frames are named by parameters; `auto` sends as `camera` does.\n",
            transforms,
            "## Diagnostics\n",
            "Statuses of `/diagnostics`, under the full name of the node. Levels: OK; WARN: works,"
            " but not as\nasked; ERROR: nothing comes out. Keys come with the first inference.\n",
            _diagnostics(),
            SECURITY,
            "## Parameters\n",
            parameters(),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n", *lines])


def _topics(topics: Iterable[Topic]) -> str:
    rows = (
        (
            f"`{topic.name}`",
            topic.kind,
            f"{topic.reliability.replace('_', ' ')}{', transient local' * topic.kept}",
            str(topic.depth),
            f"where {topic.needs}" if topic.needs else "always",
            topic.about,
        )
        for topic in topics
    )
    return _table(("topic", "type", "QoS", "depth", "exists", "what it is"), rows)


def _own(topics: Iterable[Topic]) -> list[Topic]:
    """Those that each camera of a rig has."""
    return [topic for topic in topics if topic.name in interface.OF_A_CAMERA]


def _services(services: Iterable[Service]) -> Iterable[Sequence[str]]:
    return ((f"`{service.name}`", service.kind, service.about) for service in services)


def _diagnostics() -> str:
    rows = (
        (
            f"`/vggt{': ' * bool(status.part)}{status.part}`",
            status.about,
            ", ".join(f"`{key}`" for key in status.keys) or "none",
            ", ".join(f"`{key}`" for key in status.sometimes) or "none",
        )
        for status in interface.STATUSES
    )
    return _table(("status", "about", "keys", "keys of some settings or events"), rows)


def policy(
    node: str = "/vggt",
    remapped: Mapping[str, str] | None = None,
    cameras: Sequence[str] = (),
) -> str:
    """The SROS2 policy of a node with this full name: what it may publish, read and answer.

    `remapped`: topics of inputs by their names; `cameras`: those of a rig. Everything that is not
    listed is denied.
    """
    namespace, _, name = node.rpartition("/")
    topics = remapped or {}
    inputs = of_rig(interface.INPUTS, cameras)
    read = [topics.get(topic.name, topic.name) for topic in inputs]
    # Compressed images are on a topic of their own; a calibration is looked for beside its images,
    # that of the camera itself where it is not remapped.
    images = [of_camera("image", name) for name in cameras] or ["image", "baseline_image"]
    read += [f"{topics.get(image, image)}/compressed" for image in images]
    own = [of_camera("image", name) for name in cameras] or ["image"]
    own = [i for i in own if f"{i.removesuffix('image')}camera_info" not in topics]
    for image in (*own, "scale_depth", *(() if cameras else ("baseline_image",))):
        folder, slash, _ = topics.get(image, image).rpartition("/")
        read.append(f"{folder}{slash}camera_info")
    outputs = of_rig(interface.OUTPUTS, cameras)
    published = [t.name for t in (*outputs, *interface.RCLPY_OUTPUTS)]
    answered = [s.name for s in (*interface.SERVICES, *interface.RCLPY_SERVICES)]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- Made by vggt_ros.ros.interface_files, for the enclave of one node: replace the names",
        "     of the inputs (image, camera_info, ...) by the topics that they are remapped to. -->",
        '<policy version="0.2.0">',
        "  <enclaves>",
        f'    <enclave path="{escape(node)}">',
        "      <profiles>",
        f'        <profile ns="{escape(namespace or "/")}" node="{escape(name)}">',
        *_rules("topics", "publish", published),
        *_rules("topics", "subscribe", read),
        *_rules("services", "reply", answered),
        "        </profile>",
        "      </profiles>",
        "    </enclave>",
        "  </enclaves>",
        "</policy>",
    ]
    return "\n".join(lines) + "\n"


def _rules(kind: str, action: str, names: Iterable[str]) -> list[str]:
    item = kind.removesuffix("s")
    rows = [f"            <{item}>{escape(name)}</{item}>" for name in dict.fromkeys(names)]
    return [f'          <{kind} {action}="ALLOW">', *rows, f"          </{kind}>"]


def main() -> None:
    """Write both files into the checkout that this module is in."""
    root = Path(__file__).resolve().parents[2]
    (root / "docs/interface.md").write_text(markdown())
    (root / "config/sros2_policy.xml").write_text(policy())


if __name__ == "__main__":
    main()
