"""Sizes of the model, and the named configurations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from ..errors import UserError
from ..observation import IMAGE_KEYS

ProgressKind = Literal["none", "scalar", "categorical"]
ComputeDtype = Literal["float32", "bfloat16"]
Remat = Literal["layers", "dots", "none"]
Vision = Literal["siglip", "points"]
PALIGEMMA_VOCABULARY = 257_152
BYTE_VOCABULARY = 259  # 256 bytes after three special tokens, see tokenizer.py
WORD_VOCABULARY = 1024
WHOLE = (0.0, 0.0, 1.0, 1.0)  # no crop
ROUNDED = 0.03  # by which rounding of sizes may change shapes
STRICT = {"extra": "forbid"}  # for pydantic, which reads configurations from files: unknown fields are refused


class ModelConfigError(UserError):
    """A configuration is unknown or does not fit together; the message says which field and what would be right."""


def _check_known(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelConfigError(f"{field} {value!r} is unknown; known: {', '.join(known)}")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: their rank and strength; ``rank_stabilised`` divides by the rank's root instead."""

    __pydantic_config__: ClassVar = STRICT
    rank: int
    alpha: float
    rank_stabilised: bool = False

    @property
    def scaling(self) -> float:
        """What an adapter's output is multiplied by, in attention; feed-forward layers take it as it is."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


@dataclass(frozen=True)
class SiglipConfig:
    """The vision tower."""

    __pydantic_config__: ClassVar = STRICT
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch: int = 14


@dataclass(frozen=True)
class PointsConfig:
    """The vision tower of small models that locates; see ``points.py``."""

    __pydantic_config__: ClassVar = STRICT
    patch: int = 4  # side of the squares that a picture is cut into, pixels
    width: int = 16  # channels
    depth: int = 2  # 3x3 convolutions; the last one makes the points' maps
    points: int = 32  # that are looked for in a picture
    tokens: int = 4  # that tell of a picture's points

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ModelConfigError(f"points.{name} is {value}; expected at least 1")


@dataclass(frozen=True)
class GemmaConfig:
    """One expert of the language model; both experts share depth, heads and head dimension.

    ``lora`` adapts the attention, ``feed_forward_lora`` the feed-forward layers.
    """

    __pydantic_config__: ClassVar = STRICT
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    lora: LoraConfig | None = None
    feed_forward_lora: LoraConfig | None = None

    def with_lora(self, lora: LoraConfig) -> GemmaConfig:
        """The same expert with adapters everywhere."""
        return dataclasses.replace(self, lora=lora, feed_forward_lora=lora)


@dataclass(frozen=True)
class ProgressConfig:
    """The progress head."""

    __pydantic_config__: ClassVar = STRICT
    kind: ProgressKind = "scalar"  # none, `scalar` (one number) or `categorical` (probabilities of bins of [0, 1])
    hidden: int = 256  # width of its hidden layer
    bins: int = 50  # number of bins of a categorical head
    sigma_bins: float = 2.0  # spread of HL-Gauss targets, in bins

    def __post_init__(self) -> None:
        _check_known("progress.kind", self.kind, get_args(ProgressKind))
        if self.hidden < 1 or self.bins < 2 or not self.sigma_bins > 0:
            raise ModelConfigError(
                f"progress: hidden {self.hidden}, bins {self.bins}, sigma_bins {self.sigma_bins}; expected at least 1, "
                "at least 2 and more than 0"
            )


class View(NamedTuple):
    """What is seen of a camera's picture."""

    crop: tuple[float, float, float, float]  # top, left, bottom and right of what is cut out, as shares of its sides
    size: tuple[int, int]  # (height, width) that this is brought to, pixels

    def shape(self, camera: float) -> float:
        """Width over height of the pictures that were learnt from, of a camera of this shape: where they fill what is
        seen but for a few hundredths they filled it, as sizes were rounded; a black edge in its place misleads."""
        (top, left, bottom, right), (height, width) = self.crop, self.size
        fills = width * (bottom - top) / (height * (right - left))
        return fills if abs(fills / camera - 1) < ROUNDED else camera


@dataclass(frozen=True)
class Pi05Config:
    """Everything that decides shapes and arithmetic."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    siglip: SiglipConfig | None  # None only where ``vision`` is another tower
    paligemma: GemmaConfig
    expert: GemmaConfig
    image_size: tuple[int, int] = (224, 224)  # (height, width) of the pictures the vision tower reads, pixels
    # the same of cameras that do not sit on a wrist, and what is cut out of their pictures before, as shares of their
    # sides (top, left, bottom, right): as sharp as can be where things happen; not with SigLIP
    base_size: tuple[int, int] | None = None
    base_crop: tuple[float, float, float, float] = WHOLE
    vocabulary: int = PALIGEMMA_VOCABULARY  # rows of the embedding table
    action_dim: int = 32
    action_horizon: int = 50
    max_token_len: int = 200  # longest prompt, tokens
    discrete_state: bool = True  # whether the state is part of the prompt; if not, the model does not see it
    # whether the prefix ends with one token made of the positions of joints and grippers as numbers, which words do not
    # keep apart as finely; openpi's and LeRobot's models have none
    state_token: bool = False
    # hands whose places, by the robot's kinematics, are part of the state token, m in its base frame; with `positions`
    # the model is told where each thing is from each hand, too
    hands: int = 0
    compute_dtype: ComputeDtype = "bfloat16"  # of activations and of weights in use; parameters may be stored otherwise
    progress: ProgressConfig = ProgressConfig()
    vision: Vision = "siglip"  # which tower: `siglip`, as openpi, or `points`, for small models
    points: PointsConfig = PointsConfig()  # of the tower that is called so
    # things whose positions the model predicts from pictures, and sees as one token more; not with SigLIP
    positions: tuple[str, ...] = ()
    positions_middle: tuple[float, float, float] = (0.0, 0.0, 0.0)  # about the middle of where they are, m
    # what the backward pass computes again: all of every layer (`layers`, as openpi; only a layer's input is kept),
    # all but the products with weights (`dots`), or nothing (`none`: fastest, most memory). True and False, as older
    # files have it, are `layers` and `none`.
    remat: Remat = "layers"

    def __post_init__(self) -> None:
        _check_known("remat", self.remat, get_args(Remat))
        _check_known("compute_dtype", self.compute_dtype, get_args(ComputeDtype))
        for field in ("vocabulary", "action_dim", "action_horizon", "max_token_len"):
            if getattr(self, field) < 1:
                raise ModelConfigError(f"{field} is {getattr(self, field)}; expected at least 1")
        self._check_vision()
        for field in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            ours, theirs = getattr(self.paligemma, field), getattr(self.expert, field)
            if ours != theirs:
                raise ModelConfigError(f"{field} differs between the experts: {ours} and {theirs}")
        if self.paligemma.num_heads % self.paligemma.num_kv_heads:
            raise ModelConfigError("num_heads is not a multiple of num_kv_heads")
        if self.expert.width % 2 or self.paligemma.head_dim % 2:
            raise ModelConfigError("the expert's width and head_dim must be even")

    def _check_vision(self) -> None:
        _check_known("vision", self.vision, get_args(Vision))
        if len(set(self.positions)) < len(self.positions):
            raise ModelConfigError(f"positions {', '.join(self.positions)}: a name is there twice")
        if self.hands and not self.state_token:
            raise ModelConfigError(f"hands is {self.hands}, but there is no state token (state_token) to tell of them")
        if self.vision == "points":
            for name in ("image_size", "base_size"):
                if min(size := getattr(self, name) or self.image_size) < self.points.patch:
                    raise ModelConfigError(f"{name} {size} is less than the patch, {self.points.patch}")
            top, left, bottom, right = self.base_crop
            if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
                raise ModelConfigError(f"base_crop {self.base_crop}: expected top < bottom, left < right, in [0, 1]")
            return
        if self.siglip is None:
            raise ModelConfigError("siglip is missing: give the sizes of the tower, or choose vision 'points'")
        if self.positions:
            raise ModelConfigError("positions are predicted with vision 'points' alone, and vision is 'siglip'")
        if self.base_size or self.base_crop != WHOLE:
            raise ModelConfigError("base_size and base_crop go with vision 'points' alone, and vision is 'siglip'")
        if any(side < 1 or side % self.siglip.patch for side in self.image_size):
            raise ModelConfigError(f"image_size {self.image_size} is not a multiple of the patch, {self.siglip.patch}")
        width, heads = self.siglip.width, self.siglip.num_heads
        if width % heads:
            raise ModelConfigError(f"siglip width {width} is not a multiple of {heads} heads")

    def view(self, camera: str) -> View:
        """What the tower sees of a camera, by the model's name for it."""
        if "wrist" in camera:
            return View(WHOLE, self.image_size)
        return View(self.base_crop, self.base_size or self.image_size)

    @property
    def views(self) -> dict[str, View]:
        """The same of all cameras."""
        return {key: self.view(key) for key in IMAGE_KEYS}

    @property
    def proprioception_size(self) -> int:
        """Numbers that the state token is made of: as many as an action has, and the places of hands."""
        return self.action_dim + 3 * self.hands

    @property
    def tokens_per_image(self) -> int:
        """Patches of one picture, or the tokens of its points."""
        if self.vision == "points":
            return self.points.tokens
        return math.prod(side // self.siglip.patch for side in self.image_size)

    def with_progress(self, kind: ProgressKind) -> Pi05Config:
        """The same model with another progress head."""
        return dataclasses.replace(self, progress=dataclasses.replace(self.progress, kind=kind))


def pi05() -> Pi05Config:
    """Full size: gemma_2b, gemma_300m, So400m/14."""
    return Pi05Config(
        name="pi05",
        siglip=SiglipConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16),
        paligemma=GemmaConfig(width=2048, depth=18, mlp_dim=16_384, num_heads=8, num_kv_heads=1, head_dim=256),
        expert=GemmaConfig(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256),
    )


def pi05_lora() -> Pi05Config:
    """Full size with adapters on both experts."""
    base = pi05()
    return dataclasses.replace(
        base,
        name="pi05_lora",
        paligemma=base.paligemma.with_lora(LoraConfig(16, 16.0)),
        expert=base.expert.with_lora(LoraConfig(32, 32.0)),
    )


def tiny() -> Pi05Config:
    """Small enough to learn and run on a CPU: fewer than 2.5 million parameters, a byte tokenizer of its own."""
    return dataclasses.replace(
        mid(),
        name="tiny",
        siglip=SiglipConfig(width=96, depth=3, mlp_dim=256, num_heads=4),
        paligemma=GemmaConfig(width=128, depth=4, mlp_dim=384, num_heads=8, num_kv_heads=1, head_dim=32),
        expert=GemmaConfig(width=96, depth=4, mlp_dim=256, num_heads=8, num_kv_heads=1, head_dim=32),
        image_size=(112, 112),
    )


def mid() -> Pi05Config:
    """For measuring on a CPU: small, but with the full number of tokens."""
    return Pi05Config(
        name="mid",
        siglip=SiglipConfig(width=128, depth=6, mlp_dim=512, num_heads=4),
        paligemma=GemmaConfig(width=256, depth=6, mlp_dim=1024, num_heads=8, num_kv_heads=1, head_dim=32),
        expert=GemmaConfig(width=128, depth=6, mlp_dim=512, num_heads=8, num_kv_heads=1, head_dim=32),
        vocabulary=BYTE_VOCABULARY,
        action_horizon=30,
        compute_dtype="float32",
        remat="none",
    )


CONFIGS: dict[str, Callable[[], Pi05Config]] = {"pi05": pi05, "pi05_lora": pi05_lora, "tiny": tiny, "mid": mid}


def named_config(name: str) -> Pi05Config:
    """A configuration by name; a ``ModelConfigError`` lists those there are."""
    if name not in CONFIGS:
        raise ModelConfigError(f"unknown model configuration {name!r}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]()


def config_to_dict(config: Pi05Config) -> dict:
    """Plain values for JSON."""
    return dataclasses.asdict(config)
