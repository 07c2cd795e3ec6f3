"""How tiny_demo, the checkpoint that judges, is made, from data to driving. For ``demo_train.py``.

On two cores it takes two and a quarter hours, a third of it training.
"""

from __future__ import annotations

from pathlib import Path

from steps import Ship, Step

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("stack_cubes", "place_in_basket")
FPS, SIZE, SCALE = "30", "70x112", "0.15"
# What is mended (a missed grasp, a drop, a step undone), a pause, giving up, and failures that come close. An episode
# has the picks 0 and 1; of several faults at one pick the first happens.
FAULTS = ("missed_grasp:0", "undone_step:0", "long_pause:1", "dropped_object:1", "gives_up:1", "leaves_object:1",
          "freezes_holding:1")  # fmt: skip
LIVE_FAULTS = ("gives_up:1", "long_pause:1", "missed_grasp:0")
LABELS = ("--method", "milestone", "--finish", "done", "--failures", "last-milestone")
WRONG = "0.05"  # share of samples under another task's instruction
RUN, RECIPE = "shipped", ROOT / "training" / "recipes" / "tiny_demo.py"


def faults(kinds: tuple[str, ...], share: str) -> tuple[str, ...]:
    """Flags of the two programs that record."""
    return (*(flag for kind in kinds for flag in ("--fault", kind)), "--fault-share", share)


def recordings(bags: Path) -> list[Step]:
    """Episodes per task: 100 generated and 6 live to learn from; 40, and 25 with more faults, to judge by."""
    steps = []
    for task in TASKS:
        for name, count, seed, share in (
            ("train", "100", "100", "0.12"),
            ("heldout", "40", "5000", "0.12"),
            ("heldout_faults", "25", "6000", "0.4"),
        ):
            out = bags / f"{name}_{task}"
            where = ("--task", task, "--episodes", count, "--seed", seed, "--out", str(out), "--image-scale", SCALE)
            arguments = ("-m", "pi05_progress_ros.sim.generate", *where, *faults(FAULTS, share))
            steps.append(Step(f"generate {out.name}", arguments, out))
        out = bags / f"live_{task}"
        where = ("--task", task, "--episodes", "6", "--seed", "300", "--out", str(out))
        arguments = ("-m", "pi05_progress_ros.sim.record_live", *where, *faults(LIVE_FAULTS, "0.2"))
        steps.append(Step(f"record {out.name}", arguments, out))
    return steps


def data_sets(bags: Path, data: Path) -> list[Step]:
    """Bags to labelled data sets, one to learn from and one to judge by per task."""
    steps = []
    for task in TASKS:
        for name, sources in (
            (task, ("train", "live")),
            (f"heldout_{task}", ("heldout", "heldout_faults")),
        ):
            plain, labelled = data / name, data / f"{name}_labelled"
            inputs = tuple(bags / f"{source}_{task}" for source in sources)
            arguments = ("-m", "training.convert_rosbags", "--input", *map(str, inputs), "--output", str(plain),
                         "--fps", FPS, "--image-size", SIZE)  # fmt: skip
            go_on, again = ("--resume",), ("--overwrite",)
            steps.append(Step(f"convert {name}", arguments, plain, inputs, resume=go_on, redo=again))
            arguments = ("-m", "training.add_progress_labels", "--input_dataset", str(plain), "--output_dataset",
                         str(labelled), *LABELS)  # fmt: skip
            steps.append(Step(f"label {name}", arguments, labelled, (plain,), resume=again, redo=again))
    return steps


def training(data: Path, runs: Path) -> Step:
    """One hour of two cores."""
    sets = tuple(data / f"{task}_labelled" for task in TASKS)
    arguments = ("-m", "training.train", "--config=tiny_demo", f"--exp_name={RUN}", f"--output={runs}",
                 f"--data.repo_id={','.join(map(str, sets))}", f"--data.cache={data / 'cache'}",
                 f"--data.wrong_instruction={WRONG}")  # fmt: skip
    return Step("train", arguments, runs / "tiny_demo" / RUN, (RECIPE, *sets), resume=("--resume",))


def figures(checkpoint: Path, data: Path, out: Path) -> list[Step]:
    """Progress on held-out episodes, and the policy at the wheel."""
    steps = []
    for task in TASKS:
        name = f"heldout_{task}"
        page = out / f"{name}.html"
        arguments = ("-m", "training.evaluate_progress", "--checkpoint", str(checkpoint),
                     "--dataset", str(data / f"{name}_labelled"),
                     "--train_dataset", str(data / f"{task}_labelled"),
                     "--html", str(page), "--json", str(page.with_suffix(".json")), "--overwrite")  # fmt: skip
        steps.append(Step(f"evaluate {name}", arguments, page, always=True))  # its answers are kept by itself
    driven, tasks = out / "driven.json", (word for task in TASKS for word in ("--task", task))
    arguments = ("-m", "pi05_progress_ros.sim.evaluate", "--checkpoint", str(checkpoint), *tasks,
                 "--episodes", "50", "--json", str(driven), "--overwrite")  # fmt: skip
    return [*steps, Step("drive", arguments, driven, (checkpoint,), redo=())]


def plan(out: Path) -> list[Step | Ship]:
    """All of it, in order."""
    bags, data, checkpoint = out / "bags", out / "data", out / "checkpoint"
    train = training(data, out / "runs")
    return [
        *recordings(bags),
        *data_sets(bags, data),
        train,
        Ship(train.result, checkpoint),
        *figures(checkpoint, data, out),
    ]
