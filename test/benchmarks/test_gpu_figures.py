"""What benchmarks/gpu.py makes of what it measures: kernels and gaps of a trace, floors, cards, the page."""

import gzip
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from gpu_parts.cards import CARDS, peak_of
from gpu_parts.page import write_page
from gpu_parts.roofline import inference_work, product_flops
from gpu_parts.subjects import STEPS, inference_config, random_arrays, seen
from gpu_parts.trace import Operation, device_operations, last_run, read_events, summary

from pi05_progress.models.parameters import HEAD, parameter_paths
from pi05_progress.models.pi05 import Pi05

RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))


def named(kind, pid, name, tid=None):
    return {"ph": "M", "name": kind, "pid": pid, "args": {"name": name}} | ({} if tid is None else {"tid": tid})


def span(pid, tid, name, start, duration, /, **args):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": duration, "args": args}


GPU_TRACE = [
    named("process_name", 1, "/device:GPU:0"),
    named("process_name", 2, "/device:GPU:1"),
    named("process_name", 9, "/host:CPU"),
    named("thread_name", 1, "Stream #13(Compute)", 13),
    named("thread_name", 1, "Stream #14(MemcpyH2D)", 14),
    named("thread_name", 1, "XLA Ops", 99),
    named("thread_name", 2, "Stream #20(Compute)", 13),
    span(1, 14, "MemcpyH2D", 0.0, 10.0),
    span(1, 13, "gemm", 5.0, 20.0, hlo_op="gemm.1", name="jit(sample)/while/body/dot_general"),
    span(1, 13, "loop_fusion", 30.0, 2.0, hlo_op="loop_fusion.3"),
    span(1, 13, "gemm", 132.0, 10.0, hlo_op="gemm.2"),
    span(1, 99, "gemm.1", 5.0, 20.0),  # the same again, by layer
    span(2, 13, "gemm", 0.0, 500.0),  # of another card
    span(9, 13, "python", 0.0, 900.0, hlo_op="no"),
]


def test_kernels_and_gaps_of_a_gpu_are_those_of_its_streams(tmp_path):
    folder = tmp_path / "plugins/profile/2026_01_01"
    folder.mkdir(parents=True)
    with gzip.open(folder / "machine.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": GPU_TRACE}, file)
    found = summary(*device_operations(read_events(tmp_path)))
    assert found["kind"] == "GPU kernels and copies"
    assert [(k["name"], k["calls"], k["total_ms"]) for k in found["kernels"]] == [
        ("gemm", 1, 0.02),
        ("MemcpyH2D", 1, 0.01),
        ("gemm", 1, 0.01),
        ("loop_fusion", 1, 0.002),
    ]
    assert found["kernels"][0]["layer"] == "jit(sample)/while/body/dot_general"
    assert (found["span_ms"], found["busy_ms"]) == pytest.approx((0.142, 0.037))
    assert found["idle_ms"] == pytest.approx(0.105)
    assert [(g["ms"], g["after"], g["before"]) for g in found["largest_gaps"]] == [
        (0.1, "loop_fusion", "gemm"),
        (0.005, "gemm", "loop_fusion"),
    ]


def test_loops_of_a_cpu_do_not_count_twice():
    events = [
        span(9, 1, "while.5", 0.0, 100.0, hlo_op="while.5"),
        span(9, 1, "dot.1", 10.0, 20.0, hlo_op="dot.1"),
        span(9, 1, "ThreadpoolListener::Record", 10.0, 20.0),
    ]
    assert summary(*device_operations(events))["busy_ms"] == pytest.approx(0.02)


def test_of_several_runs_in_a_trace_the_last_is_found():
    runs = [Operation(f"{run}", 1000.0 * run + at, 5.0, "") for run in range(3) for at in (0.0, 20.0, 400.0)]
    assert [operation.name for operation in last_run(runs, 3)] == ["2", "2", "2"]
    assert last_run(runs[:3], 1) == runs[:3]


def test_the_same_kernel_in_two_layers_is_two():
    found = summary("", [Operation("gemm", 0.0, 5.0, "trunk"), Operation("gemm", 9.0, 1.0, "expert")])
    assert [(k["name"], k["layer"], k["calls"]) for k in found["kernels"]] == [
        ("gemm", "trunk", 1), ("gemm", "expert", 1)
    ]  # fmt: skip


def test_a_trace_without_the_device_is_an_error():
    with pytest.raises(ValueError, match="no operation of the device"):
        summary(*device_operations([]))


@pytest.mark.parametrize(
    ("kind", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
    ],
)
def test_cards_are_known_by_what_jax_calls_them(kind, card):
    assert peak_of(kind) == CARDS[card]


@pytest.mark.parametrize("kind", ["NVIDIA A10G", "NVIDIA A100X", "NVIDIA L40", "NVIDIA GeForce RTX 4090 D", "cpu"])
def test_other_cards_are_not_taken_for_them(kind):
    assert peak_of(kind) is None


def test_products_in_loops_and_convolutions_are_counted_as_often_as_they_run():
    def function(x, kernel, picture):
        looped = jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=7)[0]
        convolved = jax.lax.conv_general_dilated(picture, kernel, (1, 1), "VALID")
        return looped.sum() + jax.jit(jnp.dot)(x, x).sum() + convolved.sum()

    counted = product_flops(function, jnp.ones((5, 5)), jnp.ones((4, 3, 2, 2)), jnp.ones((1, 3, 6, 6)))
    assert counted == 8 * 2 * 5**3 + 2 * (4 * 5 * 5) * (3 * 2 * 2)


def full_size():
    """The full-size model in bfloat16, as shapes."""
    model = nnx.eval_shape(lambda: Pi05(inference_config("pi05"), nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    for path, leaf in nnx.to_flat_state(state):
        dtype = jnp.float32 if "/".join(map(str, path)).startswith(HEAD) else jnp.bfloat16
        leaf.set_value(jax.ShapeDtypeStruct(leaf.get_value().shape, dtype))
    nnx.update(model, state)
    return model


@pytest.mark.parametrize(("card", "floor_ms"), [("RTX 4090", 30.8), ("H100", 6.0)])
def test_the_floor_of_an_inference_is_that_of_its_products_and_bytes(card, floor_ms):
    """Worked out by hand for three cameras, batch 1 and ten steps, with a slightly longer prompt."""
    model = full_size()
    graph, parameters = nnx.split(model)
    modulations = jax.eval_shape(lambda p: nnx.merge(graph, p).step_modulations(STEPS), parameters)
    config = inference_config("pi05")
    noise = np.zeros((1, config.action_horizon, config.action_dim), np.float32)
    work = inference_work(model, seen(config, 3, 20, 32), noise, modulations, STEPS)
    assert 1e3 * work.floor_s(CARDS[card]) == pytest.approx(floor_ms, rel=0.05)


def test_random_parameters_are_spread_as_new_ones_are_and_none_is_zero():
    shapes = {"a": jax.ShapeDtypeStruct((3, 64, 128), jnp.bfloat16), "b": jax.ShapeDtypeStruct((4096,), jnp.float32)}
    found = random_arrays(shapes)
    assert {path: (x.shape, x.dtype) for path, x in found.items()} == {p: (s.shape, s.dtype) for p, s in shapes.items()}
    for path, array in found.items():
        numbers = np.asarray(array, np.float64).ravel()
        assert numbers.std() == pytest.approx(max(shapes[path].shape[-3:]) ** -0.5, rel=0.05)
        assert abs(numbers.mean()) < 0.1 * numbers.std()
        assert (numbers != 0).all()
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06
    assert not np.array_equal(np.asarray(found["a"]).ravel()[:4096], found["b"])


def test_all_parameters_of_a_model_are_made():
    model = nnx.eval_shape(lambda: Pi05(inference_config("tiny"), nnx.Rngs(0)))
    shapes = parameter_paths(model)
    assert set(jax.eval_shape(lambda: random_arrays(shapes))) == set(shapes)


def test_the_page_is_what_the_results_say(tmp_path):
    assert RESULTS, "results are committed"
    write_page(tmp_path / "gpu.md", RESULTS)
    written = (ROOT / "docs/gpu.md").read_text()
    assert (tmp_path / "gpu.md").read_text() == written, "run python benchmarks/gpu.py --page benchmarks/results/*.json"
    measured = any(json.loads(file.read_text())["platform"] != "cpu" for file in RESULTS)
    assert ("No GPU has been measured yet" in written) != measured


def test_the_page_tells_a_gpu_from_a_cpu(tmp_path):
    result = json.loads(RESULTS[0].read_text())
    gpu = result | {
        "device": "NVIDIA H100 80GB HBM3", "platform": "gpu", "driver": "580.1", "device_memory_bytes": 85_519_761_408,
        "limit_memory_gb": 24.0,
    }  # fmt: skip
    (tmp_path / "z_gpu.json").write_text(json.dumps(gpu))
    write_page(tmp_path / "gpu.md", [RESULTS[0], tmp_path / "z_gpu.json"])
    page = (tmp_path / "gpu.md").read_text()
    assert "No GPU has been measured" not in page
    assert "driver 580.1, 85.5 GB, JAX limited to 24 GB" in page
    assert page.index("## NVIDIA H100 80GB HBM3: `") < page.index("(a CPU, not a GPU)"), "GPUs come first"
