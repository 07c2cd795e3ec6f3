"""What became of a recorded episode: a JSON file beside its bag, and one of all of them per folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pi05_progress.files.output_file import write_file

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


def facts_path(bag: Path) -> Path:
    """The file with an episode's facts, beside its bag."""
    return bag.with_name(f"{bag.name}.json")


def write_facts(bag: Path, facts: EpisodeFacts) -> None:
    """Say that an episode is complete; write it after its bag."""
    _write_json(facts_path(bag), asdict(facts))


def read_facts(folder: Path) -> list[dict]:
    """The facts of all complete episodes of a folder, in the order of their names."""
    return [
        json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json")) if p.with_suffix("").is_dir()
    ]


def write_summary(folder: Path) -> list[dict]:
    """Collect the facts of all episodes of a folder in ``episodes.json``; returns them."""
    facts = read_facts(folder)
    _write_json(folder / SUMMARY, facts)
    return facts


def _write_json(path: Path, data: object) -> None:
    write_file(path, json.dumps(data, indent=1) + "\n")
