"""Which backend computes a checkpoint, what is said without PyTorch, and that JAX's users never import it."""

import json
import os
import subprocess
import sys
import types

import pytest
from checkpoint_cases import LEROBOT, random_model
from conftest import PATIENCE_S
from places import ROOT
from serving_helpers import CONFIG, PROFILE

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.errors import UserError
from pi05_progress.make_policy import make_policy
from pi05_progress.policies.backend import choose_backend
from pi05_progress.policy import PolicyOptions
from pi05_progress.serve_policy import main


def lerobot_folder(folder, config=LEROBOT, file="model.safetensors"):
    folder.mkdir()
    (folder / file).write_bytes(b"")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "small"
    save_checkpoint(folder, Checkpoint(CheckpointInfo(CONFIG), random_model(CONFIG), {}))
    return str(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_the_folders_content_chooses(tmp_path, native, file):
    assert choose_backend(lerobot_folder(tmp_path / "lerobot", file=file)) == "torch"
    assert choose_backend(native) == "jax"
    assert choose_backend("") == "jax", "random parameters"
    assert choose_backend(str(tmp_path / "nothing")) == "jax", "whose loader says what is wrong"


def test_a_choice_that_agrees_is_taken(tmp_path, native):
    assert choose_backend(lerobot_folder(tmp_path / "lerobot"), "torch") == "torch"
    assert choose_backend(native, "jax") == "jax"
    assert choose_backend("", "jax") == "jax"


@pytest.mark.parametrize(
    ("make", "choice", "told"),
    [
        (lambda path: lerobot_folder(path), "jax", r"LeRobot's, which backend jax does not read: import it with"),
        (lambda path: str(path), "torch", r"no checkpoint of LeRobot's .*convert_checkpoint export --to lerobot, or"),
        (lambda path: "", "torch", r"needs a checkpoint of LeRobot's"),
        (lambda path: lerobot_folder(path, None), "auto", r"no config.json of LeRobot with type pi05: import it"),
        (lambda path: lerobot_folder(path, {"type": "pi0"}), "auto", r"no config.json of LeRobot with type pi05"),
        (lambda path: lerobot_folder(path, "{"), "auto", r"config.json: not a JSON file"),
        (lambda path: "", "tensorflow", r"'tensorflow' is unknown; known: auto, jax, torch"),
    ],
)
def test_a_choice_that_does_not_fit_the_folder_is_refused_with_the_remedy(tmp_path, make, choice, told):
    with pytest.raises(UserError, match=told):
        make_policy(PROFILE, PolicyOptions(checkpoint=make(tmp_path / "folder"), backend=choice))


def test_a_backend_for_a_policy_that_is_not_pi05_is_refused():
    with pytest.raises(ValueError, match="backend is 'torch', but policy websocket computes where it likes"):
        make_policy(PROFILE, PolicyOptions(policy="websocket", server_uri="ws://localhost:1", backend="torch"))


@pytest.mark.parametrize("missing", ["torch", "transformers", "lerobot"])
def test_without_pytorch_or_lerobot_the_extra_is_named(tmp_path, monkeypatch, missing):
    folder = lerobot_folder(tmp_path / "lerobot")
    for name in ("torch", "transformers"):  # here, even if they are not installed
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name in ("lerobot.policies.pi05.modeling_pi05", missing):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as raised:
        make_policy(PROFILE, PolicyOptions(checkpoint=folder))
    error = str(raised.value)
    assert f"backend torch needs PyTorch and LeRobot's PI05, and {missing} cannot be imported" in error
    assert "install the extra torch" in error and "pip install -e .[torch]" in error
    assert "convert_checkpoint import" in error


def test_the_servers_command_line_takes_the_backend_and_tells_what_is_wrong_in_one_line(tmp_path, native, capsys):
    assert main(["--checkpoint", lerobot_folder(tmp_path / "lerobot"), "--backend", "jax", "--port", "0"]) == 1
    assert main(["--checkpoint", native, "--backend", "torch", "--port", "0"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "error: " in first and "which backend jax does not read" in first
    assert "error: " in second and "is what backend torch reads: export it" in second


JAX_USER = """
import importlib, pkgutil, sys
import numpy as np
import pi05_progress
assert not {"jax", "flax", "pydantic"} & sys.modules.keys(), "importing the package is light"
for module in pkgutil.walk_packages(pi05_progress.__path__, "pi05_progress."):
    if module.name not in ("pi05_progress.policies.torch_policy", "pi05_progress.serving.__main__"):
        importlib.import_module(module.name)
from pi05_progress import PolicyOptions, RobotFrame
from pi05_progress.make_policy import make_policy
from pi05_progress.robots.profile import RobotProfile
profile = RobotProfile.load("teleavatar")
policy = make_policy(profile, PolicyOptions(checkpoint=sys.argv[1], num_steps=1))
blank = {key: np.zeros((28, 28, 3), np.uint8) for key in profile.cameras}
assert policy.infer(RobotFrame(blank, np.zeros(48, np.float32)), "stack").progress is not None
print("imported:", sorted({"torch", "transformers", "lerobot"} & sys.modules.keys()))
"""


def test_users_of_jax_never_import_pytorch_even_where_it_could_be_imported(native, tmp_path):
    for name in ("torch", "transformers", "lerobot"):  # something to be found, if anybody looks
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(
        [sys.executable, "-c", JAX_USER, native], env=env, capture_output=True, text=True, timeout=2 * PATIENCE_S
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("imported: []")
