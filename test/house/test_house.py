"""The rule of the house, read from the imports: programs and contract on top, folders below, nothing upward."""

import ast
import re
import statistics
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import draw_house
import house

FILES = house.read_files()
HELPERS_AT_MOST = {"pi05_progress": 12, "pi05_progress_ros": 11, "pi05_progress_ros.sim": 6}


def imports_of(tree):
    return {other for name, file in FILES.items() if name.split(".")[0] == tree for other in file.imports}


def foreign_imports(tree):
    return {(name, other) for name, file in FILES.items() if name.split(".")[0] == tree for other in file.foreign}


def test_imports_point_downward_and_never_in_a_circle():
    assert house.faults(FILES) == []


@pytest.mark.parametrize("tree", ["pi05_progress", "training"])
def test_the_core_and_training_know_no_ros(tree):
    assert not [name for name in imports_of(tree) if name.startswith("pi05_progress_ros")]
    ros = {"rclpy", "launch", "launch_ros", "pi05_progress_msgs", "sensor_msgs", "std_msgs", "diagnostic_msgs"}
    assert not [(file, other) for file, other in foreign_imports(tree) if other in ros]


def test_the_core_and_the_ros_tree_know_no_training():
    assert not [
        name for name in imports_of("pi05_progress") | imports_of("pi05_progress_ros") if name[:8] == "training"
    ]


def test_nothing_but_the_torch_policy_imports_torch():
    users = {file for tree in house.TREES for file, other in foreign_imports(tree) if other in ("torch", "lerobot")}
    assert users == {"pi05_progress.policies.torch_policy"}


@pytest.mark.parametrize(("folder", "most"), HELPERS_AT_MOST.items())
def test_the_top_of_a_tree_is_its_programs_and_few_folders(folder, most):
    assert len(house.helpers_at_top(FILES, folder)) <= most, house.helpers_at_top(FILES, folder)


def test_a_file_is_a_subject():
    lengths = {name: file.lines for name, file in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}
    assert statistics.median(lines for lines in lengths.values() if lines > 2) <= 130


def without_encoding(call):
    """Whether a call opens a text file in the encoding of whoever's locale it is."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if any(keyword.arg in ("encoding", None) for keyword in call.keywords) or ast.unparse(call.func) == "av.open":
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    modes = [call.args[-1].value for _ in "m" if call.args and isinstance(call.args[-1], ast.Constant)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    is_text = any(isinstance(mode, str) and re.fullmatch(r"[rwax]\+?t?", mode) for mode in modes)
    plain = isinstance(call.func, ast.Name) and len(call.args) == 1 and not call.keywords
    return (name == "open" and (is_text or plain)) or (name == "TemporaryFile" and is_text)


def test_text_files_are_utf_8_whatever_the_locale():
    found = []
    for folder in (*house.TREES, "benchmarks", "examples", "scripts", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            calls = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call))
            found += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if without_encoding(call)]
    assert found == []


def test_the_picture_in_the_architecture_page_shows_every_room():
    drawn = re.findall(r"<text x=\S+ y=\S+>([^<]*)</text>", (ROOT / "docs/images/house.svg").read_text())
    now = re.findall(r"<text x=\S+ y=\S+>([^<]*)</text>", draw_house.picture(FILES))
    assert sorted(drawn) == sorted(now), "draw it anew: python scripts/draw_house.py"


def written(folder, **texts):
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.faults(house.read_files(folder))


def test_a_circle_of_files_is_found_even_if_an_import_hides_in_a_function(tmp_path):
    hidden = "def f():\n    from .b import g\n"
    (fault, *_) = written(tmp_path, training__x__a=hidden, training__x__b="from . import a\n")
    assert "training.x.a -> training.x.b -> training.x.a" in fault or "training.x.b -> training.x.a" in fault


def test_a_circle_of_folders_without_one_of_files_is_found(tmp_path):
    texts = {"training__x__a": "from ..y import c\n", "training__y__b": "from ..x import d\n"}
    (fault,) = written(tmp_path, **texts, training__y__c="", training__x__d="")
    assert "what lies in training imports one another in a circle" in fault


def test_a_program_is_not_imported(tmp_path):
    (fault,) = written(
        tmp_path, training__tool='if __name__ == "__main__":\n    pass\n', training__x__a="from training import tool\n"
    )
    assert "training.x.a imports the program training.tool" in fault
