# Every target makes the environment that it needs, once; later calls start at once.
# Requirements: Linux on x86-64, Python 3.11 with venv and pip, make. No compiler, no Node.

VENV     := .venv
TRL_VENV := .venv-trl
GPU_VENV := .venv-gpu
READY     := $(VENV)/.ready
TRL_READY := $(TRL_VENV)/.ready
GPU_READY := $(GPU_VENV)/.ready
# Commands with this prefix run in the environment.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)"
# -qq: pip shows errors, but no warnings.
PIP_INSTALL := bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps
# In two processes; tests/conftest.py says which tests run beside which.
PYTEST := python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo unit test soak check bench paper venv venv-trl venv-gpu gpu-smoke clean

help:
	@echo "make demo      learn from sound on this machine: runs ssr1-rl demo"
	@echo "make unit      the unit tests: no Ray, no engine (about 3 minutes)"
	@echo "make test      all tests, with engines and learners (ARGS='-k loss' for some, ARGS=--durations=20 for times)"
	@echo "make soak      runs that are killed again and again, and the benchmarks' programs (long; not in make test)"
	@echo "make check     ruff, pyright, the layers of the rooms (lint-imports), and what stays light to import"
	@echo "make bench     the benchmarks, TRL beside ours   (makes .venv-trl as well)"
	@echo "make paper     SightSound-R1's claim in miniature: a table of 7 students (long; goes on if stopped)"
	@echo "make venv      only the environment, in .venv    (about 2 minutes, once)"
	@echo "make venv-trl  only TRL's environment, .venv-trl (about 1 minute, once)"
	@echo "make venv-gpu  the environment for NVIDIA GPUs, .venv-gpu; docs/gpu.md says what the machine needs"
	@echo "make gpu-smoke try every GPU path on this machine with small models (makes .venv-gpu as well)"
	@echo "make clean     remove environments and caches; runs/ stays"
	@echo "PYTHON=/path/to/python3.11 chooses the Python."

demo: $(READY)
	$(IN_VENV) ssr1-rl demo $(ARGS)

unit: $(READY)
	$(IN_VENV) $(PYTEST) tests/unit $(ARGS)

test: $(READY)
	$(IN_VENV) $(PYTEST) $(ARGS)

soak: $(READY)
	$(IN_VENV) python -m pytest -m soak $(ARGS)

check: $(READY)
	$(IN_VENV) ruff check
	$(IN_VENV) pyright
	$(IN_VENV) lint-imports
	$(IN_VENV) python -m pytest -q tests/unit/test_imports.py

bench: $(READY) $(TRL_READY)
	$(IN_VENV) python benchmarks/end_to_end.py --peer trl
	$(IN_VENV) python benchmarks/rollout_overhead.py
	$(IN_VENV) python benchmarks/prefix_packing.py
	$(IN_VENV) python benchmarks/logprob_head.py

paper: $(READY)
	$(IN_VENV) python benchmarks/paper.py $(ARGS)

venv: $(READY)
	@echo "$(VENV) is ready: . $(VENV)/bin/activate"

venv-trl: $(TRL_READY)
	@echo "$(TRL_VENV) is ready."

venv-gpu: $(GPU_READY)
	@echo "$(GPU_VENV) is ready: . $(GPU_VENV)/bin/activate"

gpu-smoke: $(GPU_READY)
	PATH="$(CURDIR)/$(GPU_VENV)/bin:$$PATH" python benchmarks/gpu_smoke.py $(ARGS)

clean:
	rm -rf $(VENV) $(TRL_VENV) $(GPU_VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find ssr1_rl tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/cpu.txt requirements/dev.txt setup.py
	@echo "Making $(VENV) from requirements/cpu.txt and dev.txt: about 2 minutes the first time."
	@$(call make_venv,$(VENV),requirements/cpu.txt -r requirements/dev.txt)
	@$(VENV)/$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

$(TRL_READY): requirements/trl.txt
	@echo "Making $(TRL_VENV) from requirements/trl.txt: about 1 minute the first time."
	@$(call make_venv,$(TRL_VENV),requirements/trl.txt)
	@touch $@

$(GPU_READY): requirements/gpu.txt requirements/dev.txt setup.py
	@echo "Making $(GPU_VENV) from requirements/gpu.txt and dev.txt: several GB, some minutes the first time."
	@$(call make_venv,$(GPU_VENV),requirements/gpu.txt -r requirements/dev.txt)
	@$(GPU_VENV)/$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

# $(1): folder, $(2): requirement files. An incomplete environment is completed.
define make_venv
set -e; start=$$(date +%s); \
if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
    python=''; \
    for candidate in $(or $(PYTHON),python3.11 python3); do \
        if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
            python="$$candidate"; break; \
        fi; \
    done; \
    if [ -z "$$python" ]; then \
        echo "ssr1_rl needs Python 3.11, and [$(or $(PYTHON),python3.11 python3)] has another version or is missing." \
             "Install Python 3.11, or give its path: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),venv)" >&2; \
        exit 1; \
    fi; \
    if ! "$$python" -m venv --clear $(1); then \
        echo "Python could not make an environment. If Python is a system package," \
             "install its venv package (Debian: python3.11-venv) and run make again." >&2; \
        exit 1; \
    fi; \
fi; \
$(1)/$(PIP_INSTALL) -r $(2); \
if [ $(1) != $(GPU_VENV) ] && ! $(1)/bin/python -c 'import torch; torch.zeros(1)' 2>/dev/null; then \
    $(1)/bin/python -m pip uninstall -qq -y torch; \
    echo "pip chose a torch that needs CUDA libraries. Set PIP_EXTRA_INDEX_URL to PyTorch's CPU builds" \
         "(see its installation page), then run make again." >&2; \
    exit 1; \
fi; \
echo "Packages installed in $$(( $$(date +%s) - start )) s."
endef
