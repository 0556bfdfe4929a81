# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Dimensions of a network, under the argument names of the reference, and shapes of its cache."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

from vggt_ros.errors import UserError


@dataclass(frozen=True)
class DinoConfig:
    """The encoder (DINOv2); its width is the aggregator's `embed_dim`."""

    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    layer_scale: bool = True
    num_register_tokens: int = 4
    interpolate_antialias: bool = True
    interpolate_offset: float = 0.0


@dataclass(frozen=True)
class AggregatorConfig:
    """Alternating attention: `depth` frame blocks and `depth` global blocks."""

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
class CameraHeadConfig:
    """The camera head, and how often it refines its estimate."""

    trunk_depth: int = 4
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_iterations: int = 4
    target_dim: int = 9


@dataclass(frozen=True)
class DPTConfig:
    """Depth and point heads, and partly the feature maps of the track head."""

    features: int = 256
    out_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    intermediate_layer_idx: tuple[int, ...] = (4, 11, 17, 23)
    head_hidden: int = 32
    pos_embed_ratio: float = 0.1


@dataclass(frozen=True)
class TrackHeadConfig:
    """The track head: feature maps, correlation windows, and the transformer that updates."""

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


LAYOUTS = {  # with the settings that belong to each
    "joint": (),
    "view_time": ("order",),
    "dual_stream": (),
    "sparse_global": ("strategy", "landmarks", "memory_tokens"),
}
STRATEGIES = ("landmark", "memory_bank")
AA_ORDER, VIEW_ORDER = ("frame", "global"), ("view", "time")


@dataclass(frozen=True)
class Config:
    """A whole network; the defaults are VGGT-1B.  Raises UserError for impossible dimensions.

    `layout` is how the images of a scene attend to each other (see `docs/layouts.md`); the settings
    after it each belong to one layout.
    """

    dino: DinoConfig = field(default_factory=DinoConfig)
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dpt: DPTConfig = field(default_factory=DPTConfig)
    track_head: TrackHeadConfig = field(default_factory=TrackHeadConfig)
    layout: str = "joint"
    order: tuple[str, ...] = VIEW_ORDER  # of view_time: which attention comes first
    strategy: str = "landmark"  # of sparse_global: what stands for the patches of other images
    landmarks: int = 64  # patches of each other image, in strategy landmark
    memory_tokens: int = 32  # in strategy memory_bank

    def __post_init__(self):
        a, d = self.aggregator, self.dpt
        if self.layout not in LAYOUTS:
            raise UserError(f"no layout is called {self.layout!r}; there are {', '.join(LAYOUTS)}")
        if self.strategy not in STRATEGIES:
            raise UserError(f"no strategy is called {self.strategy!r}: {' or '.join(STRATEGIES)}")
        if self.landmarks < 0 or self.memory_tokens < 1:
            raise UserError("landmarks must be 0 or more, memory_tokens 1 or more")
        if sorted(self.order) != sorted(VIEW_ORDER):
            raise UserError(f"order {self.order} must name view and time, once each")
        if self.layout != "joint" and (tuple(a.aa_order), a.aa_block_size) != (AA_ORDER, 1):
            raise UserError(f"layout {self.layout} needs frame and global blocks that alternate")
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
        """The `config` object of a config.json; what it omits has VGGT-1B's value.

        An `aa_order` of view and time is the `order` of layout view_time.
        Raises UserError for a key that does not exist.
        """
        aggregator = tree.get("aggregator", {})
        aa_order = aggregator.get("aa_order", ())
        if sorted(aa_order) == sorted(VIEW_ORDER):
            rest = {key: value for key, value in aggregator.items() if key != "aa_order"}
            tree = {"order": aa_order, **tree, "aggregator": rest}
        return _read(cls, tree, "config")

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`; a layout is named where it is not the official one."""
        settings = {name for names in LAYOUTS.values() for name in names}
        unused = settings - set(LAYOUTS[self.layout])
        unused |= {"layout"} if self.layout == "joint" else set()
        return {key: value for key, value in asdict(self).items() if key not in unused}


def in_layout(
    config: Config,
    layout: str | None = None,
    *,
    order: Sequence[str] | None = None,
    strategy: str | None = None,
) -> Config:
    """The same dimensions in another layout; None: as it is.

    Raises UserError for a layout that does not exist, and for a setting that it does not have.
    """
    given = {"layout": layout, "order": order and tuple(order), "strategy": strategy}
    changed = replace(config, **{name: value for name, value in given.items() if value})
    for name in ("order", "strategy"):
        if given[name] and name not in LAYOUTS[changed.layout]:
            owner = next(layout for layout, names in LAYOUTS.items() if name in names)
            raise UserError(f"{name} belongs to layout {owner}, and this is {changed.layout}")
    return changed


class CacheShapes(NamedTuple):
    """Shapes (slots, tokens, channels) of what a streaming step keeps of each frame."""

    patch_tokens: tuple[int, int, int]  # the encoder's
    first_block: tuple[int, int, int]  # with special tokens, after the first frame block; or none


def cache_shapes(config: Config, slots: int, size: tuple[int, int]) -> CacheShapes:
    """Shapes of the cache for `slots` frames of `size` (height, width) network pixels; float32."""
    aggregator = config.aggregator
    patches = (size[0] // aggregator.patch_size) * (size[1] // aggregator.patch_size)
    tokens = 1 + aggregator.num_register_tokens + patches if reuses_first_block(config) else 0
    return CacheShapes(
        (slots, patches, aggregator.embed_dim), (slots, tokens, aggregator.embed_dim)
    )


def reuses_first_block(config: Config) -> bool:
    """Whether the blocks of a window on one axis are the official ones.

    Then a streaming step reuses the first frame block, beside the encoder; else the encoder alone.
    """
    return config.layout in ("joint", "view_time")


def _read(kind: Any, tree: dict[str, Any], where: str):
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(tree) - set(known)):
        raise UserError(f"{where} has no {unknown[0]!r}; valid names: {', '.join(known)}")
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
    dino=DinoConfig(depth=4, num_heads=2),
    aggregator=AggregatorConfig(img_size=224, embed_dim=128, depth=6, num_heads=2),
    camera_head=CameraHeadConfig(trunk_depth=2, num_heads=4),
    dpt=DPTConfig(
        features=32, out_channels=(32, 64, 128, 128), intermediate_layer_idx=(1, 2, 4, 5)
    ),
    track_head=TrackHeadConfig(
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
    dino=DinoConfig(depth=5, num_heads=3),
    aggregator=AggregatorConfig(img_size=224, embed_dim=192, depth=6, num_heads=3),
    camera_head=CameraHeadConfig(trunk_depth=1, num_heads=6),
    dpt=DPTConfig(
        features=48, out_channels=(48, 96, 128, 128), intermediate_layer_idx=(1, 2, 4, 5)
    ),
    track_head=TrackHeadConfig(
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
