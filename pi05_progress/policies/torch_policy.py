"""Backend torch: LeRobot's PI05 as a policy, with the progress head on the pass that fills the key-value cache.

The one file of this package that imports PyTorch and LeRobot (extra ``torch``); ``make_policy`` imports it only when a
checkpoint asks for it. Transforms, tokenizer and noise are those of backend jax, so the same parameters and seed give
the same answers to float tolerance. JAX is still there for noise and configurations, on the CPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from jaxtyping import Bool, Float
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..checkpoints.checkpoint_error import CheckpointError
from ..checkpoints.description import ASSETS
from ..checkpoints.foreign.conversion import ImportOptions, open_foreign, plan_import
from ..checkpoints.foreign.foreign_checkpoint import read_json, refuse_own_options
from ..checkpoints.foreign.head_file import NAMES, to_torch, write_head
from ..checkpoints.foreign.lerobot import CONFIG, camera_names
from ..checkpoints.foreign.safetensors_files import TensorFile, open_safetensors
from ..checkpoints.foreign.torch_parameters import TORCH_HEAD, head_parts, is_unused, names_by_key
from ..checkpoints.parameter_source import ParameterSource
from ..models.config import Pi05Config, ProgressConfig
from ..models.observation import Observation
from ..models.parameters import ParameterMismatchError, check_parameters
from ..models.pi05 import Sample
from ..models.progress import Belief
from ..observation import CONFIDENCE_LEVEL, IMAGE_KEYS, UNTRAINED
from ..policy import Dtype, PolicyOptions
from ..robots.layout import Layout
from ..robots.profile import RobotProfile
from .model_policy import ModelPolicy
from .sampler import inference_dtype

log = logging.getLogger(__name__)
VARIANTS = ("paligemma_variant", "action_expert_variant")


class ProgressHead(nn.Module):
    """``models/progress.py``'s head, with the same numbers; its names are those of ``progress_head.safetensors``."""

    def __init__(self, config: ProgressConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(width, config.hidden)
        self.output = nn.Linear(config.hidden, 1 if config.kind == "scalar" else config.bins)

    def forward(self, tokens: Float[Tensor, "b p w"], mask: Bool[Tensor, "b p"]) -> Float[Tensor, "b n"]:
        """One logit, or one per bin, of the mean over valid tokens; float32 whatever the trunk computes in."""
        # where, not a product: what stands at masked positions may be anything, even NaN
        total = torch.where(mask[..., None], tokens.float(), 0.0).sum(dim=1)
        pooled = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.output(nn.functional.silu(self.hidden(pooled)))

    def belief(self, logits: Float[Tensor, "b n"]) -> Belief:
        """The belief in [0, 1] that logits stand for, as tensors; the interval is between equal tails."""
        if self.config.kind == "scalar":
            return Belief(torch.sigmoid(logits[:, 0]))
        bins = torch.softmax(logits, dim=-1)
        centres = (torch.arange(self.config.bins, device=bins.device) + 0.5) / self.config.bins
        tail = (1 - CONFIDENCE_LEVEL) / 2
        return Belief(bins @ centres, bins, quantile(bins, tail), quantile(bins, 1 - tail))

    def save(self, folder: Path) -> None:
        """Write the head beside a model of LeRobot's, where ``load_torch_policy`` and an import find it."""
        write_head(folder, {f"{TORCH_HEAD}{k}": v.float().cpu().numpy() for k, v in self.state_dict().items()})


def quantile(bins: Float[Tensor, "b n"], share: float) -> Float[Tensor, " b"]:
    """Where ``share`` of the probability lies below, taking it as even within each bin."""
    count = bins.shape[-1]
    below = bins.cumsum(dim=-1)
    index = (below < share).sum(dim=-1).clamp(max=count - 1)
    inside = bins.gather(-1, index[:, None])[:, 0]
    before = below.gather(-1, index[:, None])[:, 0] - inside
    return ((index + (share - before) / inside.clamp(min=1e-9)) / count).clamp(0, 1)


class TorchSampler:
    """Actions and progress from observations: one call of LeRobot's ``sample_actions``, and the head on what it leaves.

    Args:
        head: None gives no progress.
        cameras: the model's cameras in the order it was trained with; others of an observation are passed over.
    """

    def __init__(
        self,
        model: modeling_pi05.PI05Pytorch,
        head: ProgressHead | None,
        num_steps: int = 10,
        cameras: tuple[str, ...] = IMAGE_KEYS,
    ) -> None:
        self.model, self.head, self._num_steps, self._cameras = model, head, num_steps, cameras
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, observation: Observation, noise: Float[np.ndarray, "b a d"] | jax.Array) -> Sample:
        """Normalised actions and the belief, float32 on the host, for noise (b, horizon, action dimensions). A
        ``RuntimeError``: LeRobot ran its trunk another number of times than once."""
        cameras = [key for key in self._cameras if key in observation.images]
        pictures = [self._picture(observation.images[key]) for key in cameras]
        masks = [self._tensor(observation.image_masks[key]) for key in cameras]
        tokens = self._tensor(observation.tokenized_prompt).long()
        valid = self._tensor(observation.tokenized_prompt_mask)
        with trunk_outputs(self.model) as outputs:
            actions = self.model.sample_actions(
                pictures, masks, tokens, valid, noise=self._tensor(noise), num_steps=self._num_steps
            )
        if len(outputs) != 1:
            raise RuntimeError(f"LeRobot's sample_actions ran its trunk {len(outputs)} times; expected once")
        belief = None
        if self.head is not None:
            each = (outputs[0].shape[1] - tokens.shape[1]) // max(len(masks), 1)  # tokens of a picture
            mask = torch.cat([*(m[:, None].expand(-1, each) for m in masks), valid], dim=1)
            belief = self.head.belief(self.head(outputs[0], mask))
            belief = Belief(*(None if part is None else part.cpu().numpy() for part in belief))
        return Sample(actions.float().cpu().numpy(), belief)

    def _tensor(self, array: np.ndarray | jax.Array) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _picture(self, picture: np.ndarray) -> Float[Tensor, "b 3 h w"]:
        """In [-1, 1], as ``models/images.py`` makes it, channels first."""
        tensor = self._tensor(picture).permute(0, 3, 1, 2)
        scaled = tensor.float() / 255.0 * 2.0 - 1.0 if tensor.dtype == torch.uint8 else tensor.float()
        return scaled.contiguous()


@contextmanager
def trunk_outputs(model: modeling_pi05.PI05Pytorch) -> Iterator[list[Tensor]]:
    """Collects what the trunk gives for the prefix while it is open, pass by pass: (b, prefix, width).

    LeRobot throws it away, and calls the trunk around its module's hooks; the trunk's last norm is called as a module,
    and what it gives is the output. In ``sample_actions`` there is one pass: the one that fills the key-value cache.
    """
    outputs: list[Tensor] = []
    norm = model.paligemma_with_expert.paligemma.model.language_model.norm
    handle = norm.register_forward_hook(lambda _norm, _given, output: outputs.append(output[0]))
    try:
        yield outputs
    finally:
        handle.remove()


def load_torch_policy(profile: RobotProfile, options: PolicyOptions) -> ModelPolicy:
    """A policy from LeRobot's folder, with the progress head if it lies beside the model; on the GPU if there is one.

    Args:
        profile: the robot; must be the one the checkpoint was made for.
        options: the checkpoint (``model.safetensors`` and ``config.json``, from LeRobot or from ``convert_checkpoint
            export``), and how it computes. Of what may be left out, only prompts and cameras, and whether to warm up,
            mean something here; LeRobot keeps the vision tower and norms float32 whatever dtype is asked for.

    Raises:
        CheckpointError: it is incomplete or damaged, or does not fit LeRobot's code or the robot.
        UserError: the tokenizer cannot be loaded.
    """
    folder = Path(options.checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")  # on the GPU, JAX would take most of the memory at its first use
    foreign = open_foreign(folder)
    head = foreign.fields.get("progress.kind", "none")
    described = foreign.description is not None
    planned = plan_import(folder, ImportOptions(progress=head, robot=None if described else profile.name))
    info, stats = planned.info, planned.foreign.stats
    refuse_own_options(folder, info, "backend torch")
    for note in planned.notes:
        log.info("%s: %s", folder, note)
    settings = read_json(folder / CONFIG)
    if not stats and info.model_id != UNTRAINED:
        raise CheckpointError(
            f"{folder}: has no normalisation statistics ({ASSETS}/<id>/norm_stats.json, or those of LeRobot's "
            "preprocessor): a robot's actions would be wrong"
        )
    if not described:
        _check_features(folder, {key: len(s.mean) for key, s in stats.items()}, profile.layout)
    cameras = camera_order(folder, settings, profile)
    variants = tuple(settings.get(name, getattr(PI05Config, name)) for name in VARIANTS)
    _check_sizes(folder, info.model, variants)

    def make_sampler() -> TorchSampler:
        model = load_model(folder, info.model, variants, inference_dtype(info.model, options.dtype), device)
        return TorchSampler(model, load_head(planned.source, info.model, device), options.num_steps, cameras)

    return ModelPolicy(info, stats, make_sampler, profile, options)


def camera_order(folder: Path, settings: Mapping[str, Any], profile: RobotProfile) -> tuple[str, ...]:
    """The model's cameras in the order of LeRobot's ``config.json``, by the names this package's model has for them.

    LeRobot puts pictures into the prefix in that order, which is the data set's; openpi's is fixed. A camera is known
    by the profile's name of it (``observation.images.head_camera``) or by openpi's (``observation.images.base_0_rgb``);
    by neither, or twice, is a ``CheckpointError``.
    """
    known = {key: key for key in IMAGE_KEYS} | {key: camera.model_input for key, camera in profile.cameras.items()}
    names = camera_names(settings)
    if strange := [name for name in names if name not in known]:
        raise CheckpointError(
            f"{folder / CONFIG}: cameras {', '.join(strange)} are not known; robot {profile.name} has "
            f"{', '.join(profile.cameras)}: rename them in input_features, in the order they have there"
        )
    order = tuple(known[name] for name in names)
    if not order or len(set(order)) != len(order):
        told = ", ".join(names) or "none"
        raise CheckpointError(f"{folder / CONFIG}: input_features has cameras {told}; expected at least one, each once")
    return order


def _check_features(folder: Path, sizes: Mapping[str, int], layout: Layout) -> None:
    """Refuse LeRobot's checkpoints of data whose columns are not what this package's transforms give."""
    wanted = {"state": layout.state_size, "actions": layout.action_size}
    if wrong := [f"{key} of {sizes.get(key)} numbers, not {n}" for key, n in wanted.items() if sizes.get(key) != n]:
        raise CheckpointError(
            f"{folder}: was trained on {' and '.join(wrong)}. This package gives a model the numbers of the state that "
            "model_columns names in the robot's profile, and takes those of the action (docs/checkpoints.md)"
        )


def _check_sizes(folder: Path, config: Pi05Config, variants: tuple[Any, ...]) -> None:
    """Before gigabytes are built of another size: LeRobot's sizes are written into its code."""
    fields = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    for name, gemma, variant in zip(("trunk", "expert"), (config.paligemma, config.expert), variants, strict=True):
        try:
            theirs = modeling_pi05.get_gemma_config(variant)
        except ValueError as error:
            raise CheckpointError(f"{folder / CONFIG}: {error}") from error
        if wrong := [f for f in fields if getattr(gemma, f) != getattr(theirs, f)]:
            told = ", ".join(f"{f} {getattr(gemma, f)} instead of {getattr(theirs, f)}" for f in wrong)
            raise CheckpointError(
                f"{folder}: the {name} is not LeRobot's {variant}: {told}. LeRobot's code has no other sizes: import "
                "the checkpoint for backend jax with python -m pi05_progress.convert_checkpoint import"
            )


def load_model(
    folder: Path, config: Pi05Config, variants: tuple[str, str], dtype: Dtype, device: str
) -> modeling_pi05.PI05Pytorch:
    """LeRobot's model with a folder's parameters. Its own loader goes on with random ones if it cannot read them.

    The sizes of trunk and expert in the configuration must be those of LeRobot's variants.

    Raises:
        CheckpointError: tensors are missing, unknown, of another shape, or damaged.
    """
    model = modeling_pi05.PI05Pytorch(
        PI05Config(
            paligemma_variant=variants[0],
            action_expert_variant=variants[1],
            dtype=dtype,
            chunk_size=config.action_horizon,
            n_action_steps=config.action_horizon,
            max_action_dim=config.action_dim,
            image_resolution=config.image_size,
            tokenizer_max_length=config.max_token_len,
            device=device,
        )
    )
    both = model.paligemma_with_expert
    both.paligemma.lm_head = both.gemma_expert.lm_head = nn.Identity()  # never used, 3 GB at full size
    _load_parameters(model, open_safetensors(folder))
    return model.to(device).eval()


def _load_parameters(model: nn.Module, file: TensorFile) -> None:
    """Copy tensors into a model, one at a time, in the model's dtypes."""
    names, wanted = names_by_key(file.tensors), model.state_dict()
    keys = {key for key in names if not is_unused(key) and not key.startswith(TORCH_HEAD)}
    try:
        check_parameters(wanted, {key: file.tensors[names[key]] for key in sorted(keys)})
    except ParameterMismatchError as error:
        raise CheckpointError(f"{file.where} does not fit LeRobot's PI05: {error}") from error
    for path in sorted({file.files[names[key]] for key in keys}):
        try:
            with safe_open(path, framework="pt") as opened, torch.no_grad():
                for key in sorted(key for key in keys if file.files[names[key]] == path):
                    wanted[key].copy_(opened.get_tensor(names[key]))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read, the file is damaged: {error}") from error


def load_head(source: ParameterSource, config: Pi05Config, device: str) -> ProgressHead | None:
    """The head with a source's parameters, float32; None if the configuration has none."""
    if config.progress.kind == "none":
        return None
    head = ProgressHead(config.progress, config.paligemma.width)
    tensors = to_torch({path: source.read(path).astype(np.float32) for path in head_parts(config)}, config)
    head.load_state_dict({name.removeprefix(TORCH_HEAD): torch.from_numpy(tensors[name]) for name in NAMES})
    return head.to(device).eval()
