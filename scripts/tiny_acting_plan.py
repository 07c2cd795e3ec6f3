"""How tiny_acting, the checkpoint that drives, is made on two cores, stage by stage. For ``demo_train.py``.

Demonstrations by the planner, whose execution is disturbed; all of the model learns from them. Then its tower stays as
it is and what it makes of the pictures is kept, so that trunk and heads take many more steps in the same time. Then the
policy drives, the planner says what it should have done in each of its states, and trunk and heads go on with both,
with all of it in a mirror, and with instructions in other words and for something else. All that twice, as a better
policy gets into other trouble; and a third time for the action expert alone, from the new corrections alone, so that
progress stays as it is. At last a head that remembers learns from what this checkpoint says over all episodes.
How these begin, which ``training.add_starts`` adds to older checkpoints, every stage of training writes by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from steps import Ship, Step

ROOT = Path(__file__).resolve().parent.parent
RECIPE, INSTRUCTIONS = ROOT / "training" / "recipes" / "tiny_acting.py", ROOT / "config" / "instructions.yaml"


class Episodes(NamedTuple):
    """How many, and the seed of the first."""

    count: str
    seed: str


DEMONSTRATED = {
    "lift_cube": Episodes("90", "20000"),
    "place_in_basket": Episodes("150", "10000"),
    "stack_cubes": Episodes("150", "30000"),
}
CORRECTED = {  # by the stage that learns from them
    "corrected": {
        "lift_cube": Episodes("150", "40000"),
        "place_in_basket": Episodes("150", "50000"),
        "stack_cubes": Episodes("160", "70000"),
    },
    "again": {"place_in_basket": Episodes("50", "130000"), "stack_cubes": Episodes("160", "120000")},
    "acting": {
        "lift_cube": Episodes("50", "260000"),
        "place_in_basket": Episodes("60", "250000"),
        "stack_cubes": Episodes("240", "240000"),
    },
}
SCALE, RATES = ("--image-scale", "0.15"), ("--joint-rate", "10", "--picture-rate", "10")
PICTURES = ("--fps", "5", "--preset", "superfast", "--crf", "18", "--gop", "100")  # as sharp as they were rendered
LABELS = ("--method", "milestone", "--finish", "done", "--failures", "last-milestone")
DRIVING = (*SCALE, "--rate", "2", "--execute-s", "0.5", "--noise", "zero")
STATISTICS = "simulated"  # one set for all stages: what a checkpoint was taught in is what it goes on with
STAGES = {"whole": 6000, "kept": 5000, "corrected": 6000, "again": 9000, "acting": 9000}  # steps
TOWER = ("PaliGemma/img/.*",)
OF_LAYERS = "(attn/(attn_vec_einsum|kv_einsum|q_einsum)|mlp|pre_attention_norm|pre_ffw_norm)"
BUT_ACTIONS = (*TOWER, "PaliGemma/llm/(embedder|final_norm)/.*", f"PaliGemma/llm/layers/{OF_LAYERS}/.*",
               "(position_head|progress_head|state_proj)/.*")  # fmt: skip
EVERYTHING = ("--data.mirror", "--data.corrected_actions", f"--data.instructions={INSTRUCTIONS}",
              "--data.wrong_instruction=0.08")  # fmt: skip
UNSEEN = "900000"  # from this seed on nothing is trained on or chosen by


def recorded(bags: Path, data: Path, name: str, arguments: tuple[str, ...], inputs: tuple[Path, ...]) -> list[Step]:
    """Episodes of one task, and the labelled data set of them."""
    out, plain, labelled = bags / name, data / f"plain_{name}", data / name
    arguments = ("-m", "pi05_progress_ros.sim.generate", "--out", str(out), *SCALE, *RATES, *arguments)
    convert = ("-m", "training.convert_rosbags", "--input", str(out), "--output", str(plain), *PICTURES)
    label = ("-m", "training.add_progress_labels", "--input_dataset", str(plain), "--output_dataset", str(labelled))
    go_on, again = ("--resume",), ("--overwrite",)
    return [
        Step(f"generate {name}", arguments, out, inputs),
        Step(f"convert {name}", convert, plain, (out,), resume=go_on, redo=again),
        Step(f"label {name}", (*label, *LABELS), labelled, (plain,), resume=again, redo=again),
    ]


def trained(
    out: Path, checkpoint: Path, sets: list[Path], further: tuple[str, ...], *before: Path
) -> list[Step | Ship]:
    """One stage of training, called as the checkpoint that its best becomes."""
    name, runs = checkpoint.name, out / "runs"
    steps = STAGES[name]
    arguments = ("-m", "training.train", "--config=tiny_acting", f"--exp_name={name}", f"--output={runs}",
                 f"--data.repo_id={','.join(map(str, sets))}", f"--data.asset_id={STATISTICS}", "--batch_size=128",
                 "--loss.flow_samples=3", f"--num_train_steps={steps}", f"--optimizer.decay_steps={steps}",
                 "--save_interval=500", "--validation_interval=500", *further)  # fmt: skip
    run = runs / "tiny_acting" / name
    return [
        Step(f"train {name}", arguments, run, (RECIPE, *sets, *before), resume=("--resume",)),
        Ship(run, checkpoint),
    ]


def kept(out: Path, before: Path, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Flags of a stage in which the tower, or more, stays as the checkpoint before has it."""
    statistics = before / "assets" / STATISTICS / "norm_stats.json"
    return (f"--checkpoint={before}", "--freeze", *patterns, f"--data.features={out / 'features'}",
            "--data.resident", f"--data.norm_stats={statistics}", "--data.foreign_norm_stats",
            "--optimizer.peak_learning_rate=7e-4", "--optimizer.ema_decay=0.995")  # fmt: skip


def plan(out: Path) -> list[Step | Ship]:
    """All of it, in order."""
    bags, data = out / "bags", out / "data"
    checkpoints, checkpoint = {name: out / "stages" / name for name in STAGES}, out / "checkpoint"
    whole, before = checkpoints["whole"], checkpoints["kept"]
    items: list[Step | Ship] = []
    for task, (count, seed) in DEMONSTRATED.items():
        chosen = ("--task", task, "--episodes", count, "--seed", seed, "--planner")
        items += recorded(bags, data, task, chosen, ())
    sets = [data / task for task in DEMONSTRATED]
    items += trained(out, whole, sets, (f"--data.cache={out / 'pictures'}",))
    items += trained(out, before, sets, kept(out, whole, TOWER), whole)
    for stage, tasks in CORRECTED.items():
        for task, (count, seed) in tasks.items():
            chosen = ("--task", task, "--episodes", count, "--seed", seed, "--correct", "--checkpoint", str(before))
            items += recorded(bags, data, f"{stage}_{task}", chosen, (before,))
        new = [data / f"{stage}_{task}" for task in tasks]
        sets += new
        alone = stage == "acting"
        flags = kept(out, before, BUT_ACTIONS if alone else TOWER)
        items += trained(out, checkpoints[stage], new if alone else sets, (*flags, *EVERYTHING), before)
        before = checkpoints[stage]
    remember = ("-m", "training.train_temporal", "--checkpoint", str(before), "--dataset", *map(str, sets),
                "--noise", "zero", "--cache", str(out / "answers"), "--output", str(checkpoint))  # fmt: skip
    items.append(Step("train temporal", remember, checkpoint, (before, *sets), redo=("--overwrite",)))
    for task in DEMONSTRATED:
        result = out / f"driven_{task}.json"
        arguments = ("-m", "pi05_progress_ros.sim.evaluate", "--checkpoint", str(checkpoint), "--task", task,
                     "--episodes", "100", "--seed", UNSEEN, *DRIVING, "--json", str(result), "--overwrite")  # fmt: skip
        items.append(Step(f"drive {task}", arguments, result, (checkpoint,), redo=()))
    return items
