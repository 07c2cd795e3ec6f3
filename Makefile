# Thin on purpose: the work is in scripts/bootstrap.py, the tests and the programs themselves.
PYTHON := .venv/bin/python
BOOT := $(shell command -v python3 || command -v python)

.PHONY: setup demo test test-all lint bench lock clean

setup:  ## install everything that tests and the simulation need into .venv
	@$(BOOT) scripts/bootstrap.py --extras ros,sim,data,train,dev

demo:  ## the simulated robot at work, its progress in this terminal; TASK=, CHECKPOINT=, DEMO_SECONDS= (docs/launch.md)
	@$(BOOT) scripts/bootstrap.py --extras ros,sim
	@$(PYTHON) scripts/with_ros.py $(PYTHON) -m pi05_progress_ros.demo

test: setup  ## the tests of a change: a few minutes
	@$(PYTHON) scripts/with_ros.py $(PYTHON) -m pytest

test-all: setup  ## every test, faults, fuzz and soak included
	@$(PYTHON) scripts/with_ros.py $(PYTHON) -m pytest -m "long or not long"

lint: setup  ## style and formatting
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

bench: setup  ## every benchmark, one table each
	@set -e; for script in benchmarks/*.py; do $(PYTHON) scripts/with_ros.py $(PYTHON) $$script; done

lock:  ## renew requirements.lock: names, versions and hashes for every extra
	@.venv/bin/uv pip compile pyproject.toml --all-extras --python-version 3.12 --generate-hashes --upgrade \
	    --no-annotate --no-header --quiet --output-file requirements.lock

clean:  ## remove everything that was built
	rm -rf .venv build install log *.egg-info
