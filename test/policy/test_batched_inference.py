"""Several frames in one call of the model: the numbers of single calls, whatever shares the batch, nothing compiled."""

import jax
import numpy as np
import pytest
from compilations import compilations
from serving_helpers import frame, small_policy

PROMPTS = ("stack the red cube", "stack the red cube on the green cube", "up")  # of two lengths
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def policy():
    made = small_policy(max_batch=3)
    made.batch_sizes = (1, 3)  # programs are what takes time here: two lengths of two sizes
    jax.config.update("jax_disable_most_optimizations", True)
    made.warm_up()
    yield made
    jax.config.update("jax_disable_most_optimizations", False)


def prepared(policy, count):
    return [policy.prepare(frame(seed), PROMPTS[seed % 3]) for seed in range(count)]


def numbers(output):
    return np.concatenate(
        [output.actions.ravel(), output.progress_belief, [output.progress, *output.progress_interval]]
    )


def test_batches_of_any_size_answer_as_single_calls_do_and_draw_the_same_noise(policy):
    start = policy._key
    frames = prepared(policy, 7)
    single = [numbers(policy.infer_prepared([one])[0]) for one in frames]
    policy._key = start
    with compilations() as compiled:
        batched = [
            numbers(o)
            for part in (frames[:3], frames[3:5], frames[5:6], frames[6:])
            for o in policy.infer_prepared(part)
        ]
    assert compiled == [], "padded to a size that was compiled before"
    np.testing.assert_allclose(batched, single, atol=TOLERANCE)
    assert np.abs(np.diff(single, axis=0)).max(axis=1).min() > 1e-2, "or else the comparison says little"


def test_the_sizes_are_few():
    assert small_policy(max_batch=4).batch_sizes == (1, 2, 4)
    assert small_policy().batch_sizes == (1,)
    assert small_policy(max_batch=6).batch_sizes == (1, 2, 4, 6)
    with pytest.raises(ValueError, match="max_batch is 0"):
        small_policy(max_batch=0)


def test_a_batch_that_fails_uses_up_no_noise(policy, monkeypatch):
    start = policy._key
    frames = prepared(policy, 2)
    expected = numbers(policy.infer_prepared(frames[:1])[0])
    policy._key = start
    sampler = policy.sampler
    monkeypatch.setattr(policy, "sampler", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.infer_prepared(frames)
    monkeypatch.setattr(policy, "sampler", sampler)
    np.testing.assert_array_equal(numbers(policy.infer_prepared(frames[:1])[0]), expected)


def test_every_answer_carries_its_own_timing(policy):
    outputs = policy.infer_prepared(prepared(policy, 3))
    assert all(set(output.timing) == {"transforms", "model"} for output in outputs)
    assert len({output.timing["model"] for output in outputs}) == 1
    assert all(type(output.progress) is float for output in outputs)
