"""The share of a GPU's memory: found from what the card has, set before JAX looks, refused where it makes no sense."""

import os
import subprocess
import sys

import pytest

from pi05_progress.errors import UserError
from pi05_progress.policies.device_memory import GB, VARIABLES, Card, Claim, claim, describe

JAX, OTHER = VARIABLES
H100 = "NVIDIA H100 80GB HBM3, 81559, 580.159.04"


def machine(folder, said, **variables):
    """The environment of a machine whose nvidia-smi says this, and writes what it was asked into ``asked``."""
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\necho "{said}"\n')
    tool.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", **variables}


def test_the_default_leaves_four_gb_to_others(tmp_path):
    environment = machine(tmp_path, H100)
    made = claim(0, environment)
    assert made.card == Card("NVIDIA H100 80GB HBM3", 81559 * 2**20, "580.159.04")
    left = made.card.memory * (1 - float(environment[JAX])) / GB
    assert left == pytest.approx(4.0, abs=0.01)


def test_the_default_takes_three_quarters_of_a_small_card(tmp_path):
    environment = machine(tmp_path, "a small one, 8192, 1")
    claim(0, environment)
    assert environment[JAX] == "0.75"


def test_what_is_asked_for_is_set(tmp_path):
    environment = machine(tmp_path, "RTX 4090, 24564, 1")
    claim(10, environment)
    assert float(environment[JAX]) * 24564 * 2**20 == pytest.approx(10 * GB, rel=1e-3)


def test_the_card_that_jax_would_use_is_asked(tmp_path):
    claim(10, machine(tmp_path, H100, CUDA_VISIBLE_DEVICES="2,3"))
    assert "--id=2 " in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_cards_are_no_cards(tmp_path, hidden):
    assert claim(0, machine(tmp_path, H100, CUDA_VISIBLE_DEVICES=hidden)).card is None


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(UserError, match=f"gpu_memory_gb is {wrong}; expected GB, or 0"):
        claim(wrong, {})


def test_more_than_the_card_has_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gpu_memory_gb is 90, but NVIDIA H100 80GB HBM3 has 85\.5 GB"):
        claim(90, machine(tmp_path, H100))


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_share_that_the_user_has_set_stays(tmp_path, variable):
    environment = machine(tmp_path, H100, **{variable: "0.5"})
    made = claim(0, environment)
    assert (made.by_user, made.fraction) == (variable, None)
    assert [environment.get(name) for name in VARIABLES if name != variable] == [None], "both are an error of JAX's"
    with pytest.raises(UserError, match=f"{variable} is set to 0.5: leave one out"):
        claim(10, environment)


def test_a_node_that_is_configured_again_claims_the_same(tmp_path):
    environment = machine(tmp_path, H100)
    assert claim(10, environment) == claim(10, environment)


@pytest.mark.parametrize("other", [0, 20])
def test_a_node_that_is_configured_again_with_another_share_is_told_to_restart(tmp_path, other):
    environment = machine(tmp_path, H100)
    claim(11, environment)
    with pytest.raises(UserError, match="JAX has its memory already; restart the process"):
        claim(other, environment)


def test_without_a_card_nothing_is_set_and_the_log_says_that_it_has_no_effect(tmp_path):
    environment = {"PATH": str(tmp_path)}
    made = claim(10, environment)
    assert made == Claim(10, None, None)
    assert not set(environment) & set(VARIABLES)
    assert describe(made, "jax") == "JAX computes on the CPU; gpu_memory_gb 10 has no effect"
    assert describe(claim(0, environment), "jax") == "JAX computes on the CPU"


def test_a_policy_that_computes_elsewhere_is_not_said_to_keep_to_it():
    said = describe(Claim(10, None, None), "policy websocket")
    assert said == "the policy does not compute in JAX here (policy websocket): gpu_memory_gb 10 has no effect on it"


def test_a_driver_that_does_not_say_what_the_card_has_is_left_alone(tmp_path):
    environment = machine(tmp_path, "Orin, [N/A], 540.3.0")
    assert claim(10, environment) == Claim(10, Card("Orin", None, "540.3.0"), None)
    assert not set(environment) & set(VARIABLES)


@pytest.mark.parametrize("module", ["pi05_progress.serve_policy", "pi05_progress_ros.policy_node"])
def test_importing_the_programs_does_not_look_for_devices(module):
    """Else the share would be set too late. A platform that does not exist fails as soon as JAX looks for it."""
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    looks = f"import {module}, jax\ntry: jax.devices()\nexcept RuntimeError: print('only now')"
    said = subprocess.run([sys.executable, "-c", looks], env=environment, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "only now\n"), said.stderr
