"""Evaluating recorded episodes: what is written of a whole run, and what is refused."""

import dataclasses
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_datasets import TWO_TASKS, make_dataset, tree
from small_evaluation import save_small

from pi05_progress.checkpoints.description import DURATIONS
from pi05_progress.errors import UserError
from pi05_progress.robots.profile import RobotProfile
from training.datasets import layout
from training.datasets.progress_meta import Labels, ProgressMeta, Stage, load_progress_meta, save_progress_meta
from training.datasets.reader import DatasetError, open_dataset
from training.evaluate_progress import EvaluateOptions, main, run
from training.evaluation.truth import training_of
from training.loading.rows import load_rows

PROFILE = RobotProfile.load("teleavatar")


def made_up(root, **options):
    """EvaluateOptions for predictions that rise with time: 1 after 3 s."""
    options = {"policy": "made_up_predictions:rising", "train_dataset": (TWO_TASKS,), "resamples": 200} | options
    return EvaluateOptions(root, **options)


# --- a whole run ---


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("href", "src") and not value.startswith(("data:", "#"))]
        if tag not in ("meta", "br", "image", "rect", "line", "polyline", "polygon", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_run_writes_page_and_figures_and_only_reads_the_data(dataset, tmp_path):
    before = tree(dataset)
    html, figures = tmp_path / "page.html", tmp_path / "figures.json"
    evaluation = run(made_up(dataset, html=html, json=figures))
    assert tree(dataset) == before
    written = json.loads(figures.read_text())
    assert [e["episode_index"] for e in written["episodes"]] == [0, 1, 2, 3]
    assert written["run"]["checkpoint"] == "policy made_up_predictions:rising"
    # linear truth of 30 frames is t / 2.9, said was t / 3; the clock's median is that of 30 and 21 frames
    stacked = written["by_task"]["stack the cubes"]
    times = np.append(np.arange(0, 30, 2), 29) / 10
    assert stacked["mae_linear.raw"]["value"] == pytest.approx(np.abs(times / 3 - times / 2.9).mean())
    assert stacked["mae_linear.clock"]["value"] == pytest.approx(
        np.abs(np.minimum(times / 2.45, 1) - times / 2.9).mean()
    )
    assert stacked["mae_milestone.raw"]["episodes"] == 1
    assert written["total"]["failure_end.raw"]["episodes"] == 1
    assert written["at_milestones"]["stack the cubes"]["lifted"]["episodes"] == 1
    assert written["episodes"][3]["outcome"] == "FAILURE" and "voc.raw" not in written["episodes"][3]["figures"]
    # a policy that looks at stamps only: the pause goes from 0.6 s to 5.6 s, and turning things round changes nothing
    first = written["episodes"][0]["figures"]
    assert (first["pause_drift.raw"], first["reversed_voc.raw"]) == pytest.approx((0.8, 1))
    assert evaluation.stages_from["put the block into the basket"] == "none"
    page = html.read_text()
    links = Links()
    links.feed(page)
    assert links.found == [] and "<script" not in page and "prefers-color-scheme: dark" in page
    assert page.count("<section class='card'") == 4 and page.count("data:image/jpeg") >= 4 * 1
    assert page.index("<h2>Best</h2>") < page.index("<h2>Worst</h2>")
    assert "NaN" not in page and "nan" not in re.sub(r"data:image/jpeg;base64,[^\"']*", "", page)


def test_pictures_are_shown_as_a_shift_of_the_laboratory_makes_them(dataset):
    shown = {name: run(made_up(dataset, policy="made_up_predictions:bright", shift=name, perturbations=()))
             for name in ("none", "dim", "head_black", "left_black")}  # fmt: skip
    plain, dim, black, other = (e.episodes[0].tracks["plain"].raw for e in shown.values())
    np.testing.assert_allclose(dim, 0.7 * plain, atol=2e-3)
    assert plain.min() > 0.01 and not black.any()
    np.testing.assert_array_equal(other, plain)


def test_the_command_line_says_what_it_did_and_refuses_in_one_line(dataset, tmp_path, monkeypatch, capsys):
    options = ["--dataset", str(dataset), "--policy", "made_up_predictions:rising", "--train_dataset", str(TWO_TASKS),
               "--episodes", "1", "3", "--perturbations", "--json", str(tmp_path / "f.json")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["evaluate_progress", *options])
    main()
    said = capsys.readouterr().out
    assert "2 episodes" in said and "value-order correlation" in said and "f.json" in said
    assert re.search(r"Spearman\) *│ *1\.000 *│ *1\.000", said)  # one success: no interval
    assert "pause_drift.raw" not in json.loads((tmp_path / "f.json").read_text())["total"]
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "is already there" in said


def test_the_wrong_instruction_is_said_by_task_and_may_be_one_the_checkpoint_was_trained_on(dataset, tmp_path):
    """Predictions that rise with time if they are asked to stack; 0.1 for anything else."""
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    options = {"perturbations": ("wrong",), "policy": "made_up_predictions:stacking", "overwrite": True}
    run(made_up(dataset, html=page, json=figures, **options))
    basket, stack = "put the block into the basket", "stack the cubes"
    written = json.loads(figures.read_text())
    assert written["wrong_instructions"] == {basket: stack, stack: basket}
    assert written["by_task"][stack]["wrong_end.raw"]["value"] == pytest.approx(0.1)
    assert written["by_task"][basket]["wrong_end.raw"]["value"] > 0.1  # it was asked to stack
    assert f"wrong instruction: {basket}" in page.read_text()
    run(made_up(dataset, json=figures, wrong="fold a shirt", **options))
    written = json.loads(figures.read_text())
    assert set(written["wrong_instructions"].values()) == {"fold a shirt"}
    assert written["total"]["wrong_end.raw"]["value"] == pytest.approx(0.1)
    trained = {DURATIONS: {"zip the bag": 3.0}, "stages": {"wipe the table": []}}
    known = training_of((TWO_TASKS,), trained, "c", dataset, [0]).tasks
    assert known == {basket, stack, "zip the bag", "wipe the table"}


def test_durations_of_the_checkpoint_are_used_and_tasks_it_never_saw_have_no_clock(checkpoint, dataset, tmp_path):
    args = EvaluateOptions(
        dataset, checkpoint, cache=tmp_path / "cache", num_steps=1, perturbations=(), resamples=100, rate=2.0
    )
    evaluation = run(args)
    assert "skill_linear.raw" in evaluation.by_task["stack the cubes"]
    assert "skill_linear.raw" not in evaluation.by_task["put the block into the basket"]
    assert any("no episodes of task 'put the block into the basket'" in note for note in evaluation.notes)
    assert {"coverage_90.raw", "crps.raw"} <= evaluation.total.keys()


def test_stages_of_training_count_before_those_of_the_data(dataset, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(dataset, trained)
    stages = (Stage("lifted", 0.2), Stage("stacked", 0.5), Stage("finish", 0.3))
    known = load_progress_meta(dataset)
    record = Labels("milestone", {}, {"progress": layout.PROGRESS_COLUMN}, {"stack the cubes": stages})
    save_progress_meta(trained, ProgressMeta(known.episodes, record))
    evaluation = run(made_up(dataset, train_dataset=(trained,)))
    assert evaluation.stages_from["stack the cubes"] == "training"
    truth = evaluation.episodes[1].truth
    assert [round(p, 6) for _, _, p in truth.boundaries] == [0.2, 0.7] and truth.done_frame == 25
    assert evaluation.episodes[3].truth.milestone[-1] == pytest.approx(0.2)  # the failure that was lifted


def test_evaluated_episodes_do_not_set_their_own_clock(dataset):
    evaluation = run(made_up(dataset, train_dataset=(dataset,), episodes=(1,)))  # 3 is a failure
    assert any("no episodes of task 'stack the cubes'" in note for note in evaluation.notes)
    with pytest.raises(UserError, match="no successful episode but those evaluated"):
        run(made_up(dataset, train_dataset=(dataset,)))


def test_episodes_that_a_run_held_out_are_evaluated_and_no_others(dataset, tmp_path):
    path = tmp_path / "held_out.json"
    path.write_text(json.dumps([{"folder": "/elsewhere", "episodes": [0]},
                                {"folder": str(dataset.resolve()), "episodes": [3, 1]}]))  # fmt: skip
    assert [r.episode.index for r in run(made_up(dataset, held_out=path)).episodes] == [1, 3]
    names = load_rows(open_dataset(dataset), PROFILE, "").names
    of = {"folder": "/moved", "episodes": [0, 2], "held_out": names[1::2], "trained_on": names[::2]}  # then renumbered
    path.write_text(json.dumps([of]))
    assert [r.episode.index for r in run(made_up(dataset, held_out=path)).episodes] == [1, 3]
    for text, said in (
        ('[{"folder": "/elsewhere", "episodes": [0]}]', "no episode of .*was held out, 0 were .*about /elsewhere"),
        (json.dumps([of | {"held_out": []}]), "no episode of .*was held out, 2 were trained on; it is about /moved"),
        ('{"episodes": [0]}', "not the held_out.json of a run"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            run(made_up(dataset, held_out=path))
    with pytest.raises(UserError, match="give one of them"):
        run(made_up(dataset, held_out=path, episodes=(1,)))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        run(made_up(dataset, held_out=tmp_path / "nothing.json"))


def test_a_data_set_of_one_episode_has_figures_without_intervals(dataset):
    evaluation = run(made_up(dataset, episodes=(1,)))
    assert evaluation.total["voc.raw"].value == pytest.approx(1) and evaluation.total["voc.raw"].low is None
    assert any("single episode" in note for note in evaluation.notes)


def test_failures_alone_are_evaluated_and_nothing_is_made_up_about_success(dataset):
    evaluation = run(made_up(dataset, episodes=(3,)))
    assert {"failure_end.raw", "false_alarm.filtered"} <= evaluation.total.keys()
    assert not {"voc.raw", "skill_linear.raw", "pause_drift.raw", "missed.filtered"} & evaluation.total.keys()
    assert any("none of the episodes is a success" in note for note in evaluation.notes)


def test_an_episode_of_one_frame_does_no_harm(dataset):
    evaluation = run(made_up(dataset, episodes=(2,)))
    (result,) = evaluation.episodes
    assert np.isnan(result.figures["voc.raw"]) and list(result.tracks) == ["plain", "held"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "made_up_predictions:without_head"}, "no progress head"),
        ({"policy": "made_up_predictions:not_a_number"}, "frame 0: the policy's progress is not finite"),
        ({"policy": "made_up_predictions:picky"}, "frame 0, instruction 'put the block.*has 99 tokens"),
        ({"policy": "nowhere:nothing"}, "module:function"),
        ({"policy": "pi05"}, "--checkpoint is missing"),
        ({"episodes": (9,)}, r"no episode \[9\]; the data set has 0 to 3"),
        ({"train_dataset": ()}, "give the data with --train_dataset"),
        ({"rate": 0.1}, "--rate 0.1: expected at least 0.5"),
        ({"shift": "table"}, r"shift table changes the scene, .*they can show none, light"),
        ({"black": "tail"}, "--black tail: robot teleavatar has head_camera"),
        ({"wrong": "Stack the cubes."}, "is the right instruction of a task"),
        ({"html": Path("/")}, "/ is a folder; name a file in it"),
    ],
)
def test_what_cannot_be_evaluated_is_said(dataset, options, said):
    with pytest.raises(UserError, match=said):
        run(made_up(dataset, **options))


def test_checkpoints_that_cannot_be_evaluated_are_refused_before_anything_is_computed(dataset, tmp_path):
    def arguments(name, **info):
        return EvaluateOptions(dataset, save_small(tmp_path / name, **info), train_dataset=(TWO_TASKS,))

    with pytest.raises(UserError, match="has no progress head"):
        run(arguments("headless", kind="none"))
    with pytest.raises(UserError, match="untrained by its own account"):
        run(arguments("random", model_id="untrained"))
    with pytest.raises(UserError, match="how long its training episodes were"):
        run(dataclasses.replace(arguments("silent"), train_dataset=()))
    with pytest.raises(UserError, match="median_durations_s or stages are wrong"):
        run(dataclasses.replace(arguments("odd", labels={DURATIONS: [1, 2]}), train_dataset=()))


def test_data_of_another_robot_is_refused(dataset, tmp_path):
    path = dataset / layout.INFO
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"robot_type": "aloha"}))
    with pytest.raises(DatasetError, match=r"robot_type is aloha, the profile is teleavatar"):
        run(made_up(dataset))
    joints = make_dataset(tmp_path / "joints", [np.zeros((5, 6))])
    with pytest.raises(DatasetError, match=r"no feature observation.images.head_camera"):
        run(made_up(joints))
