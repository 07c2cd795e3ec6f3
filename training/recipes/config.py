"""What a training run is made of; what it leaves behind is in docs/training.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pi05_progress.models.augmentation import AugmentationConfig
from pi05_progress.models.config import Pi05Config
from pi05_progress.models.lora import Trained
from pi05_progress.units.tokenizer import TokenizerName

from ..engine.loss import LossConfig
from ..engine.optimizer import OptimizerConfig
from ..engine.sharding import MeshConfig
from ..loading.config import ALWAYS_THERE, NO_FLAG, NOT_SHOWN, DataConfig

Better = Literal[
    "loss", "action_loss", "action_error", "progress_mae", "spearman", "position_error_mm", "success", "milestones"
]


@dataclass(frozen=True)
class LogConfig:
    """Logs beside CSV and TensorBoard, which are always written."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases. offline writes files only, for `wandb sync` later; online needs `wandb login`."""
    project: str = "pi05_progress"
    """Of Weights & Biases."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run; a recipe is one of these, and every field is a flag."""

    name: Annotated[str, NO_FLAG, NOT_SHOWN]
    """Of the recipe."""
    model: Annotated[Pi05Config, ALWAYS_THERE]
    """Sizes of the model, its progress head and its prompt."""
    exp_name: str = ""
    """Name of the run: its folder is <output>/<recipe>/<exp_name>."""
    output: Path = Path("checkpoints")
    """Where the folders of runs lie."""
    checkpoint: Path | None = None
    """Folder of the checkpoint to start from (openpi's: import it with convert_checkpoint)."""
    from_scratch: bool = False
    """Start with random parameters where no checkpoint is given."""
    trained: Trained = "everything"
    """everything, the adapters (LoRA) and what openpi trains beside them, or the progress head alone."""
    freeze: tuple[str, ...] = ()
    """Regular expressions of paths of parameters that stay as they are, such as PaliGemma/img/.* (the vision tower);
    each must match a whole path."""
    tokenizer: TokenizerName = "paligemma"
    """Of prompts: PaliGemma's, or bytes or words for small models of one's own."""
    tokenizer_path: Path | None = None
    """PaliGemma's tokenizer.model."""
    batch_size: int = 64
    """Samples of an optimiser step, over all devices and processes."""
    num_train_steps: int = 20_000
    """Optimiser steps."""
    steps_per_dispatch: int = 1
    """Optimiser steps that the device takes without the host, with --data.resident: for small models on a GPU."""
    seed: int = 42
    """Of initial parameters, noise, augmentation and the order of samples."""
    log_interval: int = 100
    """Steps between rows in the logs, which are means over these steps."""
    validation_interval: int = 1000
    """Steps between validations on held-out episodes; 0: never."""
    validation_stride: int = 10
    """Of held-out episodes every so many frames are looked at."""
    best: Better = "loss"
    """The number of validation by which a checkpoint is the best: one of validation.csv, or success in simulation."""
    sim_validation_every: int = 0
    """Steps after which the checkpoint drives the simulated robot, in a process of its own; 0: never."""
    sim_episodes: int = 20
    """Episodes of each task that it drives then, on seeds that are kept for this."""
    sim_arguments: str = ""
    """Further arguments of sim.evaluate, such as "--task lift_cube --rate 2"."""
    trace: Path | None = None
    """Folder for a profile of some steps, for TensorBoard's profiler or Perfetto; none: no profile."""
    save_interval: int = 1000
    """Steps between checkpoints."""
    keep_period: int | None = 5000
    """Checkpoints of multiples of this are kept; of the others only the last and the best."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is learnt from."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How pictures are changed at random, and cameras dropped, while it is learnt from them."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How parameters change."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How devices and processes share the work."""
    logs: LogConfig = field(default_factory=LogConfig)
    """Where metrics go."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Remove the run's folder if it is there, and start anew."""
    plan: bool = False
    """Print the memory that a device needs, and stop before anything is allocated or read."""
    plan_devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices to plan for."""
    plan_gib: float = 80.0
    """Memory of a device, GiB."""
