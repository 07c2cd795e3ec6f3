"""The entry point for machines without launch, and what launch files and docs share with it; nothing is started."""

import pytest
import yaml
from places import ROOT

from pi05_progress.errors import UserError
from pi05_progress_ros.run import LAUNCHES, main, parse
from pi05_progress_ros.starting.processes import Process, write_parameters
from pi05_progress_ros.starting.supervisor import command_line


def test_texts_reach_ros_as_texts_and_parameters_in_their_order(tmp_path):
    values = {
        "prompt": "1e3",
        "robot": "on",
        "checkpoint": 'a "b" \n: {c}',
        "autostart": True,
        "seed": 3,
        "f": ["", "x"],
    }
    process = Process("node", "node", "a.node", (), "/ns", values, "user.yaml", (("~/set_task", "/sim/task"),), "warn")
    file = tmp_path / "ours.yaml"
    write_parameters(process, file)
    assert yaml.safe_load(file.read_text()) == {"/ns/node": {"ros__parameters": values}}
    assert '"1e3"' in file.read_text()
    command = command_line(process, file)
    assert command[1:4] == ["-m", "a.node", "--ros-args"]
    assert command.index("user.yaml") < command.index(str(file)), "the later one wins"
    assert " ".join(command).endswith("-r ~/set_task:=/sim/task")
    assert {"__node:=node", "__ns:=/ns"} <= set(command)


def test_words_of_the_command_line_are_name_and_value():
    assert parse(["prompt:=put a:=b in", "sim:=true", "checkpoint:="]) == {
        "prompt": "put a:=b in",
        "sim": "true",
        "checkpoint": "",
    }
    for words, message in ((["sim"], "'sim': expected name:=value"), (["a:=1", "a:=2"], "a is given twice")):
        with pytest.raises(UserError, match=message):
            parse(words)


@pytest.mark.parametrize("launch", LAUNCHES.values(), ids=LAUNCHES)
def test_the_entry_point_lists_every_argument(launch, capsys):
    assert main([launch.name, "--show-args"]) == 0
    text = capsys.readouterr().out
    for argument in launch.arguments:
        assert f"\n  {argument.name}\n" in text
        assert argument.text.split()[0] in text


def test_the_entry_point_names_the_fault_and_starts_nothing(capsys):
    assert main(["bringup", "sim:=yes"]) == 1
    assert capsys.readouterr().err == "bringup: sim:=yes: expected true or false\n"
    for words in (["dance"], []):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2


# --- what must agree with it ---


def test_every_launch_file_is_a_launch_of_the_entry_point():
    files = {path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.launch.py")}
    assert files == set(LAUNCHES)


def test_arguments_are_described_and_their_defaults_allowed():
    for launch in LAUNCHES.values():
        for argument in launch.arguments:
            assert len(argument.text) > 10, argument.name
            assert not argument.choices or argument.default in argument.choices, argument.name


def test_the_docs_list_every_argument_with_its_default():
    text = (ROOT / "docs/launch.md").read_text()
    for launch in LAUNCHES.values():
        section = text.split(f"### {launch.name}.launch.py\n")[1].split("\n#")[0]
        rows = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| `")}
        assert set(rows) == {f"`{argument.name}`" for argument in launch.arguments}
        for argument in launch.arguments:
            cell = rows[f"`{argument.name}`"].split("|")[2].strip()
            assert cell == (f"`{argument.default}`" if argument.default else ""), argument.name
            assert all(f"`{choice}`" in rows[f"`{argument.name}`"] for choice in argument.choices if choice)
