"""The documentation of the converter against its command line."""

import re

from places import ROOT

from training.convert_rosbags import parse

DOCS = (ROOT / "docs/convert.md").read_text()


def documented():
    """Option and default of each row of the table of options."""
    rows = DOCS[DOCS.index("| option |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {option.strip("`"): default.strip("`") for option, default, _ in cells}


def test_every_option_is_documented_with_its_default(capsys):
    try:
        parse(["--help"])
    except SystemExit:
        usage = capsys.readouterr().out
    offered = set(re.findall(r"^[│| ] (--[a-z-]+)", usage, re.MULTILINE))
    table = documented()
    assert set(table) == offered
    defaults = vars(parse(["--input", "x", "--output", "y", "--fps", "30"]))
    for option, default in table.items():
        value = defaults[option.removeprefix("--").replace("-", "_")]
        if (
            isinstance(value, str | int | float)
            and not isinstance(value, bool)
            and option not in ("--workers", "--fps")
        ):
            assert default == (str(value) or default), option


def test_every_command_in_it_can_be_parsed():
    for line in re.findall(r"^python -m training.convert_rosbags (.*)$", DOCS, re.MULTILINE):
        assert parse(line.split()).fps == 30
