"""Playing an episode of a data set to a server: frames as a robot would send them, progress drawn over its labels."""

import re

import numpy as np
import pytest
from labelled_datasets import labelled
from serving_helpers import PROFILE, StubPolicy, serving, stub
from small_datasets import MERGED, TWO_TASKS

from pi05_progress.serving.policy_responder import PolicyResponder
from training.replay_episode import ReplayOptions, main, replay_episode


class FromThePicture(StubPolicy):
    """Progress is the frame's number, which the test data tell by brightness; it notes what it was given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def infer(self, frame, prompt):
        self.given.append((frame, prompt))
        frame.state[0] = max(0, int(frame.images["head_camera"].max()) - 90) / 5 / 30
        return super().infer(frame, prompt)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return labelled(TWO_TASKS, tmp_path_factory.mktemp("labelled") / "blocks")


def test_an_episode_is_played_and_drawn(dataset, tmp_path):
    policy = FromThePicture()
    with serving(PolicyResponder(policy, PROFILE)) as server:
        output, course = replay_episode(ReplayOptions(dataset, 1, server.uri, output=tmp_path / "page.html"))
    assert [prompt for _, prompt in policy.given] == ["stack the cubes"] * 30
    assert all(frame.images["left_color"].shape == (32, 32, 3) for frame, _ in policy.given)
    np.testing.assert_allclose(course.times, np.arange(30) / 10)
    np.testing.assert_allclose(course.raw, np.arange(30) / 30, atol=0.06)
    np.testing.assert_allclose(course.label, np.arange(30) / 29, atol=1e-6)
    assert np.isfinite(course.filtered).all()
    assert course.errors()[0] < 0.08
    page = output.read_text()
    assert page.count("<polyline") == 5
    assert "blocks, episode 1: stack the cubes" in page
    assert "mean absolute error: model 0.0" in page
    assert not re.search(r"(src|href)=.http", page)


def test_frames_can_be_left_out_and_data_without_labels_is_played_all_the_same(tmp_path, capsys):
    with serving(stub()) as server:
        arguments = ["--dataset", str(TWO_TASKS), "--episode", "0", "--every", "5", "--server", server.uri]
        arguments += ["--output", str(tmp_path / "page.html"), "--prompt", "no progress"]
        assert main(arguments) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'page.html'}"
        assert "3 frames; no labels to compare" in (tmp_path / "page.html").read_text()
        assert main(arguments) == 1
        assert "is already there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode": 9}, "--episode: there is no 9; the data set has 0 to 3"),
        ({"dataset": "/nowhere"}, "/nowhere: no such folder"),
        ({"dataset": MERGED}, "no video of left_color, right_color, head_camera|no video of head_camera"),
        ({"every": 0}, "--every needs at least 1"),
        ({"server": "ws://127.0.0.1:9"}, "no policy server at ws://127.0.0.1:9"),
        ({"server": "localhost"}, "server address 'localhost': expected ws://HOST:PORT"),
    ],
)
def test_what_cannot_be_played_is_told(changes, message, tmp_path, capsys):
    with serving(stub()) as server:
        given = {"dataset": TWO_TASKS, "server": server.uri, "output": tmp_path / "page.html", **changes}
        assert main([text for name, value in given.items() for text in (f"--{name}", str(value))]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "page.html").exists()
