# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every number that makes a VGGT, under the names of the reference's own constructor."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from vggt_ros.errors import UserError


@dataclass(frozen=True)
class Dino:
    """The encoder; its width is the aggregator's `embed_dim`."""

    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    layer_scale: bool = True
    num_register_tokens: int = 4
    interpolate_antialias: bool = True
    interpolate_offset: float = 0.0


@dataclass(frozen=True)
class Aggregator:
    """The alternating tower; `depth` counts frame blocks, and global blocks again."""

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    rope_freq: float = 100.0
    qk_norm: bool = True
    aa_order: tuple[str, ...] = ("frame", "global")
    aa_block_size: int = 1
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class Camera:
    trunk_depth: int = 4
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_iterations: int = 4
    target_dim: int = 9


@dataclass(frozen=True)
class Dense:
    """Depth and point heads, and in part the feature maps of the tracks."""

    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    intermediate_layer_idx: tuple[int, ...] = (4, 11, 17, 23)
    head_hidden: int = 32
    pos_embed_ratio: float = 0.1


@dataclass(frozen=True)
class Track:
    features: int = 128
    iters: int = 4
    stride: int = 2
    down_ratio: int = 2
    corr_levels: int = 7
    corr_radius: int = 4
    hidden_size: int = 384
    depth: int = 6
    num_heads: int = 8
    mlp_ratio: float = 4.0
    num_virtual_tracks: int = 64
    max_scale: float = 518.0
    pos_embed: bool = False  # off in the released 1B weights, on in the "tracker fixed" ones


@dataclass(frozen=True)
class Config:
    """A whole model; the defaults are VGGT-1B."""

    dino: Dino = field(default_factory=Dino)
    aggregator: Aggregator = field(default_factory=Aggregator)
    camera_head: Camera = field(default_factory=Camera)
    dpt: Dense = field(default_factory=Dense)
    track_head: Track = field(default_factory=Track)

    def __post_init__(self):
        a, d = self.aggregator, self.dpt
        if sorted(a.aa_order) != ["frame", "global"]:
            raise UserError(f"aa_order {a.aa_order} must name frame and global, once each")
        if a.aa_block_size < 1 or a.depth % a.aa_block_size:
            raise UserError(f"depth {a.depth} is not a multiple of aa_block_size {a.aa_block_size}")
        if len(d.out_channels) != 4 or len(d.intermediate_layer_idx) != 4:
            raise UserError("dpt needs four out_channels and four intermediate_layer_idx")
        if not all(0 <= i < a.depth for i in d.intermediate_layer_idx):
            raise UserError(f"intermediate_layer_idx must lie in 0..{a.depth - 1}")
        if a.embed_dim % (4 * a.num_heads) and a.rope_freq > 0:
            raise UserError(f"rotary heads need embed_dim {a.embed_dim} = 4 k x {a.num_heads}")

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Config":
        """The `config` object of a config.json; what it leaves out has VGGT-1B's value."""
        return _read(cls, tree, "config")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _read(kind: Any, tree: dict[str, Any], where: str):
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(tree) - set(known)):
        raise UserError(f"{where} has no {unknown[0]!r}; it knows {', '.join(known)}")
    values = {}
    for name, value in tree.items():
        default = known[name].default_factory if is_dataclass(known[name].type) else None
        if default is not None:
            value = _read(known[name].type, value, f"{where}.{name}")
        elif known[name].type is float:
            value = float(value)  # JSON writes 4 for 4.0
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


VGGT_1B = Config()
TINY = Config(
    dino=Dino(depth=4, num_heads=2),
    aggregator=Aggregator(img_size=224, embed_dim=128, depth=6, num_heads=2),
    camera_head=Camera(trunk_depth=2, num_heads=4),
    dpt=Dense(features=32, out_channels=(32, 64, 128, 128), intermediate_layer_idx=(1, 2, 4, 5)),
    track_head=Track(
        features=32,
        corr_levels=5,
        corr_radius=3,
        hidden_size=96,
        depth=3,
        num_heads=4,
        num_virtual_tracks=16,
        max_scale=224.0,
    ),
)
SMALL = Config(
    dino=Dino(depth=5, num_heads=3),
    aggregator=Aggregator(img_size=224, embed_dim=192, depth=6, num_heads=3),
    camera_head=Camera(trunk_depth=1, num_heads=6),
    dpt=Dense(features=48, out_channels=(48, 96, 128, 128), intermediate_layer_idx=(1, 2, 4, 5)),
    track_head=Track(
        features=48,
        corr_levels=5,
        corr_radius=3,
        hidden_size=128,
        depth=2,
        num_heads=4,
        num_virtual_tracks=16,
        max_scale=224.0,
    ),
)
