# Thin on purpose: the work is in scripts/bootstrap.py, the tests and the programs themselves.
PYTHON := .venv/bin/python
BOOT := $(shell command -v python3 || command -v python)

MODULE := $(PYTHON) scripts/with_ros.py $(PYTHON) -m
DATA_FAULTS := --fault gives_up:1 --fault missed_grasp:0 --fault-share 0.3
# Given on make's command line only: in an environment, names as common as these may mean anything.
DATA := out/demo-data
EPISODES := 10
MODEL := tiny_acting
OUT = out/demo-train/$(MODEL)
RUNS := 3
FILE :=
# What benchmarks/gpu.py may count on: nothing else of what this package needs, and not the package itself.
BARE := jax==0.11.2 flax optax orbax-checkpoint jaxtyping "numpy==2.5.*" opencv-python-headless pyarrow pyyaml psutil tqdm

.PHONY: setup demo demo-data demo-train test test-all test-stress test-torch test-newest lint bench bench-bare lock clean

setup:  ## install everything that tests and the simulation need into .venv
	@$(BOOT) scripts/bootstrap.py --extras ros,sim,data,train,dev

demo:  ## the simulated robot at work, its progress in this terminal; DEMO=policy or watch, ROBOT=, TASK=, FAULTS=, CHECKPOINT=, DEMO_SECONDS= (docs/launch.md)
	@$(BOOT) scripts/bootstrap.py --extras ros,sim
	@$(PYTHON) scripts/with_ros.py $(PYTHON) -m pi05_progress_ros.demo

demo-data:  ## record, convert, label and look at episodes of the simulated robot; DATA=, EPISODES= (docs/data_quick_start.md)
	@$(BOOT) scripts/bootstrap.py --extras ros,sim,data
	$(MODULE) pi05_progress_ros.sim.record_live --task stack_cubes --episodes $(EPISODES) --out "$(DATA)/recorded" $(DATA_FAULTS)
	$(MODULE) pi05_progress_ros.sim.generate --task stack_cubes --episodes 20 --seed 100 --out "$(DATA)/generated" $(DATA_FAULTS)
	$(MODULE) training.convert_rosbags --input "$(DATA)/recorded" "$(DATA)/generated" --output "$(DATA)/stack" --fps 30 \
	    --image-size 224x224 --overwrite
	$(MODULE) training.add_progress_labels --input_dataset "$(DATA)/stack" --output_dataset "$(DATA)/stack_labelled" \
	    --method milestone --overwrite
	$(MODULE) training.compute_norm_stats "$(DATA)/stack_labelled" --overwrite
	$(MODULE) training.inspect_dataset "$(DATA)/stack_labelled" --output "$(DATA)/inspect_stack.html" --overwrite
	@echo "look at $(DATA)/inspect_stack.html and $(DATA)/stack/conversion_report.html"

demo-train:  ## make the demo's checkpoint anew, from recording to figures, in hours; MODEL=tiny_acting or tiny_demo, OUT= (models/*/README.md)
	@$(BOOT) scripts/bootstrap.py --extras ros,sim,data,train
	@$(PYTHON) scripts/with_ros.py $(PYTHON) scripts/demo_train.py --model "$(MODEL)" --out "$(OUT)"

test: setup  ## the tests of a change: 11 to 16 minutes on two cores
	@$(PYTHON) scripts/with_ros.py $(PYTHON) scripts/run_tests.py

test-all: setup  ## every test, faults, fuzz and soak included
	@$(PYTHON) scripts/with_ros.py $(PYTHON) scripts/run_tests.py --all

test-stress: setup  ## the tests of live processes on busy cores, RUNS rounds; passes per test are added up (README.md)
	@$(PYTHON) scripts/with_ros.py $(PYTHON) scripts/stress_tests.py --rounds "$(RUNS)"

test-torch: setup  ## the tests that need PyTorch, in an environment of their own of several GB; a test that is skipped fails there
	@.venv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-torch
	@.venv/bin/uv pip install --quiet --python .venv-torch --constraints requirements.lock --editable .[torch,dev]
	@.venv-torch/bin/python scripts/torch_tests.py

test-newest:  ## the short tests with the newest release of every dependency, not the lock's, in .venv-newest
	@$(BOOT) scripts/bootstrap.py --venv .venv-newest --newest --extras ros,sim,data,train,hub,rerun,dev
	@.venv-newest/bin/python scripts/with_ros.py .venv-newest/bin/python scripts/run_tests.py

lint: setup  ## style and formatting
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

bench: setup  ## every benchmark, one table each; not driving.py, which asks for a checkpoint and takes an hour
	@set -e; for script in $(filter-out benchmarks/driving.py,$(wildcard benchmarks/*.py)); do $(PYTHON) scripts/with_ros.py $(PYTHON) $$script; done

bench-bare: setup  ## benchmarks/gpu.py, small and on the CPU, in an environment as a rented GPU machine has it; FILE= keeps the results
	@.venv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-bare
	@.venv/bin/uv pip install --quiet --python .venv-bare $(BARE)
	@JAX_PLATFORMS=cpu .venv-bare/bin/python benchmarks/gpu.py --variant tiny $(if $(FILE),--json "$(FILE)")

lock:  ## renew requirements.lock: names, versions and hashes for every extra
	@.venv/bin/uv pip compile pyproject.toml --all-extras --python-version 3.12 --generate-hashes --upgrade \
	    --no-annotate --no-header --quiet --output-file requirements.lock

clean:  ## remove everything that was built
	rm -rf .venv .venv-torch .venv-bare .venv-newest build install log *.egg-info
