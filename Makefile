# Three commands need nothing but Python >= 3.11 and make, and set everything up by themselves:
#   make demo [IMAGE=photo.jpg] [LEVEL=3]     make example [PORT=8000]     make test [ARGS="-k chains"]
# PYTHON=… chooses an interpreter; without it the first one that really runs is taken.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?=
CONSTRAINTS ?=
ARGS ?=
COVERAGE ?= yes
IMAGE ?=
LEVEL ?= 2
HOST ?= 127.0.0.1
PORT ?= 8000
SOAK_MINUTES ?= 60
# Through the environment, so that the shell never reads a file's name.
export IMAGE LEVEL

.PHONY: help demo example test quick test-lowest lint format bench compatibility upstream containers soak chaos mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [IMAGE=photo.jpg] [LEVEL=1|2|3]  blur a picture with a durable chain of works"
	@echo "make example [PORT=8000] [HOST=127.0.0.1]  the same as a site: uploads, live progress, a history"
	@echo "make test [ARGS=...]                       every test whose service is there, with coverage"
	@echo "make quick [ARGS=...]                      the tests that take less than ten seconds each"
	@echo "make test-lowest                           make quick, with the lowest supported versions"
	@echo "make lint                                  style, types and the six floors"
	@echo "make format                                let ruff put the style right"
	@echo "make compatibility                         write docs/celery-compatibility.md from the rows of its tests"
	@echo "make upstream [ARGS=...]                   Celery's own integration tests with Workers, beside plain tasks (half an hour)"
	@echo "make containers                            workers in containers (needs a Docker engine)"
	@echo "make soak [SOAK_MINUTES=60]                long random walks over the store and what takes minutes, then an hour of load"
	@echo "make chaos [ARGS=\"--minutes 15 --only postgresql\"]  a storm of faults over servers of its own, and an audit of what came of it"
	@echo "make mutants [ARGS=\"-k token\"]           take each guard away and see which test notices: docs/mutants.md"
	@echo "make bench [ARGS=\"drain growth --quick\"]    side by side with plain Celery and other durable queues"

demo: $(VENV)/.demo
	@$(BIN)/python -m example_project.blur_o_matic.demo --level "$$LEVEL" -- "$$IMAGE"

example: $(VENV)/.example
	@exec $(BIN)/python -m example_project.website.serve --host "$(HOST)" --port "$(PORT)"

# Counting lines takes half as long again: COVERAGE=no leaves it out.
ifeq ($(COVERAGE),no)
test: $(VENV)/.test
	@$(BIN)/python -m pytest $(ARGS)
else
test: $(VENV)/.test
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS); status=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$status
endif

quick: $(VENV)/.test
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

# Old releases warn of what newer Pythons dropped; here only our own behaviour counts.
test-lowest:
	@$(MAKE) --no-print-directory quick VENV=.venv-lowest CONSTRAINTS=.ci/lowest.txt ARGS='-q -W default $(ARGS)'

lint: $(VENV)/.dev
	@failed=; \
	for check in "ruff check --quiet ." "ruff format --check --quiet ." "mypy --strict" lint-imports; do \
	  $(BIN)/$$check || failed="$$failed [$$check]"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

compatibility: $(VENV)/.test
	@$(BIN)/python -m tests.compat.page

upstream: $(VENV)/.test
	@$(BIN)/python -m tests.upstream $(ARGS)

# Each peer gets an environment of its own (.venv-bench-PEER), made when a row first asks for it.
bench: $(VENV)/.bench
	@$(BIN)/python -m tests.benchmarks $(ARGS)

# pytest-celery redefines a fixture of Celery's own, so it lives apart; without a Docker engine its tests are skipped.
containers:
	@$(MAKE) --no-print-directory .venv-containers/.test VENV=.venv-containers
	@.venv-containers/bin/python -m pip install -qq --disable-pip-version-check 'pytest-celery[redis]>=1.3'
	@.venv-containers/bin/python -m pytest tests/containers -rs -W default $(ARGS)

soak: $(VENV)/.dev $(VENV)/.bench
	@WORKMANAGER_SOAK=20 $(BIN)/python -m pytest tests/story/test_state_machine.py \
	  tests/celery/test_lost_constraints.py::test_readings_that_flip_for_a_minute_lose_nothing \
	  tests/django_site/test_site.py::test_a_transaction_that_is_open_for_a_minute \
	  tests/security/test_fuzz.py tests/security/test_fuzz_messages.py tests/security/test_fuzz_doors.py -q --timeout 7200 $(ARGS)
	@$(BIN)/python -m tests.soak --minutes "$(SOAK_MINUTES)"

chaos: $(VENV)/.test
	@$(BIN)/python -m tests.chaos $(ARGS)

mutants: $(VENV)/.test
	@$(BIN)/python -m tests.mutants $(ARGS)

clean:
	rm -rf .venv .venv-lowest .venv-containers .venv-bench-* .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# --- The environment: made once, looked at again when pyproject.toml changes -------------------------------------

USABLE := import ensurepip, sqlite3, sys, venv; sys.exit(sys.version_info < (3, 11))

define install
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$python" -c '$(USABLE)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "expected $(or $(PYTHON),a Python of at least 3.11) with venv, pip and sqlite3, found none" \
	      "(Debian: apt-get install python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$("$$found" --version) (once) ..."; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[$(1)]'
endef

# Each of these holds what the one before it holds, and more.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	$(call install,demo)
	@touch $@

$(VENV)/.example: pyproject.toml $(CONSTRAINTS)
	$(call install,example)
	@touch $(VENV)/.demo $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS)
	$(call install,test)
	@touch $(VENV)/.demo $(VENV)/.example $@

$(VENV)/.bench: $(VENV)/.test
	$(call install,bench)
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS)
	$(call install,dev)
	@touch $(VENV)/.demo $(VENV)/.example $(VENV)/.test $@
