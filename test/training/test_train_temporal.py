"""A checkpoint gets a temporal head: trained on what it says over whole episodes, written beside, used everywhere."""

import shutil

import numpy as np
import pytest
from labelled_datasets import labelled
from small_datasets import tree
from small_evaluation import save_trained, with_failure

from pi05_progress.checkpoints.checkpoint import CheckpointError, read_temporal
from pi05_progress.errors import UserError
from pi05_progress.estimate.estimator import ProgressEstimator
from pi05_progress.estimate.temporal import TemporalHead
from pi05_progress.make_policy import make_policy
from pi05_progress.observation import RobotFrame
from pi05_progress.policy import PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.teleavatar import ServerFacts, make_request, read, read_reply
from pi05_progress.serving.wire import pack, unpack
from training.evaluate_progress import EvaluateOptions
from training.evaluate_progress import run as evaluate
from training.train_temporal import TemporalOptions, run

PROFILE = RobotProfile.load("teleavatar")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folder with a checkpoint without a head, `with` one, and the labelled data set."""
    root = tmp_path_factory.mktemp("temporal")
    save_trained(root / "without")
    (root / "raw").mkdir()
    labelled(with_failure(root / "raw"), root / "data")
    before = tree(root / "without")
    run(options(root, root / "with"))
    assert tree(root / "without") == before
    return root


def options(root, output, **more):
    return TemporalOptions(
        root / "without", (root / "data",), output, steps=2, cache=root / "cache", **more
    )  # fmt: skip


def policy_of(folder, **more):
    return make_policy(PROFILE, PolicyOptions(checkpoint=str(folder), num_steps=1, **more))


def frame():
    images = {key: np.full((28, 28, 3), 90, np.uint8) for key in PROFILE.cameras}
    return RobotFrame(images, np.zeros(PROFILE.vector_size, np.float32))


def test_node_and_client_get_head_and_features_and_a_checkpoint_without_one_is_as_before(places):
    with_head, without = policy_of(places / "with"), policy_of(places / "without")
    assert without.temporal_head == b""
    head = TemporalHead(with_head.temporal_head)
    assert head.about.made["trained_on"] + head.about.made["calibrated_with"] > 0
    output = with_head.infer(frame(), "stack the cubes")
    assert output.progress == pytest.approx(without.infer(frame(), "stack the cubes").progress, abs=1e-5)
    assert output.progress_features.shape == head.arrays["centroids"].shape[1:]

    responder = PolicyResponder(with_head, PROFILE)
    facts = read(ServerFacts, unpack(pack(responder.metadata)), "the server tells")
    assert facts.temporal_head == with_head.temporal_head
    request = unpack(pack(make_request(frame(), "stack the cubes", None)))
    (reply,) = responder.answer([responder.prepare(request)])
    arrays = [value for key, value in reply.items() if isinstance(value, np.ndarray) and key != "actions"]
    assert not arrays  # openpi's clients would cut them into steps
    given = read_reply(unpack(pack(reply)), facts.confidence_level)
    np.testing.assert_allclose(given.progress_features, output.progress_features, atol=1e-4)
    here, there = (ProgressEstimator(temporal_head=facts.temporal_head) for _ in range(2))
    direct = here.update(0.0, output, "stack the cubes").progress
    assert there.update(0.0, given, "stack the cubes").progress == pytest.approx(direct, abs=1e-3)

    plain = PolicyResponder(without, PROFILE)
    (reply,) = plain.answer([plain.prepare(request)])
    assert "temporal_head" not in plain.metadata
    assert not {"progress_features", "progress_belief"} & reply.keys()


def test_the_head_can_be_left_out(places):
    assert policy_of(places / "with", temporal=False).temporal_head == b""


def test_the_evaluation_shows_the_figures_with_and_without(places):
    shown = EvaluateOptions(
        places / "data", places / "with", perturbations=("pause",), resamples=100, cache=places / "answers", num_steps=1
    )
    found = evaluate(shown)
    unlike = found.total["unlike.temporal"].value  # has no figures; all or a part, by the processor
    for key in ("mae_linear", "pause_drift", "remaining_50", "coverage_90", "tenth_least", "auroc_end", "unlike"):
        assert f"{key}.filtered" in found.total
        known = unlike == 0 if key == "auroc_end" else unlike < 1  # which needs the ends of successes and of failures
        assert f"{key}.temporal" in found.total or not known


def test_what_is_wrong_is_said_and_nothing_is_written(places, tmp_path):
    for output in (places / "without", places / "without" / "with", places / "data" / "with"):
        with pytest.raises(UserError, match="the input is never modified"):
            run(options(places, output))
    with pytest.raises(UserError, match="shares from 0"):
        run(options(places, tmp_path / "o", false_alarms=1.0))
    assert not (tmp_path / "o").exists()


@pytest.fixture
def wordings(tmp_path):
    """A file about the tasks of the data."""
    path = tmp_path / "instructions.yaml"
    path.write_text("""
tasks:
  - {says: [stack the cubes], paraphrases: [make a tower, pile them up, build it high], refused: [a, b, take it apart]}
  - {says: [put the block into the basket]}
rules: {says: ["{instruction}"], refused: [c, d, e]}
""")
    return path


def test_episodes_are_trained_on_under_other_wordings_and_under_refused_instructions(places, wordings, tmp_path):
    plain = TemporalHead(policy_of(places / "with").temporal_head).about.made
    told = TemporalHead(run(options(places, tmp_path / "o", instructions=wordings))).about.made
    assert plain["instructions"] is None and told["instructions"] == wordings.name
    assert plain["trained_on"] < told["trained_on"] <= 3 * plain["trained_on"]
    assert plain["calibrated_with"] == told["calibrated_with"]


def test_successes_are_shown_with_wordings_that_taught_nothing(places, wordings, tmp_path):
    shown = EvaluateOptions(
        places / "data", places / "with", perturbations=(), resamples=100, cache=places / "answers", num_steps=1,
        instructions=wordings,
    )  # fmt: skip
    found = evaluate(shown)
    assert {"paraphrase_change.raw", "refused_end.raw", "refused.raw"} <= found.total.keys()


def test_a_damaged_head_is_refused_and_the_remedy_named(places, tmp_path):
    shutil.copytree(places / "with", tmp_path / "c")
    (file,) = (tmp_path / "c" / "temporal").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="temporal"):
        read_temporal(tmp_path / "c")
