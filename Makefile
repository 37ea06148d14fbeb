# vlmtool: `make demo` and `make test` each work as the first command on a fresh clone.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
# The pins stand in requirements.txt alone.
PIN = $(shell grep -E '^$(1)==' requirements.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# JOBS test processes share the cores: one thread each, and nothing from the network.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help setup demo test nightly check soak bench clean

help:
	@echo "make setup   a .venv with everything"
	@echo "make demo    train, convert, merge, ask and score a small model (ARGS='--work-dir D --seed N')"
	@echo "make test    the tests (ARGS='tests/cli -k name')"
	@echo "make nightly the fuzz tests on 12,000 random inputs (SEED=N replays a run, VLMTOOL_FUZZ=N for N inputs)"
	@echo "make check   ruff and mypy"
	@echo "make soak    the long tests;  make clean  remove what these made"
	@echo "make bench   training speed against its aims, into docs/benchmarks.md (ARGS='--peers F --peer-assets D')"

setup: $(STAMP)

# torch first and by its exact pin: every later requirement then finds it and asks for no other build.
# deepspeed builds from source against the installed torch, hence no build isolation.
$(STAMP): requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vlmtool needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "$(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PIP) install --quiet $(call PIN,torch)
	$(PIP) install --quiet $(call PIN,setuptools) $(call PIN,wheel)
	$(PIP) install --quiet --no-build-isolation -r requirements.txt
	$(PIP) install --quiet --no-build-isolation --no-deps -e '.[dev]'
	@# mmengine asks for opencv-python, which wants libGL; a machine without a display library gets the headless build.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(PIP) install --quiet --no-deps --force-reinstall \
	  $(subst opencv-python==,opencv-python-headless==,$(call PIN,opencv-python))
	@touch $@

demo: setup
	$(BIN)/vlmtool demo $(ARGS)

test: setup
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not soak and not gpu and not network" $(ARGS)

# Inputs differ from night to night; the seed, which stands first, gives the same ones again.
nightly: SEED := $(or $(SEED),$(shell date +%s))
nightly: setup
	@echo "make nightly SEED=$(SEED)"
	VLMTOOL_FUZZ=$${VLMTOOL_FUZZ:-12000} $(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/fuzz \
	  --hypothesis-seed=$(SEED) $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vlmtool

soak: setup
	$(BIN)/python -m pytest -m "soak and not gpu and not network" $(ARGS)

bench: setup
	$(BIN)/python benchmarks/bars.py --write docs/benchmarks.md $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find vlmtool tests -name __pycache__ -type d -prune -exec rm -rf {} +
