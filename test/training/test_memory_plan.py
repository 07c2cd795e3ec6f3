"""The memory a step needs per device, before anything is allocated."""

import dataclasses
import functools
import gc

import jax
import jax.numpy as jnp
import pytest
from training_cases import made_up_batch, quick_compiling

from pi05_progress.errors import UserError
from pi05_progress.models.config import LoraConfig, named_config, pi05, pi05_lora, tiny
from training.engine.loss import LossConfig
from training.engine.memory import GIB, H100, USABLE, MemoryPlan, claim_memory, plan_memory, residual_bytes, table
from training.engine.optimizer import OptimizerConfig
from training.engine.sharding import MeshConfig, make_mesh
from training.engine.state import abstract_state
from training.engine.step import make_train_step

PARAMETERS = 3_353_433_872 + 524_801
planned = functools.cache(plan_memory)


def test_the_full_model_on_one_and_eight_devices():
    gc.collect()  # what other tests left to be collected would hide an array of ours
    before = len(jax.live_arrays())
    one = plan_memory(pi05(), devices=1, fsdp_devices=1, batch_size=8, optimizer=OptimizerConfig())
    assert one.parameters == one.gradients == one.average == 4 * PARAMETERS
    assert one.optimizer == 8 * PARAMETERS + 4 * 2  # two counters
    assert one.frozen == one.gathered == 0
    assert not one.fits(40 * GIB)
    eight = plan_memory(pi05(), devices=8, fsdp_devices=8, batch_size=64, optimizer=OptimizerConfig(ema_decay=None))
    assert eight.parameters == pytest.approx(4 * PARAMETERS / 8, rel=0.01)  # a little is too small to be cut
    assert eight.parameters > 4 * PARAMETERS / 8
    assert eight.average == 0
    assert eight.batch + eight.kept + eight.working == one.batch + one.kept + one.working  # of 8 samples each
    assert eight.gathered > 0
    assert eight.fits(H100)
    assert len(jax.live_arrays()) <= before


def test_adapters_keep_the_rest_in_half_the_bytes_and_without_a_state():
    alone = OptimizerConfig(ema_decay=None, accumulation_steps=2)
    plan = plan_memory(pi05_lora(), devices=1, fsdp_devices=1, batch_size=4, optimizer=alone, trained="adapters")
    assert plan.frozen == 2 * 2_936_464_384
    trained = PARAMETERS + 49_987_584 - 2_936_464_384
    assert plan.parameters == 4 * trained
    assert plan.optimizer == pytest.approx(8 * trained)
    assert plan.gradients == 2 * plan.parameters  # of the pieces so far, and of the one at hand
    assert plan.fits(24 * GIB)


def test_the_head_alone_keeps_nothing_for_a_backward_pass():
    plan = plan_memory(tiny(), devices=1, fsdp_devices=1, batch_size=8, optimizer=OptimizerConfig(), trained="head")
    full = planned(tiny(), devices=1, fsdp_devices=1, batch_size=8, optimizer=OptimizerConfig())
    assert plan.kept == 0 < full.kept
    assert plan.parameters + plan.frozen == full.parameters
    assert 0 < plan.working <= full.working


def test_a_frozen_tower_has_no_gradient_no_state_and_keeps_nothing():
    sizes = {"devices": 1, "fsdp_devices": 1, "batch_size": 8, "optimizer": OptimizerConfig()}
    whole, frozen = planned(tiny(), **sizes), plan_memory(tiny(), **sizes, freeze=("PaliGemma/img/.*",))
    assert frozen.parameters + frozen.frozen == whole.parameters and frozen.frozen > 0
    assert frozen.gradients == frozen.parameters == frozen.average
    assert frozen.optimizer == pytest.approx(2 * frozen.parameters, abs=64)  # and its counts
    assert frozen.kept < 0.95 * whole.kept


def test_several_noises_per_sample_keep_less_than_as_many_samples():
    def kept(rows, **options):
        sizes = {"devices": 1, "fsdp_devices": 1, "batch_size": rows, "optimizer": OptimizerConfig()}
        return plan_memory(dataclasses.replace(tiny(), state_token=True), **sizes, **options).kept

    assert kept(4) < kept(4, flow_samples=4) < kept(16) / 1.2


def test_what_is_recomputed_needs_no_memory():
    kept = {
        remat: planned(
            dataclasses.replace(tiny(), remat=remat),
            devices=1,
            fsdp_devices=1,
            batch_size=8,
            optimizer=OptimizerConfig(),
        ).kept
        for remat in ("layers", "dots", "none")
    }
    assert 2 * kept["layers"] < kept["dots"] < kept["none"] / 2


def test_arguments_of_a_function_do_not_count_as_kept():
    def function(x, y):
        return (jnp.sin(x) * y).sum()

    shape = jax.ShapeDtypeStruct((10,), jnp.float32)
    assert residual_bytes(function, shape, shape) == 40  # the cosine; not y


def test_devices_and_batches_that_cannot_be_shared_out_are_refused():
    given = {"optimizer": OptimizerConfig(accumulation_steps=2), "batch_size": 8}
    with pytest.raises(UserError, match="fsdp_devices is 3, but there are 8"):
        plan_memory(tiny(), devices=8, fsdp_devices=3, **given)
    with pytest.raises(UserError, match="batch_size is 8; expected a multiple of 8 devices times"):
        plan_memory(tiny(), devices=8, fsdp_devices=1, **given)


def test_the_table_says_what_fits():
    small, large = MemoryPlan(*[GIB] * 9), MemoryPlan(*[10 * GIB] * 9)
    lines = table({"small": small, "large": large}, H100).splitlines()
    assert lines[0].split() == ["GiB", "per", "device", *[f.name for f in dataclasses.fields(MemoryPlan)], "total"]
    assert lines[1].split()[-4:] == ["9.00", "fits", "80", "GiB"]
    assert lines[2].endswith("90.00  does not fit 80 GiB")


CASES = [
    ("tiny", "layers", "float32", "everything", 1),
    ("tiny", "none", "bfloat16", "everything", 1),
    ("tiny", "dots", "float32", "everything", 2),
    ("tiny", "layers", "bfloat16", "adapters", 1),
    ("tiny", "layers", "float32", "head", 1),
    ("mid", "layers", "bfloat16", "everything", 1),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "remat", "dtype", "trained", "pieces"), CASES)
def test_the_plan_is_close_to_what_the_compiler_reserves(name, remat, dtype, trained, pieces):
    config = dataclasses.replace(named_config(name), remat=remat, compute_dtype=dtype)
    if trained == "adapters":
        adapters = LoraConfig(4, 4.0)
        config = dataclasses.replace(
            config, paligemma=config.paligemma.with_lora(adapters), expert=config.expert.with_lora(adapters)
        )
    optimizer = OptimizerConfig(accumulation_steps=pieces)
    plan = plan_memory(config, devices=1, fsdp_devices=1, batch_size=8, optimizer=optimizer, trained=trained)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state = abstract_state(config, mesh, trained, optimizer)
    step = make_train_step(config, mesh, optimizer, LossConfig(), trained=trained)
    with quick_compiling():
        batch = made_up_batch(config, length=config.max_token_len)
        found = step.lower(state, jax.random.key(0), batch).compile().memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    reserved = found.argument_size_in_bytes + found.temp_size_in_bytes + outputs
    assert plan.total == pytest.approx(reserved, rel=0.25)


def test_as_much_of_a_gpu_is_used_as_the_plan_counts_on_unless_the_user_says_otherwise():
    nothing, set_by_user = {}, {"XLA_CLIENT_MEM_FRACTION": "0.5"}
    claim_memory(nothing)
    claim_memory(set_by_user)
    assert nothing == {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(USABLE)}
    assert set_by_user == {"XLA_CLIENT_MEM_FRACTION": "0.5"}  # both together are an error of JAX's
