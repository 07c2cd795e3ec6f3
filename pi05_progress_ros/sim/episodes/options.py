"""Which episodes of the scripted expert are recorded, as one is asked for them, and what became of each."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import write_file
from pi05_progress.robots.profile import RobotProfile

from ...command_line import check_ranges
from ...starting.simulation_choices import FAULTS, LaboratoryName, TaskName, check_simulable, parse_fault
from ..physics.cameras import check_rendering
from ..physics.laboratory import SHIFT_HELP, Laboratory

# Training, validation and the choice of checkpoints use seeds below these. Success is reported on those from 900,000
# on; the hundred thousand in between are for trying an evaluation out.
EVALUATION_SEEDS = 800_000
FAULT_HELP = f"What goes wrong, as KIND or KIND:PICK; may be repeated. Kinds: {', '.join(FAULTS)}."


@dataclass(frozen=True)
class EpisodeOptions:
    """Command line."""

    task: TaskName
    """What is done."""
    out: Path
    """Folder for the bags; made if it is not there."""
    episodes: int = 10
    """How many."""
    seed: int = 0
    """Of the first episode."""
    image_scale: float = 0.25
    """Image size as a share of the real cameras'."""
    fault: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(help=FAULT_HELP)]] = ()
    fault_share: float = 1.0
    """Share of the episodes in which each fault happens."""
    profile: str = "teleavatar"
    """Robot profile."""
    evaluation: bool = False
    """Allow seeds from 800,000 on, which are kept for evaluation: no policy may have learnt from them."""
    laboratory: LaboratoryName = "plain"
    """Where it stands: always the same, or in a laboratory drawn at random from every seed, so that a policy learns
    what does not matter."""
    shift: Annotated[str, tyro.conf.arg(help=SHIFT_HELP)] = "none"

    @property
    def seeds(self) -> range:
        """Of all episodes."""
        return range(self.seed, self.seed + self.episodes)

    def where(self) -> Laboratory:
        """The laboratory that episodes are recorded in."""
        return Laboratory(self.laboratory, self.shift)

    def check(self) -> None:
        """Make the folder for such episodes; raise a ``UserError`` if one of the options cannot be used here."""
        check_ranges(self, {"episodes": (1, 10**6), "seed": (0, 10**6), "fault_share": (0, 1)})
        if self.seeds[-1] >= EVALUATION_SEEDS and not self.evaluation:
            raise UserError(
                f"--seed {self.seed} --episodes {self.episodes}: seeds from {EVALUATION_SEEDS} on are kept for "
                "evaluation, so that no policy has learnt from them or was chosen by them; give lower ones, or "
                "--evaluation if nothing will be trained on these episodes"
            )
        check_rendering(self.image_scale)
        self.where()
        for fault in self.fault:
            parse_fault(fault, self.task)
        try:
            check_simulable(RobotProfile.load(self.profile))
        except UserError as error:
            raise UserError(f"--profile {self.profile}: {error}") from error
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if not os.access(self.out, os.W_OK):
                raise PermissionError(13, "is not writable")
        except OSError as error:
            raise UserError(f"--out {self.out}: {error.strerror or error}") from error


SUMMARY = "episodes.json"


@dataclass(frozen=True)
class EpisodeFacts:
    """One episode, by the simulation's truth; ``milestones`` are names and s since its start."""

    seed: int
    task: str
    outcome: str
    reason: str
    duration_s: float
    faults: list[str]
    milestones: list[tuple[str, float]]
    laboratory: str = "plain"
    shift: str = "none"


def facts_path(bag: Path) -> Path:
    """The file with an episode's facts, beside its bag."""
    return bag.with_name(f"{bag.name}.json")


def write_facts(bag: Path, facts: EpisodeFacts) -> None:
    """Say that an episode is complete; write it after its bag."""
    _write_json(facts_path(bag), asdict(facts))


def read_facts(folder: Path) -> list[dict]:
    """The facts of all complete episodes of a folder, in the order of their names."""
    complete = [path for path in sorted(folder.glob("*.json")) if path.with_suffix("").is_dir()]
    return [json.loads(path.read_text(encoding="utf-8")) for path in complete]


def write_summary(folder: Path) -> list[dict]:
    """Collect the facts of all episodes of a folder in ``episodes.json``; returns them."""
    facts = read_facts(folder)
    _write_json(folder / SUMMARY, facts)
    return facts


def _write_json(path: Path, data: object) -> None:
    write_file(path, json.dumps(data, indent=1) + "\n")
