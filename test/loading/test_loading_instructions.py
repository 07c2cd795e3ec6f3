"""What a file of instructions makes of samples: other wordings, and such as ask for something else."""

import numpy as np
import pytest
import yaml
from small_datasets import lerobot_copy
from small_loading import change_column, loader, prompts, take

from pi05_progress.errors import UserError
from training.datasets.reader import open_dataset
from training.loading.config import DataConfigError

WORDINGS = {"paraphrases": ["say {SAID} so", "say {SAID} otherwise", "said {SAID} by the judge"],
            "refused": ["undo {SAID}", "never {SAID}", "judge {SAID}"]}  # fmt: skip
EVERY = {"validation_fraction": 0, "batch_size": 16}


@pytest.fixture(scope="module")
def file(data, tmp_path_factory):
    """A file with wordings of the data's two tasks."""
    path = tmp_path_factory.mktemp("instructions") / "instructions.yaml"
    tasks = [
        {"says": [said], **{kind: [one.replace("{SAID}", str(number)) for one in of] for kind, of in WORDINGS.items()}}
        for number, said in enumerate(open_dataset(data).tasks)
    ]
    path.write_text(yaml.safe_dump({"tasks": tasks}))
    return path


def seen(batches, data):
    """Of every row: task, prompt, progress, whether that counts, whether actions do, and the frame."""
    tasks = [episode.task for episode in open_dataset(data).episodes]
    numbers = {task: number for number, task in enumerate(open_dataset(data).tasks)}
    for batch in batches:
        of = batch.observation
        for row, said in enumerate(prompts(batch)):
            origin = tuple(batch.origin[row, 1:].tolist())
            text = said.strip().removeprefix("Task: ").split(", State")[0]
            yield (
                numbers[tasks[origin[0]]],
                text,
                of.progress[row],
                of.progress_mask[row],
                batch.action_weight[row],
                origin,
            )


def test_half_of_the_samples_are_said_otherwise_and_nothing_else_changes(data, load, file):
    with load(**EVERY) as plain, load(instructions=file, **EVERY) as batches:
        usual, reworded = list(seen(take(plain, 8), data)), list(seen(take(batches, 8), data))
    other = 0
    for before, after in zip(usual, reworded, strict=True):
        assert before[0] == after[0] and before[2:] == after[2:]
        if after[1] != before[1]:
            assert after[1] in (f"say {after[0]} so", f"say {after[0]} otherwise")
            other += 1
    assert 0.3 < other / len(usual) < 0.7


def test_what_is_to_be_refused_has_no_progress_and_no_actions_also_in_resident_samples(data, file):
    options = {"instructions": file, "wrong_instruction": 0.4, **EVERY}
    with loader(data, **options) as streaming, loader(data, resident=True, **options) as resident:
        found = [list(seen(take(streaming, 12), data)), list(seen([resident.all_samples()], data))]
    for rows in found:
        wrong = [row for row in rows if row[1].startswith(("undo", "never"))]
        assert {row[1] for row in wrong} >= {"undo 0", "never 1"} and 0.1 < len(wrong) / len(rows) < 0.5
        for task, said, progress, counts, actions, _ in wrong:
            assert said.endswith(str(task)) and progress == 0 and counts and not actions
        assert not any("judge" in row[1] for row in rows)
    assert len({row[5] for row in found[1]}) == len(found[1])  # each frame once


def test_a_run_goes_on_with_the_same_wordings_only(data, file, tmp_path):
    with loader(data, instructions=file) as batches:
        state = batches.state()
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("otherwise", "differently"))
    with loader(data, instructions=other) as batches, pytest.raises(DataConfigError, match="other wordings"):
        batches.restore(state)


def test_a_file_that_lacks_a_task_or_has_a_wording_too_long_is_refused(data, file, tmp_path):
    one = yaml.safe_load(file.read_text())["tasks"]
    short, long = tmp_path / "short.yaml", tmp_path / "long.yaml"
    short.write_text(yaml.safe_dump({"tasks": one[:1]}))
    with pytest.raises(UserError, match="no task of the file of instructions says it"):
        loader(data, instructions=short)
    long.write_text(file.read_text().replace("otherwise", "otherwise " * 100))
    with pytest.raises(DataConfigError, match=r"the file of instructions: the prompt.* leave it out"):
        loader(data, instructions=long)


def test_of_some_data_sets_progress_alone_is_learnt(data, load, tmp_path):
    other = lerobot_copy(tmp_path)
    change_column(other, "action", lambda values: 0.9 * values)
    with load(data, other, progress_only=(data.name,), **EVERY) as batches, load(data, other, **EVERY) as plain:
        taken, usual = take(batches, 6), take(plain, 6)
    for one, same in zip(taken, usual, strict=True):
        watched = one.origin[:, 0] == 0
        assert not one.action_weight[watched].any() and one.action_weight[~watched].all()
        np.testing.assert_array_equal(one.observation.progress, same.observation.progress)
    with pytest.raises(DataConfigError, match="no data set is called nobody; there are labelled"):
        load(data, progress_only=("nobody",))
    with pytest.raises(DataConfigError, match=r"no actions would be learnt.*--data\.progress_only"):
        load(data, progress_only=(data.name,))
