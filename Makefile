# make help lists what there is. Needs Python 3.11 or newer, make, git and a package index.

# Wheels of torch appear for 3.11 first and longest; any newer Python does, or `make PYTHON=...`.
# Each candidate is run, because a pyenv shim may be on the path without the Python behind it.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log
DEMO := runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs results bench clean distclean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | \
		while IFS='|' read -r target text; do printf '  make %-10s %s\n' "$$target" "$$text"; done

setup: $(STAMP)  ## make .venv with everything installed (nothing to do when it is up to date)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "patchmix needs Python 3.11 or newer with venv (Debian: apt install" \
		"python3-venv); none is on the path. Or: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): torch and what it needs take a few minutes (log: $(LOG))"
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -e ".[demo,dev]" >$(LOG) 2>&1 || \
		{ tail -n 30 $(LOG) >&2; echo "The installation failed; the whole log is $(LOG)" >&2; exit 1; }
	@touch $@

# Run twice, it goes on with an unfinished run, and evaluates a finished one again.
demo: setup  ## pre-train on 5,000 digits, measure, write a report (about 5 minutes on 2 cores)
	@$(BIN)/patchmix pretrain --recipe demo --output $(DEMO) $(if $(wildcard $(DEMO)/config.yaml),--resume)
	@$(BIN)/patchmix knn --checkpoint $(DEMO)
	@$(BIN)/patchmix fewshot --checkpoint $(DEMO)
	@$(BIN)/patchmix report $(DEMO)
	@printf '\n%s\n' 'Everything lies in $(DEMO):' \
		'  report/index.html   open it in a browser' \
		'  results/*.json      the numbers above' \
		'  checkpoints/        patchmix.load_encoder("$(DEMO)") gives a timm ViT' \
		'  metrics.jsonl       every step; curves: $(BIN)/tensorboard --logdir $(DEMO)'
	@printf '\n%s\n' 'Try next:' \
		'  $(BIN)/patchmix pretrain --data.root YOUR_IMAGES' \
		'  $(BIN)/patchmix probe --checkpoint $(DEMO) --fast' \
		'  $(BIN)/patchmix pretrain --recipe demo --output runs/unmixed --method.num_mix 1' \
		'  $(BIN)/patchmix recipes'

test: setup  ## the default tests, on the CPU, side by side on its cores
	@$(BIN)/python -m pytest -n auto --maxprocesses 8

check: setup  ## lint, format, types of src, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python docs/make_configuration.py --check
	@$(BIN)/python docs/make_results.py --check

docs: setup  ## write docs/configuration.md from the code
	@$(BIN)/python docs/make_configuration.py

results: setup  ## write the studies' tables and figures of docs/results.md from docs/studies
	@$(BIN)/python docs/make_results.py

bench: setup  ## measure what a step and its parts cost; writes benchmarks/results.md
	@$(BIN)/python benchmarks/write_results.py

clean:  ## remove caches and the demo's run; other runs and data stay
	@rm -rf $(DEMO) dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './data/*' -prune -exec rm -rf {} +

distclean: clean  ## the same, and .venv
	@rm -rf $(VENV)
