# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
#   make demo   the node, a player of the bundled clip and the viewer   ARGS="--seconds 40 --headless"
#   make test   all tests                                               ARGS="test/test_scale.py -k law"
#   make test-fast  without those that take seconds: networks, processes, long drives
#   make chaos  faults of whole processes and 10,000 damaged messages: half an hour
#   make soak   the node for an hour at 30 Hz                            ARGS="--minutes 10 --busy"
#   make test-matrix  the core on the oldest and newest versions         ARGS="oldest-3.11"
#   make audit  versions, licences and advisories of what is depended on
#   make lint   format, lint rules and types
#   make clean  remove what builds and caches left; distclean: the local environment too
#
# The first of them makes ./.venv (a few minutes); after that only what changed is done again.

# The Python of an environment that is there, else the newest that runs (a pyenv shim may not).
works = $(shell $(1) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $(1))
PYTHON ?= $(or $(call works,.venv/bin/python),$(call works,python3.13),$(call works,python3.12),\
	$(call works,python3.11),python3)
bin := .venv/bin

.PHONY: help demo test test-fast chaos soak test-matrix audit lint clean distclean
help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo:
	@$(PYTHON) -B scripts/environment.py run
	@$(bin)/vggt demo $(ARGS)

test:
	@$(PYTHON) -B scripts/environment.py test
	@$(bin)/pytest -n auto --maxprocesses 4 --dist loadscope $(ARGS)

test-fast:
	@$(PYTHON) -B scripts/environment.py test
	@$(bin)/pytest -n auto --maxprocesses 4 --dist loadscope -m "not slow and not chaos" $(ARGS)

chaos:
	@$(PYTHON) -B scripts/environment.py test
	@$(bin)/pytest -m chaos --durations=10 $(ARGS)

soak:
	@$(PYTHON) -B scripts/environment.py test
	@$(bin)/python test/soak/run.py $(ARGS)

test-matrix:
	@$(PYTHON) -B scripts/matrix.py $(ARGS)

audit:
	@$(PYTHON) -B scripts/environment.py test
	@$(bin)/python scripts/audit.py $(ARGS)

lint:
	@$(PYTHON) -B scripts/environment.py test
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/pyright

clean:
	rm -rf build install log .cache .pytest_cache .ruff_cache .venv/build *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean
	rm -rf .venv
