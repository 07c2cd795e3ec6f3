"""The server's documentation against its code: options, metrics, keys of requests and replies."""

import re
from dataclasses import fields

from places import ROOT
from serving_helpers import request, stub

from pi05_progress.serve_policy import ServeOptions
from pi05_progress.serving.metrics import Metrics
from pi05_progress.serving.teleavatar import NOISE_SEED

OPTIONS = {field.name.replace("_", "-") for field in fields(ServeOptions)}
PAGE = (ROOT / "docs/serving.md").read_text()


def named(text):
    return set(re.findall(r"`([^`]+)`", text))


def table(head):
    """First cells of the table whose head begins with ``head``."""
    rows = PAGE[PAGE.index(f"\n| {head} | |\n") + 1 :].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in named(row.split("|")[1])}


def test_every_option_that_is_named_exists():
    options = set(re.findall(r"--([a-z][a-z-]+)", PAGE.split("## As a service")[0]))
    others = {"dataset", "episode", "config", "progress", "help", "no-auth", "ros-args"}
    assert options - others <= OPTIONS
    served = set(re.findall(r"--([a-z][a-z-]+)", PAGE[PAGE.index("ExecStart") : PAGE.index("LoadCredential")]))
    assert served <= OPTIONS


def test_every_metric_is_documented():
    documented = {name.partition("{")[0] for name in table("metric")} - {"process_*"}
    exported = set(re.findall(r"# TYPE (pi05_progress_\w+) (?!.*_created)", Metrics("m", "r", "v").text()))
    assert {name for name in exported if not name.endswith("_created")} == documented


def test_keys_of_metadata_requests_and_replies_are_documented():
    responder = stub(extra_metadata={"server": "", "version": ""})
    assert table("metadata") == set(responder.metadata)
    [reply] = responder.answer([responder.prepare(request())])
    assert table("reply") == set(reply) | {"server_timing"}
    cameras = {key for key in request() if "images" in key}
    assert table("request") == (set(request()) - cameras) | {"observation/images/<camera>", NOISE_SEED}


def test_only_what_the_package_is_made_of_gets_into_the_container():
    """Whatever else lies in a checkout stays outside: the first rule leaves out all, others name what gets in."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    everything, *rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert everything == "*"
    assert not any("*" in name or "/" in name for name in let_in)
    packages = {"pi05_progress", "pi05_progress_ros"}
    read_by_setup = {"pyproject.toml", "setup.py", "setup.cfg", "README.md", "requirements.lock"}
    installed = {"package.xml", "config", "launch", "resource"}
    assert (
        packages | read_by_setup | installed <= let_in <= packages | read_by_setup | installed | {"models", "LICENSE"}
    )


def test_the_containers_key_is_neither_on_a_command_line_nor_in_the_image():
    recipe = PAGE[PAGE.index("A container, built") : PAGE.index("## How it works")]
    assert "API_KEY" not in recipe and "--api-key-file /run/key" in recipe and "/run/key:ro" in recipe
    assert recipe.index("chown policy /cache") < recipe.index("USER policy"), "a volume belongs to who has its folder"
    assert "--constraints requirements.lock" in recipe, "an image of next year has the versions that were tested"
    assert "docker run --init " in recipe
