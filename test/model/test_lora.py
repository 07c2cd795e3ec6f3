"""Adapters as openpi has them, and what is trained, frozen and counted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import GOLDEN
from small_models import ADAPTED, SMALL, with_random_parameters

from pi05_progress.models.config import CONFIGS, LoraConfig, ModelConfigError, named_config
from pi05_progress.models.gemma import Einsum, FeedForward
from pi05_progress.models.lora import count_parameters, is_trained
from pi05_progress.models.parameters import abstract_model, parameter_paths


def shapes_of(config):
    return parameter_paths(abstract_model(config))


def recorded(name):
    return {path: tuple(shape) for path, (shape, _) in json.loads((GOLDEN / name).read_text()).items()}


# --- names, shapes, counts ---


def test_the_full_models_names_and_shapes_are_openpis():
    ours = {path: value.shape for path, value in shapes_of(named_config("pi05").with_progress("none")).items()}
    assert ours == recorded("pi05_full_params.json")


def test_adapters_names_and_shapes_are_openpis():
    ours = {path: value.shape for path, value in shapes_of(named_config("pi05_lora").with_progress("none")).items()}
    assert ours == recorded("pi05_full_params.json") | recorded("pi05_lora_extra_params.json")


@pytest.mark.parametrize(
    ("name", "kind", "total", "head"),
    [
        ("pi05", "none", 3_353_433_872, 0),
        ("pi05", "scalar", 3_353_433_872 + 524_801, 524_801),
        ("pi05", "categorical", 3_353_433_872 + 537_394, 537_394),
        ("pi05_lora", "none", 3_353_433_872 + 49_987_584, 0),
        ("tiny", "scalar", 2_081_441, 33_281),
        ("mid", "scalar", 9_377_441, 66_049),
    ],
)
def test_every_configuration_has_as_many_parameters_as_it_says(name, kind, total, head):
    config = named_config(name).with_progress(kind)
    assert count_parameters(abstract_model(config), config) == (total, total)
    if head:
        assert count_parameters(abstract_model(config), config, "head") == (total, head)
    assert set(CONFIGS) == {"pi05", "pi05_lora", "tiny", "mid"}


def test_tiny_stays_below_two_and_a_half_million():
    config = named_config("tiny")
    assert count_parameters(abstract_model(config), config).total < 2.5e6


def test_with_adapters_openpis_numbers_are_frozen_and_trained():
    config = named_config("pi05_lora")
    counts = count_parameters(abstract_model(config), config, "adapters")
    assert counts.total - counts.trained == 2_936_464_384


# --- which ---


def test_towers_projections_and_head_are_trained_beside_adapters_and_the_rest_is_frozen():
    trained = {path for path in shapes_of(ADAPTED) if is_trained(ADAPTED, "adapters", path)}
    frozen = set(shapes_of(ADAPTED)) - trained
    assert frozen == {p for p in shapes_of(ADAPTED) if p.startswith("PaliGemma/llm/") and "lora" not in p}
    for path in ("PaliGemma/llm/embedder/input_embedding", "PaliGemma/llm/final_norm_1/Dense_0/kernel"):
        assert path in frozen
    for path in (
        "PaliGemma/img/head/kernel",
        "action_in_proj/kernel",
        "time_mlp_out/bias",
        "progress_head/output/bias",
    ):
        assert path in trained


@pytest.mark.parametrize(("adapted", "other"), [("paligemma", "expert"), ("expert", "paligemma")])
def test_an_expert_without_adapters_is_trained_as_a_whole(adapted, other):
    config = dataclasses.replace(SMALL, **{adapted: getattr(ADAPTED, adapted)})
    of = {"paligemma": "PaliGemma/llm/layers/mlp/linear", "expert": "PaliGemma/llm/layers/mlp_1/linear"}
    assert not is_trained(config, "adapters", of[adapted])
    assert is_trained(config, "adapters", of[other])
    assert is_trained(config, "adapters", "PaliGemma/llm/embedder/input_embedding") == (adapted == "expert")


def test_the_head_alone_or_everything():
    paths = shapes_of(SMALL)
    assert {p.split("/")[0] for p in paths if is_trained(SMALL, "head", p)} == {"progress_head"}
    assert all(is_trained(SMALL, "everything", path) for path in paths)


@pytest.mark.parametrize(
    ("config", "trained", "message"),
    [
        (SMALL, "adapters", "configuration small has none: see pi05_lora"),
        (SMALL.with_progress("none"), "head", "there is no head"),
        (SMALL, "lora", "known: everything, adapters, head"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(config, trained, message):
    with pytest.raises(ModelConfigError, match=message):
        is_trained(config, trained, "")


# --- what adapters do ---


def test_a_new_adapter_already_changes_the_output():
    """Neither factor starts at zero in openpi, unlike in most other implementations."""
    layer = Einsum((2, 8, 4), 8, LoraConfig(2, 2.0), nnx.Rngs(0), ())
    for factor in (layer.lora_a, layer.lora_b):
        assert 0.001 < float(jnp.std(factor[...])) < 0.02
    x = jnp.ones((1, 3, 8))
    with_adapter = layer("btd,ndh->btnh", x, down="btd,ndL->btnL", up="btnL,nLh->btnh")
    assert float(jnp.abs(with_adapter - jnp.einsum("btd,ndh->btnh", x, layer.w[...])).max()) > 1e-6


def test_the_adapter_of_the_attentions_output_sums_over_heads_in_both_factors():
    layer = with_random_parameters(lambda rngs: Einsum((3, 4, 5), 12, LoraConfig(2, 6.0), rngs, ()))
    x = np.random.default_rng(1).standard_normal((1, 2, 3, 4)).astype(np.float32)
    w, a, b = (np.asarray(v[...]) for v in (layer.w, layer.lora_a, layer.lora_b))
    got = layer("btnh,nhd->btd", jnp.asarray(x), down="btnh,nhL->btL", up="btL,nLd->btd")
    low = np.einsum("btnh,nhl->btl", x, a)
    np.testing.assert_allclose(got, np.einsum("btnh,nhd->btd", x, w) + low @ b.sum(axis=0) * 3.0, rtol=1e-4)
    per_head = np.einsum("btnh,nhd->btd", x, w) + np.einsum("btnh,nhl,nld->btd", x, a, b) * 3.0
    assert np.abs(got - per_head).max() > 0.1


@pytest.mark.parametrize(("stabilised", "scaling"), [(False, 4.0), (True, 8.0)])
def test_attention_adapters_are_scaled_by_alpha_over_rank_or_its_root(stabilised, scaling):
    layer = with_random_parameters(lambda rngs: Einsum((1, 3, 5), 3, LoraConfig(4, 16.0, stabilised), rngs, ()))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 1, 3)), jnp.float32)
    got = layer("btd,ndh->btnh", x, down="btd,ndL->btnL", up="btnL,nLh->btnh")[0, 0, 0]
    expected = x[0, 0] @ layer.w[...][0] + scaling * (x[0, 0] @ layer.lora_a[...][0] @ layer.lora_b[...][0])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_feed_forward_adapters_are_not_scaled():
    def layer(alpha):
        config = dataclasses.replace(SMALL.expert, feed_forward_lora=LoraConfig(2, alpha))
        return with_random_parameters(lambda rngs: FeedForward(config, rngs, ()))

    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, SMALL.expert.width)), jnp.float32)
    np.testing.assert_array_equal(layer(2.0)(x), layer(200.0)(x))
    ours = layer(2.0)
    gate, up = (
        x @ ours.gating_einsum[...][i] + x @ ours.gating_einsum_lora_a[...][i] @ ours.gating_einsum_lora_b[...][i]
        for i in (0, 1)
    )
    hidden = jax.nn.gelu(gate, approximate=True) * up
    expected = hidden @ ours.linear[...] + hidden @ ours.linear_lora_a[...] @ ours.linear_lora_b[...]
    np.testing.assert_allclose(ours(x), expected, rtol=1e-3, atol=1e-5)
