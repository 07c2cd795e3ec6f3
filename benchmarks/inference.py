"""What inference costs, and what each way to do less work saves, with the differences of outputs beside.

    python benchmarks/inference.py --variant mid --json inference.json

The rows of a table run in turn, round after round, each until the device is done. A ratio is the median over the rounds
of a row's time to the first row's. GFLOP and MB are XLA's counts for the compiled program, loops counted as often as
they run. Parameters and inputs are random, the prompt has 20 tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common.costs import Cost, argument_bytes, program_cost, size_in_bytes
from common.robots import robot
from common.rounds import Row, measure
from common.subjects import full_expert, noise, observation, prefix_of, random_model, step_weights
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.models.config import named_config
from pi05_progress.models.parameters import parameter_paths
from pi05_progress.models.pi05 import Pi05, PrefixPass, Sample
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policies.sampler import Sampler
from pi05_progress.policy import ALL_ON, InferenceOptions, PolicyOptions

PROMPT = "stack the red cube"  # 20 tokens: 18 bytes, one for the beginning, one for the end
TOKENS, SHORT, LONG = 20, 32, 200
STEPS = 10
REPEATS = {"tiny": 20, "mid": 20, "pi05": 2}
SWITCHES = ("precomputed_modulations", "bucketed_prompts", "skip_absent_cameras", "one_program", "donated_noise")
TABLES = ("denoising", "progress", "prefix", "switches")
Table = dict[str, dict[str, Any]]


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=REPEATS, default="mid", help="size of the model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, help=f"rounds (default: {REPEATS})")
    text = "which tables; at full size all of them take long on a CPU (default: all)"
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help=text)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    repeats = args.repeats or REPEATS[args.variant]
    config = dataclasses.replace(named_config(args.variant), discrete_state=False)
    machine = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    print(
        f"{args.variant}, {config.compute_dtype}, {repeats} rounds; {', '.join(f'{k} {v}' for k, v in machine.items())}"
    )
    model = random_model(config)
    print(f"parameters: {size_in_bytes(parameter_paths(model)) / 2**30:.2f} GiB")
    figures: dict[str, Any] = {"variant": args.variant, "rounds": repeats, "machine": machine}
    if "denoising" in args.tables:
        figures["denoising"] = denoising_tables(model, args.variant, repeats)
    if "progress" in args.tables:
        figures["progress"] = progress_table(model, repeats)
    if "prefix" in args.tables:
        figures["prefix"] = prefix_table(model, repeats)
    if "switches" in args.tables:
        figures["switches"] = switches_table(model, repeats)
        figures["first_answer_s"] = first_answer(model)
    figures["peak_gib"] = peak_memory()
    figures["required"] = required(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def denoising_tables(model: Pi05, variant: str, repeats: int) -> dict[str, Table]:
    """The denoising loop alone, of this model, and for ``mid`` of the full-size expert, too."""
    tables = {"full width" if variant == "pi05" else "own width": denoising_table(model, repeats)}
    if variant == "mid":
        for dtype in ("float32", "bfloat16"):
            full = random_model(full_expert(model.config, dtype))
            tables[f"full width, {dtype}"] = denoising_table(full, repeats)
            del full
    return tables


def shapes(tree: Any) -> Any:
    """The same arguments as shapes alone."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def progress_table(model: Pi05, repeats: int) -> Table:
    """What progress costs beside actions, from the same pass and from a pass of its own; and the head alone."""
    graph, parameters = nnx.split(model)
    modulations = jax.jit(lambda p: nnx.merge(graph, p).step_modulations(STEPS))(parameters)
    seen = observation(model.config, TOKENS, SHORT)
    given = (parameters, modulations, seen, noise(model.config))

    def both(p: nnx.State, modulations: Any, seen: Any, noise: Any) -> Sample:
        return nnx.merge(graph, p).sample(seen, noise=noise, num_steps=STEPS, modulations=modulations)

    def actions(*given: Any) -> Any:
        return both(*given).actions

    def progress(p: nnx.State, seen: Any) -> Any:
        return nnx.merge(graph, p).estimate_progress(seen)

    def head(p: nnx.State, prefix: PrefixPass) -> Any:
        return nnx.merge(graph, p).belief(prefix)

    prefix = jax.jit(lambda p, seen: nnx.merge(graph, p).prefix_pass(seen))(parameters, seen)
    run_both, run_actions, run_progress, run_head = (jax.jit(f) for f in (both, actions, progress, head))
    costs = [program_cost(f, *shapes(given)) for f in (actions, both)]
    second = Cost(*np.add(costs[0], program_cost(progress, *shapes((parameters, seen)))))
    rows = {
        "actions only": Row(lambda: Sample(run_actions(*given), None), costs[0]),
        "actions + progress": Row(lambda: run_both(*given), costs[1]),
        "actions + a second prefix pass": Row(
            lambda: Sample(run_actions(*given), run_progress(parameters, seen)), second
        ),
        "the head alone": Row(
            lambda: Sample(None, run_head(parameters, prefix)), program_cost(head, *shapes((parameters, prefix)))
        ),
    }
    return measure("progress", rows, repeats, lambda outputs: outputs["actions + progress"])


def prefix_table(model: Pi05, repeats: int) -> Table:
    """The prefix of a short prompt, padded to the longest and to the shortest length, and the belief it gives."""
    graph, parameters = nnx.split(model)

    def prefix(p: nnx.State, seen: Any) -> tuple[PrefixPass, Any]:
        own = nnx.merge(graph, p)
        made = own.prefix_pass(seen)
        return made, own.belief(made)

    run, rows = jax.jit(prefix), {}
    for length in (LONG, SHORT):
        given = (parameters, observation(model.config, TOKENS, length))
        cost = program_cost(prefix, *shapes(given))
        rows[f"padded to {length}"] = Row(lambda given=given: run(*given), cost, lambda result: Sample(None, result[1]))
    return measure(f"prefix of three cameras and {TOKENS} tokens", rows, repeats)


def denoising_table(model: Pi05, repeats: int) -> Table:
    """The denoising loop alone after three cameras and the longest prompt, and the weights a step reads."""
    config = model.config
    graph, parameters = nnx.split(model)
    prefix = prefix_of(config, 3 * config.tokens_per_image + config.max_token_len)
    modulations = jax.jit(lambda p: nnx.merge(graph, p).step_modulations(STEPS))(parameters)

    def loop(p: nnx.State, modulations: Any, prefix: PrefixPass, noise: Any) -> Any:
        return nnx.merge(graph, p).denoise(prefix, noise, STEPS, modulations)

    def step(p: nnx.State, at: Any, prefix: PrefixPass, x_t: Any) -> Any:
        return nnx.merge(graph, p).denoise_step(prefix, x_t, at, STEPS)

    run, rows, start = jax.jit(loop), {}, noise(config)
    for name, ahead in (("plain", None), ("precomputed", modulations)):
        given = (parameters, ahead, prefix, start)
        rows[name] = Row(lambda given=given: Sample(run(*given), None), program_cost(loop, *shapes(given)))
    c = config.expert
    table = measure(f"denoising alone: {c.width} wide, {c.depth} deep, {config.compute_dtype}", rows, repeats)
    first = jax.tree.map(lambda x: x[0], modulations)
    everything, without_time = step_weights(model)
    by_size = {"plain": everything, "precomputed": without_time + size_in_bytes(first)}
    for name, at in (("plain", np.float32(1.0)), ("precomputed", first)):
        given = shapes((parameters, at, prefix, start))
        others = size_in_bytes((prefix.cache, prefix.mask, start)) + (4 if name == "plain" else 0)
        table[name] |= {
            "step_reads_bytes": by_size[name],
            "step_arguments_bytes": argument_bytes(step, *given) - others,
            "step_accesses_bytes": program_cost(step, *given).bytes,
        }
        row = table[name]
        print(
            f"{name:<12} a step reads {row['step_reads_bytes'] / 1e6:.3f} MB of weights and modulations "
            f"({row['step_arguments_bytes'] / 1e6:.3f} MB by the compiled step's arguments), accesses "
            f"{row['step_accesses_bytes'] / 1e6:.1f} MB in all"
        )
    return table


def switches_table(model: Pi05, repeats: int) -> Table:
    """Every switch off by itself, and all of them, for a robot with two of the three cameras; pictures are resized."""
    profile, frame = robot(2)
    checkpoint = Checkpoint(CheckpointInfo(model.config, robot=profile.name), model, {})
    graph, parameters = nnx.split(model)
    modulations = jax.jit(lambda p: nnx.merge(graph, p).step_modulations(STEPS))(parameters)
    start, rows = noise(model.config), {}
    options = {"everything on": ALL_ON}
    options |= {f"without {name}": dataclasses.replace(ALL_ON, **{name: False}) for name in SWITCHES}
    options["everything off"] = InferenceOptions(**dict.fromkeys(dataclasses.asdict(ALL_ON), False))

    def sample(p: nnx.State, modulations: Any, seen: Any, noise: Any) -> Sample:
        return nnx.merge(graph, p).sample(seen, noise=noise, num_steps=STEPS, modulations=modulations)

    for name, chosen in options.items():
        policy = Pi05Policy(checkpoint, profile, PolicyOptions(num_steps=STEPS, inference=chosen))
        ahead = modulations if chosen.precomputed_modulations else None
        cost = program_cost(sample, *shapes((parameters, ahead, policy.observe(frame, PROMPT), start)))
        rows[name] = Row(lambda policy=policy: policy.sampler(policy.observe(frame, PROMPT), start), cost)
    return measure("switches, two of three cameras", rows, repeats)


def first_answer(model: Pi05) -> dict[str, float]:
    """Seconds until the first answer of a sampler, as a new process would wait for it once the model is loaded."""
    given = (observation(model.config, TOKENS, SHORT), noise(model.config))

    def timed(sampler: Sampler) -> float:
        started = time.perf_counter()
        jax.block_until_ready(sampler(*given))
        return time.perf_counter() - started

    kept = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    with tempfile.TemporaryDirectory() as folder:
        try:
            _use_cache(None, 0.0)
            seconds = {"nothing compiled": timed(Sampler(model, STEPS))}
            _use_cache(folder, 0.0)
            timed(Sampler(model, STEPS))  # fills the cache
            sampler = Sampler(model, STEPS)
            seconds["compiled by an earlier process"] = timed(sampler)
            seconds["warmed up"] = timed(sampler)
        finally:
            _use_cache(*kept)
    print("\nfirst answer, s")
    for name, value in seconds.items():
        print(f"{name:<36}{value:>10.3f}")
    return seconds


def _use_cache(folder: str | None, seconds: float) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    compilation_cache.reset_cache()


def peak_memory() -> float:
    """Largest resident memory of this process so far, GiB; on an accelerator its own peak is printed, too."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory: {peak:.2f} GiB")
    if stats := jax.devices()[0].memory_stats():
        print(f"peak memory of the device: {stats['peak_bytes_in_use'] / 2**30:.2f} GiB")
    return peak


def required(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is asked of these figures, and whether they meet it: times at ``mid`` and of the loop at full width only."""
    found: dict[str, tuple[float, str, float]] = {}
    if "progress" in figures:
        both, actions = (figures["progress"][name] for name in ("actions + progress", "actions only"))
        found["actions + progress, FLOPs of actions only"] = (both["gflop"] / actions["gflop"], "<=", 1.001)
        if figures["variant"] == "mid":
            found["actions + progress, time of actions only"] = (both["ratio"], "<=", 1.02)
    for name, table in figures.get("denoising", {}).items():
        share = table["precomputed"]["step_arguments_bytes"] / table["plain"]["step_arguments_bytes"]
        found[f"weights per step, {name}, share of plain"] = (share, "<=", 0.76)
        if name.startswith("full"):
            found[f"denoising, {name}, times faster"] = (1 / table["precomputed"]["ratio"], ">=", 1.1)
    if "prefix" in figures and figures["variant"] == "mid":
        faster = 1 / figures["prefix"][f"padded to {SHORT}"]["ratio"]
        found[f"prefix of {TOKENS} tokens, times faster"] = (faster, ">=", 1.1)
    print(f"\n{'required':<52}{'found':>10}{'limit':>12}")
    result = {}
    for name, (value, relation, limit) in found.items():
        met = value <= limit if relation == "<=" else value >= limit
        result[name] = {"found": value, "limit": f"{relation} {limit}", "met": met}
        print(f"{name:<52}{value:>10.5f}{f'{relation} {limit}':>12}  {'met' if met else 'MISSED'}")
    return result


if __name__ == "__main__":
    main()
