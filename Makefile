# Every target sets up what it needs; `make help` lists them.
#
#   PYTHON=python3.12     another Python than python3
#   TORCH_CPU_INDEX=URL   takes torch from there, before the index that pip is set to: a build for CPUs is much smaller
#                         than the one for CUDA (https://download.pytorch.org/whl/cpu has them)
#   MODEL=NAME            demo: the language part alone, on this profile
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on \
	$(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX)) -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install research demo up down images test check format proto dashboards bench networks results profiles golden lock clean

help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s'|'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.runtime: pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing the edge and the cloud into $(VENV): on Linux, torch brings gigabytes; TORCH_CPU_INDEX chooses a smaller one"
	$(PIP_INSTALL) -e '.[edge,cloud,evaluate]'
	@touch $@

$(VENV)/.research: $(VENV)/.runtime
	@echo "installing the research and test tools into $(VENV)"
	$(PIP_INSTALL) -e '.[research,dev]'
	@touch $@

install: $(VENV)/.runtime ## The edge, the cloud and the command line into .venv

research: $(VENV)/.research ## And what trains, measures and tests them

demo: $(VENV)/.runtime ## Starts cloud and edge, sends a prompt and photographs, prints what came back and what it cost
	$(BIN)/python -m examples.demo $(if $(MODEL),--model $(MODEL))

up: ## The pair, Prometheus and Grafana in containers: docker compose up, and waits until all are well
	docker compose up --build --wait

down: ## Stops the containers; weights and metrics stay
	docker compose down

images: $(VENV)/.research ## Builds both images and prints their sizes, layer by layer
	docker compose build edge cloud
	$(BIN)/python deploy/scripts/sizes.py dtufc-edge dtufc-cloud

test: $(VENV)/.research ## All tests, on real models and real servers
	$(BIN)/dtufc fetch
	$(BIN)/python -m pytest

check: $(VENV)/.research ## Style, types, imports, generated code: quick
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.generate --check
	$(BIN)/python -m scripts.words
	$(BIN)/python -m deploy.dashboards --check

format: $(VENV)/.research ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.research ## Generates the code of proto/ into shared/dtufc/v1
	$(BIN)/python -m scripts.generate

dashboards: $(VENV)/.research ## Writes Grafana's dashboards and alerts into deploy/grafana
	$(BIN)/python -m deploy.dashboards

bench: $(VENV)/.research ## Rate against accuracy and time, written to docs/benchmarks.md
	$(BIN)/python -m dtufc_research.evaluation.bench

networks: $(VENV)/.research ## Trains the codecs' networks (hours; resumes) and puts them into the package
	$(BIN)/python -m dtufc_research.training.features
	$(BIN)/python -m dtufc_research.training.train
	$(BIN)/python -m dtufc_research.training.train --ship

results: $(VENV)/.research ## The paper's tables and figures on our models, written to docs/results
	$(BIN)/python -m dtufc_research.paper
	$(BIN)/python -m dtufc_research.evaluation.learned_speed > docs/results/speed.md
	$(BIN)/python -m dtufc_research.paper.generated_images
	$(BIN)/python -m dtufc_research.evaluation.quality
	$(BIN)/python -m dtufc_research.evaluation.vision
	$(BIN)/python -m dtufc_research.evaluation.klt_speed
	$(BIN)/python -m tests.coding.test_learned_determinism "$$(mktemp -d)" 100 > docs/results/determinism.md

profiles: $(VENV)/.research ## Fits the shipped profiles anew
	$(BIN)/python -m dtufc_research.training.fit_profiles

golden: $(VENV)/.research ## Writes the golden frames that are missing; none is written anew
	$(BIN)/python -m pytest tests/coding/test_golden*.py --write-golden

lock: ## Resolves every dependency anew and writes requirements.lock
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e '.[research,dev]'
	$(VENV)-lock/bin/python -m scripts.lock > requirements.lock.new && mv requirements.lock.new requirements.lock
	rm -rf $(VENV)-lock

clean: ## Removes what was installed and generated here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info demo-output \
		deploy/grafana/*/node_modules deploy/grafana/screenshots/dist
