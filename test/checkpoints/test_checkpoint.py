"""The native format: round trips, dtype and placement at load, saves in the background, damage."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import SMALL, STATS, arrays, assert_same, random_model, save_ours
from conftest import PATIENCE_S
from flax import nnx
from places import ROOT, SUPPORT

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo, read_info
from pi05_progress.checkpoints.saver import CheckpointSaver, save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints") / "one"


@pytest.fixture(scope="module")
def checkpoint(folder):
    return save_ours(folder)


@pytest.fixture(scope="module")
def saved(checkpoint, folder):
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_what_was_saved_is_loaded_bit_for_bit(saved, checkpoint):
    loaded = load_checkpoint(saved)
    assert_same(arrays(loaded.model), arrays(checkpoint.model))
    assert loaded.info == checkpoint.info
    assert loaded.stats.keys() == STATS.keys()
    np.testing.assert_array_equal(loaded.stats["state"].q01, STATS["state"].q01)


def test_the_folder_is_laid_out_as_documented(saved):
    assert {path.name for path in saved.iterdir()} == {"params", "params.sha256", "assets", "config.json"}
    assert (saved / "assets/a/b/norm_stats.json").is_file()
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_bfloat16_at_load_rounds_everything_but_the_progress_head(saved, checkpoint):
    loaded = arrays(load_checkpoint(saved, dtype="bfloat16").model)
    for path, value in arrays(checkpoint.model).items():
        wanted = value if path.startswith("progress_head/") else value.astype(jnp.bfloat16)
        np.testing.assert_array_equal(loaded[path], wanted, err_msg=path)
        assert loaded[path].dtype == wanted.dtype, path


def test_each_leaf_goes_where_its_sharding_says(saved, checkpoint):
    script = """
    import sys, jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from pi05_progress.checkpoints.checkpoint import load_checkpoint
    from pi05_progress.models.parameters import parameter_paths
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("batch", "fsdp"))
    def shardings(path, leaf):
        axis = next((i for i, n in enumerate(leaf.shape) if n % 2 == 0 and leaf.ndim > 1), None)
        return NamedSharding(mesh, P() if axis is None else P(*[None] * axis, "fsdp"))
    split = load_checkpoint(sys.argv[1], dtype="bfloat16", shardings=shardings)
    whole = parameter_paths(load_checkpoint(sys.argv[1], dtype="bfloat16").model)
    halves = 0
    for path, value in parameter_paths(split.model).items():
        assert value.sharding == shardings(path, value), path
        halves += value.addressable_shards[0].data.size * 2 == value.size
        assert (np.asarray(value) == np.asarray(whole[path])).all(), path
    print("halves", halves)
    """
    result = run(script, saved, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 20


def run(script, *arguments, **env):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=PATIENCE_S)


def test_a_background_save_holds_the_parameters_as_they_were_when_it_was_called(tmp_path):
    model = random_model(SMALL, 1)
    before = arrays(model)
    graph, state = nnx.split(model)
    change = jax.jit(lambda p: jax.tree.map(lambda x: x * 0 + 7, p), donate_argnums=0)
    change(jax.tree.map(jnp.array, state))  # compiled before, so that nothing delays the change below
    with CheckpointSaver() as saver:
        saver.save(tmp_path / "1", Checkpoint(CheckpointInfo(SMALL), model, {}))
        jax.block_until_ready(changed := change(state))  # donates, so the old buffers are written over
        saver.save(tmp_path / "2", Checkpoint(CheckpointInfo(SMALL), nnx.merge(graph, changed), {}))
    assert_same(arrays(load_checkpoint(tmp_path / "1").model), before)
    assert all((value == 7).all() for value in arrays(load_checkpoint(tmp_path / "2").model).values())


def test_a_background_save_tells_its_failure_when_waited_for(tmp_path, checkpoint, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pi05_progress.checkpoints.saver.write_description", full)
    saver = CheckpointSaver()
    saver.save(tmp_path / "x", checkpoint)
    with pytest.raises(CheckpointError, match=r"x: was not saved: .*No space left"):
        saver.wait()
    saver.close()
    assert not (tmp_path / "x").exists()


def test_an_overwriting_that_is_killed_leaves_the_former_checkpoint(saved, tmp_path):
    """Killed when everything is written and only the move is left."""
    target = shutil.copytree(saved, tmp_path / "target")
    script = """
    import os, signal, sys
    from pathlib import Path
    from pi05_progress.files import output_folder
    from pi05_progress.checkpoints.checkpoint import load_checkpoint
    from pi05_progress.checkpoints.saver import save_checkpoint
    output_folder.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    save_checkpoint(Path(sys.argv[2]), load_checkpoint(Path(sys.argv[1])), overwrite=True)
    """
    assert run(script, saved, target).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    load_checkpoint(target)  # still the former one
    save_checkpoint(target, load_checkpoint(saved), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_save_killed_while_parameters_are_written_leaves_nothing_to_load(saved, tmp_path):
    script = """
    import os, signal, sys
    from pathlib import Path
    from pi05_progress.checkpoints import checkpoint, saver
    saver.write_description = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    saver.save_checkpoint(Path(sys.argv[2]), checkpoint.load_checkpoint(Path(sys.argv[1])))
    """
    assert run(script, saved, tmp_path / "x").returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert left
    for folder in [tmp_path / "x", *left]:
        with pytest.raises(CheckpointError):
            load_checkpoint(folder)


def test_nothing_is_overwritten_unless_asked_for(copy, checkpoint):
    before = (copy / "config.json").read_text()
    with pytest.raises(CheckpointError, match=r"already there.*overwrite"):
        save_checkpoint(copy, checkpoint)
    assert (copy / "config.json").read_text() == before
    other = Checkpoint(CheckpointInfo(SMALL, model_id="other"), checkpoint.model, STATS)
    save_checkpoint(copy, other, overwrite=True)
    assert read_info(copy).model_id == "other"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_the_former_checkpoint_is_named_when_an_overwriting_was_interrupted(copy):
    copy.rename(copy.with_name("copy.old"))
    with pytest.raises(CheckpointError, match=r"no such folder.*copy\.old.*interrupted"):
        load_checkpoint(copy)


def test_parameters_that_do_not_fit_are_listed(copy):
    path = copy / "config.json"
    data = json.loads(path.read_text())
    data["model"]["action_dim"] = 6
    data["model"]["progress"]["kind"] = "none"
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(copy)
    text = str(error.value)
    assert "action_in_proj/kernel: (4, 16) instead of (6, 16)" in text
    assert "not known: 4 (progress_head/hidden/bias" in text


def data_files(folder):
    """The files that hold the numbers: the largest, and those the arrays are found through."""
    found = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
    return [found[0], folder / "manifest.ocdbt", folder / "_METADATA"]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damage_is_told_not_loaded(copy, which, damage):
    file = data_files(copy / "params")[which]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if damage == "truncated" else 0])
    with pytest.raises(CheckpointError, match=r"damaged|incomplete"):
        load_checkpoint(copy)


def test_a_flipped_bit_is_told_wherever_it_is(saved, copy):
    files = sorted(path.relative_to(saved) for path in (saved / "params").rglob("*") if path.is_file())
    for name in (name for name in files if (saved / name).stat().st_size):
        data = bytearray((saved / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(CheckpointError):
            load_checkpoint(copy)
        (copy / name).write_bytes((saved / name).read_bytes())
    load_checkpoint(copy)


def test_digests_are_those_of_sha256sum_and_a_damaged_list_is_told(copy):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "params.sha256"], cwd=copy, check=True)
    (copy / "params.sha256").write_bytes(b"\xff nonsense")
    with pytest.raises(CheckpointError, match=r"params\.sha256: .*damaged"):
        load_checkpoint(copy)


def test_digests_of_other_tools_count_and_a_list_that_lacks_a_file_is_refused(copy):
    path = copy / "params.sha256"
    lines = path.read_text().splitlines()
    path.write_text("\r\n\n".join(line[:64].upper() + line[64:] for line in lines) + "\n\n")
    load_checkpoint(copy)
    for kept in ([], lines[1:]):
        path.write_text("\n".join(kept))
        with pytest.raises(CheckpointError, match=rf"params\.sha256: does not list .*{lines[0][66:]}.*sha256sum"):
            load_checkpoint(copy)


def test_a_checkpoint_without_digests_is_loaded_and_one_line_says_so(copy, caplog):
    load_checkpoint(copy)
    assert not caplog.messages
    (copy / "params.sha256").unlink()
    load_checkpoint(copy)
    assert [message for message in caplog.messages if "params.sha256" in message] == caplog.messages != []
    assert len(caplog.messages) == 1


def test_the_shipped_checkpoint_has_digests(caplog):
    load_checkpoint(ROOT / "models/tiny_demo")
    assert not caplog.messages


@pytest.mark.parametrize("wrong", [-1, 0, float("nan"), 1e9])
def test_a_time_between_actions_that_cannot_be_is_refused(copy, wrong):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"action_dt_s": wrong}))
    with pytest.raises(CheckpointError, match=r"config\.json: .*action_dt_s"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q01": [2.0] * 14}, "state 0 has q01 2, which is above its q99 1"),
        ({"q01": None, "q99": None}, "state without quantiles"),
    ],
)
def test_statistics_that_cannot_normalise_are_refused(copy, change, said):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantiles": True}))
    path = copy / "assets/a/b/norm_stats.json"
    stats = json.loads(path.read_text())
    stats["norm_stats"]["state"] |= change
    path.write_text(json.dumps(stats))
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "not a checkpoint's description"), ('{"format": 99}', "another format"), ("{}", "not the description")],
)
def test_a_wrong_description_is_told(copy, text, told):
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(copy)


def test_a_checkpoint_says_what_tasks_usually_take_if_it_knows():
    assert CheckpointInfo(SMALL, labels={"median_durations_s": {"stack": 24.4}}).durations_s() == {"stack": 24.4}
    assert CheckpointInfo(SMALL).durations_s() == {}, "as older ones and imported ones"
    with pytest.raises(CheckpointError, match=r"labels\.median_durations_s"):
        CheckpointInfo(SMALL, labels={"median_durations_s": {"stack": -1.0}}).durations_s()


def test_a_folder_of_another_program_is_told_how_to_import(tmp_path):
    (tmp_path / "params").mkdir()
    with pytest.raises(CheckpointError, match="convert_checkpoint import"):
        load_checkpoint(tmp_path)


def test_a_trained_model_without_statistics_is_refused_unless_they_are_not_needed(copy):
    shutil.rmtree(copy / "assets")
    with pytest.raises(CheckpointError, match=r"assets/a/b/norm_stats\.json is missing"):
        load_checkpoint(copy)
    assert load_checkpoint(copy, need_stats=False).stats == {}


@pytest.mark.long
def test_several_processes_save_and_load_one_checkpoint_each_its_own_pieces(tmp_path):
    script = """
    import sys
    from pathlib import Path
    import jax
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[4]))
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    sys.path.insert(0, sys.argv[1])
    from checkpoint_cases import SMALL, STATS, arrays, random_model
    from pi05_progress.checkpoints.checkpoint import Checkpoint
    from pi05_progress.checkpoints.saver import CheckpointSaver
    from pi05_progress.checkpoints.description import CheckpointInfo
    from pi05_progress.checkpoints.checkpoint import load_checkpoint
    from pi05_progress.models.parameters import abstract_model
    from pi05_progress.models.parameters import load_parameters, parameter_paths
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    def shardings(path, leaf):
        axis = next((i for i, n in enumerate(leaf.shape) if n % 2 == 0 and len(leaf.shape) > 1), None)
        return NamedSharding(mesh, P() if axis is None else P(*[None] * axis, "fsdp"))
    wanted, model = arrays(random_model(SMALL)), abstract_model(SMALL)
    load_parameters(model, {path: jax.make_array_from_callback(value.shape, shardings(path, value), value.__getitem__)
                            for path, value in wanted.items()})
    folder = Path(sys.argv[2])
    with CheckpointSaver() as saver:
        saver.save(folder, Checkpoint(CheckpointInfo(SMALL), model, STATS))
        saver.wait()
        assert folder.exists()
    for path, value in parameter_paths(load_checkpoint(folder, shardings=shardings).model).items():
        for shard in value.addressable_shards:
            assert (np.asarray(shard.data) == wanted[path][shard.index]).all(), path
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [SUPPORT, tmp_path / "x", port]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda number: run(script, *given, number), (0, 1)))
    for result in results:
        assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.long
def test_loading_takes_the_parameters_and_not_much_more(tmp_path):
    """Eight leaves of 100 MB become 403 MB in bfloat16; benchmarks/checkpoint_memory.py measures the full size."""
    script = """
    import resource, sys
    from pathlib import Path
    import jax, jax.numpy as jnp, numpy as np
    from pi05_progress.checkpoints.orbax_files import open_orbax, write_orbax
    from pi05_progress.checkpoints.parameter_source import ParameterSource, aligned_empty, load_arrays, shape_of
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    def piece(path, dtype, index):
        out = aligned_empty(shape_of(index), dtype)
        out[...] = np.random.default_rng(0).random(out.shape, np.float32)
        return out
    folder = Path(sys.argv[1])
    if not folder.exists():
        leaves = {f"leaf{i}": jax.ShapeDtypeStruct((24, 1024, 1024), jnp.float32) for i in range(8)}
        write_orbax(folder, ParameterSource("random", leaves, piece))
        sys.exit()
    load_arrays(ParameterSource("small", {"x": jax.ShapeDtypeStruct((4,), jnp.float32)}, piece))
    before = peak()
    arrays = load_arrays(open_orbax(folder), dtype=jnp.bfloat16)
    size = sum(array.nbytes for array in arrays.values())
    print((peak() - before) / size)
    """
    run(script, tmp_path / "many")
    result = run(script, tmp_path / "many")
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2.0  # chunks in flight are 256 MB, and the libraries load parts of theirs late
