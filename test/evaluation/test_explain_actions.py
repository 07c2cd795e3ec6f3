"""Why a policy does not grasp: known faults are named first, and so are those of the shipped checkpoint."""

import json
import re
import shutil
import sys

import mujoco
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from acting_policies import STACKING
from small_datasets import tree

from pi05_progress.errors import UserError
from pi05_progress.files.config_files import shipped_checkpoint
from pi05_progress.robots.kinematics import fingertips
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import actions_to_model
from pi05_progress_ros.sim.physics.scene import arm_table, make_spec
from training.explain_actions import ExplainOptions, main, run

PROFILE = RobotProfile.load("teleavatar")


def explained(policy, dataset=STACKING, **options):
    return run(ExplainOptions(dataset, policy=f"acting_policies:{policy}", **{"frames": 60} | options))


def rows(result, title):
    (found,) = [table for table in result.tables if table.title == title]
    return [dict(zip(found.headings, cells, strict=True)) for cells in found.known()]


# --- what is found ---


@pytest.mark.parametrize(
    ("policy", "kind", "text"),
    [
        ("beside", "first row", r"first row is 0\.1\d\d rad away from the present pose, the data's 0\.00\d"),
        ("ignores_the_head", "unused camera", r"^camera head_camera is not used: black changes actions by 0\.000 rad"),
        ("ignores_the_state", "unused state", r"another frame's changes the actions by 0\.000 rad"),
        ("late", "gripper", r"a gripper (closes|opens) 0\.40 s late"),
        ("early", "gripper", r"a gripper (closes|opens) 0\.\d\d s early"),
        ("stands_still", "stands still", r"chunks go 0 % of the demonstrated way"),
        ("dithers", "dithers", r"another noise the same frame's actions are 0\.0\d\d rad elsewhere"),
        ("takes_noise_for_motion", "state", r"5 mrad of noise changes the actions by 0\.\d\d\d rad"),
    ],
)
def test_the_first_finding_is_what_is_wrong(policy, kind, text):
    result = explained(policy)
    assert result.findings[0].kind.startswith(kind), result.findings
    assert re.search(text, result.findings[0].text), result.findings[0].text
    assert result.findings[0].remedy


def test_nothing_is_wrong_with_a_perfect_policy():
    result = explained("perfect")
    assert result.findings == []
    everywhere = rows(result, "Moments")[0]
    assert everywhere["policy, rad"] == pytest.approx(0, abs=1e-6) and everywhere["policy, mm"] < 0.01
    assert everywhere["standing still, rad"] > 0.02 and everywhere["mean action, rad"] > 0.05
    assert {"milestone red_cube lifted", "the last second before a gripper closes"} <= {
        row["moment"] for row in rows(result, "Moments")
    }
    assert all(row["jump, rad"] is None or row["jump, rad"] < 1e-6 for row in rows(result, "Rows to execute"))


@pytest.mark.long  # each of these findings is made by another test, too
def test_the_shipped_checkpoint_has_absolute_actions_the_state_as_words_and_a_camera_it_does_not_use():
    result = run(ExplainOptions(STACKING, checkpoint=shipped_checkpoint(), frames=36))
    first = {finding.kind: finding.text for finding in result.findings[:3]}
    assert first.keys() == {"absolute actions", "state as words", "unused camera"}
    assert "the state reaches the model as words: 5 mrad of noise changes" in first["state as words"]
    assert first["unused camera"].startswith("camera head_camera is not used: black changes actions by 0.00")
    assert "worse than standing still" in result.verdict


def test_actions_that_are_relative_already_have_another_remedy():
    kinds = ("absolute", "relative", "relative_per_row")
    absolute, relative, per_row = (explained(f"beside_{kind}", frames=12).findings[0] for kind in kinds)
    assert (absolute.kind, relative.kind, per_row.kind) == ("absolute actions", "first row", "first row")
    assert "train relative actions" in absolute.remedy
    assert "--data.actions_per_row" in relative.remedy and "relative already" in per_row.remedy


def test_actions_that_are_poses_are_a_fault_of_the_data(tmp_path):
    root = shutil.copytree(STACKING, tmp_path / "poses")
    (path,) = (root / "data").glob("*/*.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("action")
    pq.write_table(table.set_column(at, table.schema.field("action"), table["observation.state"]), path)
    found = [finding.text for finding in explained("perfect", root).findings if finding.kind == "data"]
    assert found == ["the data's actions do not lead its states (by 0.00 s): they are poses, not commands"]


def with_column(root, name, values):
    """A data set gets one more column."""
    (path,) = (root / "data").glob("*/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, values), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = {"dtype": "float32", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def test_what_is_not_to_be_imitated_does_not_count(tmp_path):
    root = shutil.copytree(STACKING, tmp_path / "corrected")
    valid = np.arange(327) < 200  # the rest is a mistake
    with_column(root, "demonstration.valid", pa.array(valid))
    everywhere = rows(explained("perfect", root, frames=1000), "Moments")[0]
    assert everywhere["frames"] == 200 and everywhere["policy, rad"] == pytest.approx(0, abs=1e-6)


def test_actions_are_held_against_those_that_were_right_where_others_were_executed(tmp_path):
    root = shutil.copytree(STACKING, tmp_path / "right")
    table = pq.read_table(next((root / "data").glob("*/*.parquet")))
    actions = actions_to_model(np.stack(table["action"].to_numpy()), PROFILE.layout)
    right = actions[np.minimum(np.arange(327)[:, None] + np.arange(5), 326)]
    right[..., :7] += 0.07  # the left arm was to be elsewhere
    with_column(root, "demonstration.actions", pa.array(right.reshape(327, -1).tolist()))
    result = explained("perfect", root, frames=20)
    joints = {row["joint"]: row["policy, rad"] for row in rows(result, "Joints")}
    assert joints == {name: pytest.approx(0.07 * (name[0] == "l"), abs=1e-6) for name in joints}
    # nor do arms that executed others follow them
    assert "data" not in {finding.kind for finding in result.findings}
    data = [row["value"] for row in rows(result, "Motion and data") if row["figure"].startswith("data: ")]
    assert data == [None] * 4


# --- what it is found with ---


def test_fingertips_are_where_the_simulated_robot_has_them():
    model = make_spec().compile()
    data, angles = mujoco.MjData(model), np.random.default_rng(0).uniform(-1, 1, (3, 16))
    tips, grasps = fingertips(angles, PROFILE.layout), fingertips(angles, PROFILE.layout, "grasp")
    for pose, tip, grasp in zip(angles, tips, grasps, strict=True):
        for arm, (side, columns) in enumerate(PROFILE.layout.arms.items()):
            for joint, angle in zip(PROFILE.layout.joints[columns], pose[columns], strict=True):
                data.joint(joint).qpos = angle
            mujoco.mj_kinematics(model, data)
            hand = data.body(PROFILE.layout.joints[columns][-1])
            middle = np.mean([finger["pos"] for finger in arm_table().fingers[side]], axis=0)
            np.testing.assert_allclose(grasp[arm], data.site(f"{side[0]}_grasp").xpos, atol=1e-6)
            np.testing.assert_allclose(tip[arm], hand.xpos + hand.xmat.reshape(3, 3) @ middle, atol=1e-6)


# --- what is written and refused ---


def test_page_json_and_terminal_say_the_same(tmp_path, monkeypatch, capsys):
    before = tree(STACKING)
    words = [f"--dataset={STACKING}", "--policy=acting_policies:beside", "--frames=12", "--episodes=0",
             f"--html={tmp_path / 'p.html'}", f"--json={tmp_path / 'p.json'}"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["explain_actions", *words])
    assert main() == 0
    said = " ".join(capsys.readouterr().out.split())
    page, record = (tmp_path / "p.html").read_text(), json.loads((tmp_path / "p.json").read_text())
    assert record["version"] == 1 and record["run"]["data set"] == "stack_one"
    for finding in record["findings"]:
        assert finding["text"] in said and finding["remedy"] in said
        assert finding["text"].replace("'", "&#x27;") in page
    for table in record["tables"]:
        assert table["title"] in said and f"<h2>{table['title']}</h2>" in page
        assert all(len(cells) == len(table["headings"]) for cells in table["rows"])
    assert "<script" not in page and "<polyline" in page and tree(STACKING) == before
    assert main() == 1  # never over what is there, unless it is told to
    assert "p.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "pi05"}, "--checkpoint is missing"),
        ({"frames": 1}, "--frames 1: expected at least 4"),
        ({"policy": "acting_policies:perfect", "episodes": (7,)}, r"no episode \[7\]; the data set has 0 to 0"),
        ({"policy": "nowhere:policy"}, "nowhere:policy"),
    ],
)
def test_what_cannot_be_explained_is_said(options, said):
    with pytest.raises(UserError, match=said):
        run(ExplainOptions(STACKING, **options))
