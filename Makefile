# Everything starts from Python 3.11 and pip. A different interpreter: make PYTHON=/path/to/python3.12 test
# A different environment: make VENV=.venv-312 test. Arguments for pytest: make test ARGS="-k router"

VENV ?= .venv
EXTRAS ?= local,dev
ARGS ?=

# The first of these that runs and is new enough; looked for only where an environment has to be made.
find_python = $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PYTHON ?= $(find_python)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check check-format check-lint check-types check-imports bench snap

help: ## list these targets
	@echo "usage: make TARGET"
	@sed -nE 's/^([a-z]+):.*## (.*)$$/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-10s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## make .venv and install agentmesh into it; quick where nothing has changed

demo: $(STAMP) ## fetch the embedded model and ask the helpdesk; fails unless the answer is as expected
	$(BIN)/agentmesh models pull
	$(BIN)/agentmesh run helpdesk

test: $(STAMP) ## run the tests, those of real decoding too where the embedded model can be fetched
	@$(BIN)/agentmesh models pull || echo "the tests of real decoding are skipped"
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## formatting, lint, types and the import contracts; changes nothing
	@$(MAKE) --no-print-directory --keep-going check-format check-lint check-types check-imports

check-format: $(STAMP)
	$(BIN)/ruff format --check .

check-lint: $(STAMP)
	$(BIN)/ruff check .

check-types: $(STAMP)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

check-imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

bench: $(STAMP) ## measure what the mesh adds to a run: agentmesh bench overhead
	$(BIN)/agentmesh bench overhead

snap: $(STAMP) ## run the demo and redraw its picture, docs/demo.svg
	$(BIN)/agentmesh models pull
	$(BIN)/python docs/snap.py docs/demo.svg -- $(BIN)/agentmesh run helpdesk

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "agentmesh needs Python 3.11 or newer; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -e $(STAMP) || echo "installing into $(VENV); the first time takes a few minutes"
	@"$(PYTHON)" -m venv "$(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)
