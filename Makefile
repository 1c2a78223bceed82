# Every target does its own set-up: it needs Python 3.11+ and make, nothing else.
# Only relative paths are used, so the checkout may live in a path with spaces.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
TESTS ?= tests
ARGS ?=
OUTAGES := $(addprefix tests/faults/,test_outage_chaos_checker.py test_outage_chaos.py \
  test_power_cut.py test_replica_lag.py test_exactly_once.py test_journal_death.py \
  test_event_chaos.py)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types floors bench faults redis-py-tests up down clean
.NOTPARALLEL:

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | \
	  while IFS='|' read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done

demo: $(VENV)/demo.ok  ## run the crew on an embedded server with two real MCP servers
	$(PY) -m mcp_crew_redis demo $(ARGS)

test: $(VENV)/dev.ok  ## run the whole suite on real servers (TESTS=tests/unit for a part)
	$(PY) -m pytest $(TESTS) $(ARGS)

check: lint types floors test  ## everything CI runs: lint, types, floors, tests

lint: $(VENV)/dev.ok  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/dev.ok  ## mypy strict and pyright
	$(PY) -m mypy
	$(PY) -m mypy tests/typing
	$(PY) -m pyright

floors: $(VENV)/dev.ok  ## imports go down the floors only
	$(VENV)/bin/python -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.argv[1:] = []; run()'

bench: $(VENV)/bench.ok  ## side-by-side benchmarks against the peers
	$(PY) benchmarks/wire.py $(ARGS)
	$(PY) benchmarks/manager.py $(ARGS)
	$(PY) benchmarks/bell.py $(ARGS)
	$(PY) benchmarks/fallback.py
	$(PY) benchmarks/outage.py --quick
	$(PY) benchmarks/events.py --quick

faults: $(VENV)/dev.ok  ## outages at full length: kills, power cuts, failovers, lost replies
	CREW_CHAOS_SECONDS=60 CREW_POWER_CUTS=20 CREW_PROMOTIONS=10 CREW_EXACTLY_ONCE=10000 \
	  $(PY) -m pytest $(OUTAGES) $(ARGS)

redis-py-tests: $(VENV)/dev.ok  ## redis-py's own asyncio command tests, on our class
	$(PY) tests/redis_py_suite.py $(ARGS)

up:  ## start Valkey on port 6380 with Docker Compose
	docker compose up --wait valkey

down:  ## stop what `make up` started
	docker compose down

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- set-up -------------------------------------------------------------------
$(VENV)/pip.ok:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/demo.ok: $(VENV)/pip.ok pyproject.toml
	$(PY) -m pip install --quiet -e '.[embedded,mcp,cli]' --group demo
	@touch $@

$(VENV)/dev.ok: $(VENV)/pip.ok pyproject.toml
	$(PY) -m pip install --quiet -e '.[embedded,mcp,cli,speed]' --group dev
	@touch $@

$(VENV)/bench.ok: $(VENV)/dev.ok pyproject.toml
	$(PY) -m pip install --quiet --group bench
	@touch $@
