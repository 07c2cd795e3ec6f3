"""Golden data of what is done to numbers, pictures and prompts around the model, and of normalisation statistics.

Files are known by what is in them, whatever their sizes: an ``.npz`` with arrays such as ``norm/x`` or ``resize/0/u8``,
a dictionary of statistics in JSON, and a JSON list of texts and states with what the tokenizer made of them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np

from ..models.augmentation import augment
from ..models.flow import next_noise
from ..models.images import resize_with_pad, to_unit_range
from ..units.normalize import (
    NormStats,
    NormStatsError,
    load_norm_stats,
    moments,
    normalize,
    save_norm_stats,
    unnormalize,
)
from ..units.tokenizer import BOS, PromptTokenizer, discretize
from ..units.transforms import pad_to, shifted
from ..units.transforms import resize_with_pad as resize_before_model
from .checks import EXACT, Check, Tolerance, compare, is_list_of, npz_names, read_json, read_npz, same, skip

QUANTILE = Tolerance(atol=0.02)
ARITHMETIC = Tolerance(atol=1e-9, rtol=1e-6)  # float64 and float32 inputs, computed in float64
PICTURE = Tolerance(atol=1e-5)  # float32 in [-1, 1]
LEVEL, TIES = Tolerance(atol=1.0), 0.01  # uint8: JAX versions round ties differently, up to this share of the values
# A pixel's place is rounded to 1/2^23 of the picture's side; at a sharp edge that much of the contrast is seen.
AUGMENTED = Tolerance(atol=5e-5)
Arrays = Mapping[str, np.ndarray]


def _is_of_transforms(file: Path) -> bool:
    return any(re.match(pattern, name) for name in npz_names(file) for pattern in _GROUPS)


def check_transforms(path: Path) -> Iterator[Check]:
    """Every group of arrays in a file of transforms; arrays that no group knows are named."""
    arrays = read_npz(path)
    known = set()
    for pattern, (checker, members) in _GROUPS.items():
        if any(re.match(pattern, name) for name in arrays):
            known |= {name for name in arrays if re.match(members, name)}
            yield from checker(arrays)
    for name in arrays:
        if name not in known:
            yield skip(name, "no such quantity is known here")


def _check_norm(a: Arrays) -> Iterator[Check]:
    stats = NormStats(*(a[f"norm/{name}"] for name in ("mean", "std", "q01", "q99")))
    for name in a:
        match = re.fullmatch(r"norm/(quantile|zscore)/(un_)?(.+)", name)
        if match:
            convert = unnormalize if match[2] else normalize
            yield compare(name, convert(a[f"norm/{match[3]}"], stats, match[1] == "quantile"), a[name], ARITHMETIC)
    short = a.get("norm/x_short")
    if short is not None and short.shape[-1] < len(stats.mean):
        for quantiles in (True, False):
            name = f"norm/{'quantile' if quantiles else 'zscore'}: fewer values than statistics"
            try:
                yield same(name, unnormalize(short, stats, quantiles), "refused")
            except NormStatsError:
                yield same(name, "refused", "refused", "refused, as in openpi")


def _check_stats(a: Arrays) -> Iterator[Check]:
    batches = a["stats/batches"]
    mean, std, q01, q99, low, high = moments(batches.reshape(-1, batches.shape[-1]).T)
    yield compare("stats/mean", mean, a["stats/mean"], ARITHMETIC)
    yield compare("stats/std", std, a["stats/std"], ARITHMETIC)
    for name, ours in (("stats/q01", q01), ("stats/q99", q99)):
        shares = ((of - low) / (high - low) for of in (ours, a[name]))
        yield compare(name, *shares, QUANTILE, "in parts of the range; openpi's are approximate")
    for name in a:
        if name.startswith("stats/exact_"):
            yield skip(name, "between two numbers; recorded to show how far openpi's approximation is from it")


def _check_delta(a: Arrays) -> Iterator[Check]:
    actions, state, mask = (a[f"delta/{name}"] for name in ("actions", "state", "mask"))
    offset = np.where(mask, state[..., : len(mask)], 0)
    for name, sign in (("delta", -1), ("abs", 1)):
        yield compare(f"delta/{name}", shifted(actions, offset, sign), a[f"delta/{name}"], ARITHMETIC)
    for name in ("state", "actions"):
        if f"pad/{name}" in a:
            padded = a[f"pad/{name}"]
            yield compare(f"pad/{name}", pad_to(a[f"delta/{name}"], padded.shape[-1]), padded, EXACT)


def _check_resize(a: Arrays) -> Iterator[Check]:
    for name in a:
        if not (match := re.fullmatch(r"(resize/[^/]+)/u8", name)):
            continue
        case, images = match[1], a[name]
        height, width = (int(size) for size in a[f"{case}/target"])
        if f"{case}/pil" in a:
            ours = np.stack([resize_before_model(image, height, width) for image in images])
            yield compare(f"{case}/pil", ours, a[f"{case}/pil"], EXACT)
        if f"{case}/jax_u8" in a:
            ours = np.asarray(resize_with_pad(jnp.asarray(images), height, width))
            check = compare(f"{case}/jax_u8", ours, a[f"{case}/jax_u8"], LEVEL)
            if check.ok and (differing := np.mean(ours != a[f"{case}/jax_u8"])):
                check = dataclasses.replace(check, ok=differing <= TIES, note=f"{differing:.2%} of the values differ")
            yield check
        if f"{case}/jax_f32" in a:
            ours = resize_with_pad(to_unit_range(jnp.asarray(images)), height, width)
            yield compare(f"{case}/jax_f32", ours, a[f"{case}/jax_f32"], PICTURE)


def _check_augmentation(a: Arrays) -> Iterator[Check]:
    cameras = [match[1] for name in a if (match := re.fullmatch(r"aug/([^/]+)/u8", name))]
    key = jax.random.key(int(a["aug/key_seed"]))
    images = {camera: to_unit_range(jnp.asarray(a[f"aug/{camera}/u8"])) for camera in cameras}
    for camera, image in jax.jit(augment)(key, images).items():
        yield compare(f"aug/{camera}/out", image, a[f"aug/{camera}/out"], AUGMENTED)


def _check_policy_noise(a: Arrays) -> Iterator[Check]:
    key = jax.random.key(0)
    for call in range(sum(name.startswith("policy_noise/") for name in a)):
        recorded = a[f"policy_noise/{call}"]
        key, noise = next_noise(key, recorded.shape)
        yield compare(f"policy_noise/{call}", noise, recorded, PICTURE)


def _check_bins(a: Arrays) -> Iterator[Check]:
    yield compare("binning/bin", discretize(a["binning/x"]), a["binning/bin"], EXACT)


def _skip_aloha(a: Arrays) -> Iterator[Check]:
    for name in a:
        if name.startswith("aloha/"):
            yield skip(name, "units of the ALOHA robot, which this package does not convert")


_GROUPS: dict[str, tuple[Callable[[Arrays], Iterator[Check]], str]] = {  # name that tells the group -> its arrays
    r"norm/mean$": (_check_norm, "norm/"),
    r"stats/batches$": (_check_stats, "stats/"),
    r"delta/mask$": (_check_delta, "delta/|pad/"),
    r"resize/[^/]+/u8$": (_check_resize, "resize/"),
    r"aug/key_seed$": (_check_augmentation, "aug/"),
    r"policy_noise/\d+$": (_check_policy_noise, "policy_noise/"),
    r"binning/x$": (_check_bins, "binning/"),
    r"aloha/": (_skip_aloha, "aloha/"),
}


# --- statistics ---


def _is_of_norm_stats(file: Path) -> bool:
    content = read_json(file) if file.suffix == ".json" else None
    return isinstance(content, dict) and isinstance(content.get("norm_stats"), dict)


def check_norm_stats(path: Path) -> Iterator[Check]:
    """A file of statistics is read, and written again with the same content."""
    recorded = read_json(path)
    stats = load_norm_stats(path)
    for key, fields in recorded["norm_stats"].items():
        for name in ("mean", "std", "q01", "q99"):
            ours = getattr(stats[key], name)
            yield same(f"{key}.{name}", None if ours is None else ours.tolist(), fields.get(name))
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "norm_stats.json"
        save_norm_stats(copy, stats)
        yield same("written again", json.loads(copy.read_text(encoding="utf-8")), recorded)


# --- prompts ---


class _CharacterEncoder:
    """What the prompts were recorded with: a character's code plus 10; it notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """Ids of a text."""
        self.calls.append([text, bool(add_bos)])
        return [BOS] * add_bos + [ord(character) + 10 for character in text]


def check_prompts(path: Path) -> Iterator[Check]:
    """The text of every prompt, its state's bins, its ids, padding, truncation and mask."""
    for i, case in enumerate(read_json(path)):
        name = f"prompt {i}"
        state = None if case["state"] is None else np.array(case["state"], case.get("state_dtype") or "float64")
        encoder = _CharacterEncoder()
        tokens, mask = PromptTokenizer(encoder, case["max_len"], bucketed=False)(case["prompt"], state)
        yield same(f"{name}: text", encoder.calls, [[text, bool(bos)] for text, bos in case["encode_calls"]])
        if case.get("bins") is not None:
            yield same(f"{name}: bins", discretize(state).tolist(), case["bins"])
        if "tokens_charstub" in case:
            yield same(f"{name}: ids", tokens.tolist(), case["tokens_charstub"])
        if "mask_true" in case:
            count = case["mask_true"]
            yield same(f"{name}: mask", mask.tolist(), [True] * count + [False] * (case["max_len"] - count))


KINDS = [
    ("transforms", _is_of_transforms, check_transforms),
    ("statistics", _is_of_norm_stats, check_norm_stats),
    ("prompts", lambda file: is_list_of(file, {"prompt", "encode_calls", "max_len"}), check_prompts),
]
