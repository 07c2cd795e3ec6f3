"""The page about a data set: what it finds, what it shows, and that it only reads."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PATIENCE_S
from places import ROOT
from small_datasets import MERGED, TWO_TASKS, facts, lerobot_copy, make_dataset, tree

from pi05_progress.errors import UserError
from training.add_progress_labels import LabelOptions, add_progress_labels
from training.datasets.frames import PictureError, thumbnails
from training.datasets.progress_meta import EpisodeMeta, ProgressMeta, save_progress_meta
from training.datasets.reader import DatasetError, VideoSpan, open_dataset
from training.inspect_dataset import InspectOptions, inspect_dataset
from training.report import charts
from training.report.summary import picture_findings

FPS = 10
# both arms well within their limits, grippers still
HOME = np.array([0.4, 1.1, -0.5, 0.9, 0.2, -0.1, 0.5, 0, -0.5, -0.9, 0.5, -1.3, 0.3, 0.5, -0.5, 0])


def course(n, seed=0):
    """Smooth motion around the home pose, (n, 48)."""
    phase = np.linspace(0, 4, n)[:, None] + np.arange(16) + seed
    states = np.zeros((n, 48), np.float32)
    states[:, :16] = HOME + 0.1 * np.sin(phase)
    return states


def page_of(root, tmp_path, **options):
    """Text of the page and findings by episode: lists of (kind, text)."""
    path, summaries = inspect_dataset(InspectOptions(root, output=tmp_path / "page.html", overwrite=True, **options))
    return path.read_text(), {s.episode.index: [(f.kind, f.text) for f in s.findings] for s in summaries}


def found(states, tmp_path, actions=None, **known):
    root = make_dataset(tmp_path / "d", states, actions=actions, fps=FPS)
    facts(root, **known)
    return page_of(root, tmp_path)[1]


def test_ordinary_episodes_are_not_suspicious(tmp_path):
    assert found([course(60, s) for s in range(4)], tmp_path) == {i: [] for i in range(4)}


def test_a_standstill_is_found_with_its_time(tmp_path):
    still = np.concatenate([course(30), np.repeat(course(30)[-1:], 40, axis=0)])
    findings = found([course(70), still], tmp_path)
    assert findings[0] == []
    assert findings[1] == [("standstill", "stands still for 4.0 s, longest 4.0 s from 2.9 s on")]


def test_a_jump_is_found_with_joint_and_time(tmp_path):
    jumping = course(60)
    jumping[40:, 2] -= 1.2
    findings = found([course(60), jumping], tmp_path, actions=[course(60), course(60)])
    assert findings[0] == []
    (kind, text), *others = findings[1]
    assert kind == "jump" and "state jumps in 1 frames" in text and "l_joint3 at 4.0 s" in text and not others


def test_joints_at_and_beyond_their_limits_are_found(tmp_path):
    actions = course(60)
    actions[:30, 8 + 1] = 0.2  # r_joint2 may go to 0
    actions[30:, 8 + 1] = 0.0
    actions[:15, 5] = 1.4  # l_joint6 may go there, not further
    findings = dict(found([course(60)], tmp_path, actions=[actions])[0])
    assert findings["limits"] == "outside joint limits: r_joint2 by 0.20 rad (action)"
    assert findings["clipping"] == "at a joint limit: l_joint6 (state 0 %, action 25 %) of the frames"


def test_episodes_of_an_odd_length_are_found_within_their_task(tmp_path):
    states = [course(n) for n in (60, 65, 70, 10, 200, 21)]
    root = make_dataset(tmp_path / "d", states, fps=FPS, tasks=["a"] * 5 + ["b"])
    findings = page_of(root, tmp_path)[1]
    assert list(findings)[:2] == [3, 4] and findings[0] == findings[5] == []  # the worst first
    assert findings[3] == [("short", "short: 0.9 s, the median of its task is 6.4 s")]


def test_what_most_episodes_have_is_told_of_the_data_set_and_makes_none_suspicious(tmp_path):
    clipped = [course(60, s) for s in range(5)]
    for states in clipped[:4]:
        states[:, 6] = 0.68  # l_joint7 at its limit
    clipped[2][40:, 2] -= 1.2
    text, findings = page_of(make_dataset(tmp_path / "d", clipped, fps=FPS), tmp_path)
    assert "joints at their limits (4 of 5 episodes)" in text
    assert "Worth a look: 1 of 5 episodes" in text
    assert next(iter(findings)) == 2 and [kind for kind, _ in findings[0]] == ["clipping"]


def test_wrong_labels_are_found(tmp_path):
    root = make_dataset(tmp_path / "d", [course(60, s) for s in range(4)], fps=FPS)
    facts(root, e3=("FAILURE", {}))
    labelled = tmp_path / "labelled"
    add_progress_labels(LabelOptions(root, labelled))
    path = labelled / "data/chunk-000/file-000.parquet"  # episodes 0 and 1
    table = pq.read_table(path)
    progress = table["observation.progress"].to_numpy().copy()
    progress[20:60] -= 0.3
    place = table.column_names.index("observation.progress")
    pq.write_table(table.set_column(place, "observation.progress", pa.array(progress)), path)
    findings = page_of(labelled, tmp_path)[1]
    texts = [text for kind, text in findings[0] if kind == "labels"]
    assert any("progress falls in 1 frames, first at frame 20" in text for text in texts)
    assert any("ends at progress 0.70 without being a failure" in text for text in texts)
    assert findings[1] == findings[2] == []
    assert findings[3] == [("failure", "failed")]


def test_numbers_that_are_not_finite_do_not_stop_the_page(tmp_path):
    states = course(60)
    states[7, 3] = np.nan
    root = make_dataset(tmp_path / "d", [course(60), course(60)], fps=FPS, per_file=1)
    path = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    column = pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), 48)
    pq.write_table(table.set_column(0, "observation.state", column), path)
    text, findings = page_of(root, tmp_path)
    assert findings[1][0] == ("numbers", "state is not finite in 1 frames")
    assert "nan" not in text.lower()


def test_cameras_that_are_black_or_frozen_are_found():
    rng = np.random.default_rng(0)
    live, still, black = rng.integers(0, 255, (8, 4, 4, 3), np.uint8), np.full((8, 4, 4, 3), 90), np.zeros((8, 4, 4, 3))
    pictures = {"a": list(live), "b": list(still), "c": list(black)}
    texts = [finding.text for finding in picture_findings(pictures, moves=True)]
    assert texts == ["b shows the same picture all the time", "c is black"]
    assert [f.text for f in picture_findings(pictures, moves=False)] == ["c is black"]


class Balanced(HTMLParser):
    """Checks that tags are closed in order, and collects what could leave the file."""

    def __init__(self):
        super().__init__()
        self.open, self.outside, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "i"):
            self.open.append(tag)
        values = dict(attrs)
        self.images += tag == "image"
        for name in ("src", "href"):
            if name in values and not values[name].startswith(("#", "data:")):
                self.outside.append(values[name])

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag != "i":
            assert self.open.pop() == tag


@pytest.fixture
def labelled(tmp_path):
    root = lerobot_copy(tmp_path)
    done = {"e0": ("SUCCESS", {"<grasped>": 3, "placed": 9}), "e1": ("SUCCESS", {"lifted": 10})}
    facts(root, **done, e3=("FAILURE", {"lifted": 5}))
    out = tmp_path / "labelled & <new>"
    add_progress_labels(LabelOptions(root, out, method="milestone", failures="last-milestone"))
    return out


def test_the_page_is_one_file_with_everything_in_it(labelled, tmp_path):
    before = tree(labelled)
    text, _ = page_of(labelled, tmp_path, pictures=5)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == [] and parser.outside == [] and "<script" not in text
    assert parser.images == 3 * (5 + 5 + 1 + 5)  # episode 2 has a single frame
    assert text.count('class="progress"') == 3  # a curve per labelled episode, over one camera
    assert "&lt;grasped&gt;" in text and "<grasped>" not in text and "labelled &amp; &lt;new&gt;" in text
    for name in ("l_joint1", "r_joint7", "left gripper", "stack the cubes", "1 failure", "milestone"):
        assert name in text
    assert tree(labelled) == before


def test_the_most_conspicuous_episodes_come_first_and_the_rest_is_counted(labelled, tmp_path):
    path, summaries = inspect_dataset(InspectOptions(labelled, output=tmp_path / "p.html", max_episodes=2))
    text = path.read_text()
    order = [int(index) for index in re.findall(r"<section class='card' id='e(\d+)'>", text)]
    assert order == [s.episode.index for s in summaries[:2]]
    assert summaries[0].severity >= summaries[1].severity >= summaries[2].severity
    assert "the 2 least conspicuous ones are left out" in text and "<b>4</b>episodes" in text


def test_only_some_episodes(labelled, tmp_path):
    text, findings = page_of(labelled, tmp_path, episodes=(1, 3))
    assert sorted(findings) == [1, 3] and "<b>51</b>frames" in text


def test_a_data_set_without_labels_videos_and_known_layout(tmp_path):
    text, _ = page_of(MERGED, tmp_path)
    assert "add_progress_labels" in text and "left_joint1.pos" in text


def test_a_short_and_a_missing_video_are_found(tmp_path):
    root = lerobot_copy(tmp_path)
    videos = root / "videos"
    shutil.copy(  # a single frame instead of 30
        videos / "observation.images.left_color/chunk-000/file-002.mp4",
        videos / "observation.images.left_color/chunk-000/file-001.mp4",
    )
    (videos / "observation.images.head_camera/chunk-000/file-003.mp4").unlink()
    findings = page_of(root, tmp_path)[1]
    assert any("left_color: " in text and "no picture at" in text for kind, text in findings[1] if kind == "picture")
    assert any("head_camera: " in text and "cannot be opened" in text for kind, text in findings[3])


def test_pictures_are_the_frames_of_their_time(tmp_path):
    """Each frame of the fixture has a bar whose height tells its number."""
    dataset = open_dataset(TWO_TASKS)
    episode = dataset.episodes[1]
    camera = "observation.images.left_color"
    pictures = thumbnails(episode.videos[camera], dataset.fps, 30, 32)
    assert len(pictures) == 30
    for number, picture in enumerate(pictures):
        assert picture.time_s == pytest.approx(number / 10, abs=1e-6)
        bar = picture.image.max(axis=2)[:, 16] > 45  # 90 or more within the bar
        assert abs(int(bar.sum()) - (4 + number % 28)) <= 1, number
    few = thumbnails(episode.videos[camera], dataset.fps, 4, 16)
    assert [p.image.shape for p in few] == [(16, 16, 3)] * 4
    assert few[0].time_s == 0 and all(a.time_s < b.time_s for a, b in pairwise(few))


def test_pictures_of_an_episode_within_a_longer_file_are_its_own(tmp_path):
    span = open_dataset(TWO_TASKS).episodes[1].videos["observation.images.left_color"]
    part = VideoSpan(span.path, 1.1, 2.0)  # frames 11 to 19
    for count in (2, 9):
        for picture in thumbnails(part, 10, count, 32):
            number = round(picture.time_s * 10) + 11
            bar = picture.image.max(axis=2)[:, 16] > 45
            assert 11 <= number <= 19 and abs(int(bar.sum()) - (4 + number)) <= 1
    with pytest.raises(PictureError, match="no picture at"):
        thumbnails(VideoSpan(span.path, 0, 9.0), 10, 4, 32)


def test_a_recording_that_was_cut_off_is_told_and_may_be_unlabelled(tmp_path):
    root = make_dataset(tmp_path / "d", [course(60, s) for s in range(3)], fps=FPS)
    save_progress_meta(root, ProgressMeta({1: EpisodeMeta(note="cut off: the file breaks off")}))
    add_progress_labels(LabelOptions(root, tmp_path / "out"))
    text = "cut off: the file breaks off; its last frame is not the task's end"
    assert page_of(tmp_path / "out", tmp_path)[1] == {0: [], 1: [("cut off", text)], 2: []}


def test_axes_have_round_numbers():
    assert charts.ticks(23) == [0, 5, 10, 15, 20]
    assert charts.ticks(0) == [0]
    assert charts.ticks(0.95, 4) == pytest.approx([0, 0.5])


@pytest.mark.parametrize("value", [0.0, 1.5, np.float32(1.5), 1e9])
def test_a_number_that_never_changes_is_drawn_in_the_middle(value):
    with np.errstate(all="raise"):
        assert "nan" not in charts.ranges([charts.Range("joint", None, [("state", *[value] * 4)])], "rad", "joints")


def test_the_output_is_only_replaced_when_asked(labelled, tmp_path):
    page_of(labelled, tmp_path)
    with pytest.raises(UserError, match="already there"):
        inspect_dataset(InspectOptions(labelled, output=tmp_path / "page.html"))
    with pytest.raises(UserError, match=r"no episode \[9\]; the data set has 0 to 3"):
        inspect_dataset(InspectOptions(labelled, output=tmp_path / "other.html", episodes=(9,)))


@pytest.mark.parametrize("option", ["output", "rerun"])
def test_a_folder_is_no_file_to_write_whatever_is_overwritten(labelled, tmp_path, option):
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    given = {"output": tmp_path / "page.html", option: tmp_path / "folder", "overwrite": True}
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        inspect_dataset(InspectOptions(labelled, **given))
    assert sorted(tmp_path.iterdir()) == before and not list((tmp_path / "folder").iterdir())


def test_folders_of_the_output_are_made_and_a_page_that_fails_leaves_nothing(labelled, tmp_path, monkeypatch):
    inspect_dataset(InspectOptions(labelled, output=tmp_path / "new/page.html"))
    assert (tmp_path / "new/page.html").is_file()
    monkeypatch.setattr("training.inspect_dataset.page", lambda *_: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        inspect_dataset(InspectOptions(labelled, output=tmp_path / "new/other.html"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_data_set_that_lacks_a_file_is_refused(tmp_path):
    root = make_dataset(tmp_path / "d", [course(20, s) for s in range(4)], fps=FPS)
    (root / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match="a file is missing"):
        inspect_dataset(InspectOptions(root, output=tmp_path / "page.html"))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.skipif(find_spec("rerun") is not None, reason="rerun-sdk is installed")
def test_without_rerun_the_error_says_what_to_install(labelled, tmp_path):
    with pytest.raises(UserError, match="pip install rerun-sdk"):
        inspect_dataset(InspectOptions(labelled, output=tmp_path / "page.html", rerun=tmp_path / "r.rrd"))
    assert not (tmp_path / "page.html").exists()


def test_a_recording_for_rerun(labelled, tmp_path):
    pytest.importorskip("rerun")
    path = tmp_path / "r.rrd"
    inspect_dataset(InspectOptions(labelled, output=tmp_path / "page.html", rerun=path))
    done = subprocess.run([sys.executable, "-m", "rerun", "rrd", "print", "-v", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for entity in ("/episode_001/progress", "/episode_001/state", "/episode_001/head_camera", "/episode_000/events"):
        assert entity in done.stdout
    assert not path.with_name("r.rrd.partial").exists()


def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "training.inspect_dataset", str(MERGED), "--output", str(tmp_path / "p.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "episodes are worth a look" in done.stdout, done.stderr
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )  # the page is there now
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
