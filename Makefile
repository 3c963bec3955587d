# `make run` and `make test` need Python >= 3.11 with venv, and nothing else. Other choices:
#   make run PYTHON=python3.13 PORT=8080      make test TESTS=tests/unit      VENV=folder
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
TESTS ?=

BIN := $(abspath $(VENV))/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install
# pip says nothing when all is well, and everything when it is not
QUIETLY = quietly() { said=$$("$$@" 2>&1) || { echo "$$said" >&2; return 1; }; }; quietly

# an environment that was made with another interpreter than the one asked for is made anew
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.made 2>/dev/null),$(PYTHON))
.PHONY: $(VENV)/.made
endif
endif

.PHONY: run test slow simulate mutants soak lint check wheel clean help
.DELETE_ON_ERROR:

help:
	@echo "make run    start the example cluster: a page, a function and a program"
	@echo "make test   run all tests"
	@echo "make slow   run the tests that take long"
	@echo "make simulate  the policy in a fake world: a million events; STORIES=9 plays so many of other seeds"
	@echo "make mutants   plant faults in the policy; the simulation has to find each of them"
	@echo "make soak   hosts under load while everything goes wrong: MINUTES=20 SEED=7; as root more of it"
	@echo "make lint   ruff, mypy, import rules"
	@echo "make check  lint, then test"
	@echo "make wheel  build sdist and wheel into dist/"
	@echo "make clean  remove what these made"

run: $(VENV)/.installed
	@echo
	@echo "  open      http://127.0.0.1:$(PORT)"
	@echo "  then, in a second terminal:"
	@echo "            cd $(CURDIR)/examples && . $(BIN)/activate"
	@echo "            bkd status                  who runs, who is ready"
	@echo "            kill -9 PID                 of any worker; the page shows its successor"
	@echo "            bkd scale web=4             one more; web=-1 would be one less"
	@echo "            bkd restart web             after an edit of shop/web.py; bkd rollback web takes it back"
	@echo "            bkd logs -f                 what the workers print"
	@echo "            bkd events                  what bkd did, and why"
	@echo "  stop      Ctrl-C here, or bkd stop there"
	@echo
	@cd examples && PATH="$(BIN):$$PATH" PORT="$(PORT)" exec $(BIN)/bkd start -c bkd.toml

test: $(VENV)/.developing
	$(BIN)/python -m pytest -n 4 --dist loadfile $(TESTS)

slow: $(VENV)/.developing
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(TESTS)

simulate: $(VENV)/.developing
ifdef STORIES
	$(BIN)/python -m tests.simulation.world --seed $${SEED:-$$(date +%s)} --stories $(STORIES)
else
	$(BIN)/python -m pytest tests/simulation
endif

mutants: $(VENV)/.developing
	$(BIN)/python -m tests.simulation.mutants $(MUTANTS)

soak: $(VENV)/.developing
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED)) $(SOAK)

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	@$(MAKE) --no-print-directory test

wheel: $(VENV)/.developing
	$(BIN)/python -m build

$(VENV)/.made:
	@$(PYTHON) -c 'import sys' 2>/dev/null || { \
	  echo "$(PYTHON) is not here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), bkd needs 3.11 or newer; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; }
	@[ ! -e $@ ] || rm -rf $(VENV)
	@echo "making $(VENV) with $$($(PYTHON) -V 2>&1)"
	@$(QUIETLY) $(PYTHON) -m venv $(VENV)
	@echo $(PYTHON) > $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "installing bkd into $(VENV)"
	@$(QUIETLY) $(PIP) --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.made pyproject.toml
	@echo "installing bkd and what its tests need into $(VENV)"
	@$(QUIETLY) $(PIP) --editable '.[dev,test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf .venv dist build examples/.bkd examples/messages/run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
