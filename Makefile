# SPDX-License-Identifier: GPL-2.0-or-later
# On a fresh Debian machine `make demo` and `make test` install what is missing and go.

VENV := .venv
BIN := $(VENV)/bin
# For the C parts of the oVirt packages, the local oVirt and the tests.
PACKAGES := gcc python3-dev python3-venv libxml2-dev qemu-utils qemu-system-common e2fsprogs zstd libnbd-bin btrfs-progs dosfstools mtools ntfs-3g xfsprogs curl exfat-fuse exfatprogs
# The page of `pitr diff --html` is tested in it; 400 MB, which nothing else needs.
BROWSER := chromium
# More workers than this only wait for the disk.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -lt 2 ] && n=2; [ $$n -gt 4 ] && n=4; echo $$n)

.PHONY: help demo test soak fuzz check format docs bench plot venv install-system clean

help:
	@echo "make demo            the whole story on a local oVirt: backups, a disaster, a restore, the proof"
	@echo "make test            all tests (PYTEST='-k name' for some)"
	@echo "make soak            1,000 kills, every power failure, more of all that is random"
	@echo "make fuzz            coverage-guided fuzzing of what reads stored files (FUZZ=-max_total_time=600)"
	@echo "make check           format, lint, types"
	@echo "make format          bring the code into format"
	@echo "make docs            write docs/cli.md again from the commands' help"
	@echo "make bench           measure; the figures of bench/"
	@echo "make plot            docs/performance.svg from the newest figures"
	@echo "make venv            $(VENV) with pitr and all that its development needs"
	@echo "make install-system  Debian's packages, those that are missing"
	@echo "make clean           remove what the others made"

demo: venv
	@$(BIN)/pitr demo

# What is set for a target also holds for what it needs: install-system.
test: PACKAGES += $(BROWSER)
test: venv
	@$(BIN)/pytest -n $(WORKERS) $(PYTEST)

# What is random or sampled in the tests, ten times and more: about half an hour.
soak: venv
	@PITR_SOAK=1 PITR_KILLS=1000 $(BIN)/pytest -n $(WORKERS) tests/faults tests/guest tests/jobs/files $(PYTEST)

# Coverage-guided; FUZZ takes libFuzzer's options.
FUZZ := -max_total_time=600
fuzz: venv
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet atheris
	@export TMPDIR=$$(mktemp -d) && trap 'rm -rf "$$TMPDIR"' EXIT && \
	    $(BIN)/python -m tests.faults.fuzz -artifact_prefix=tests/faults/ $(FUZZ)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: venv
	@new=docs/cli.md.$$$$; $(BIN)/python -m pitr.cli.reference > $$new && mv $$new docs/cli.md || { rm -f $$new; exit 1; }

bench: venv
	@PATH="$(CURDIR)/$(BIN):$$PATH" bench/run $(BENCH)

plot: venv
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]'
	@$(BIN)/python bench/plot.py

venv: install-system $(VENV)/installed

# An older Python than 3.11, or one without venv, is passed over.
$(VENV)/installed: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do \
	        $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	        echo "Making $(VENV) with $$python"; \
	        exec $$python -m venv --clear $(VENV); \
	    done; \
	    echo "No Python of version 3.11 or later is installed" >&2; exit 1; }
	@echo "Installing pitr and its Python packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install-system:
	@missing=; sudo=; \
	if ! command -v dpkg-query >/dev/null; then \
	    for program in gcc qemu-img qemu-nbd qemu-storage-daemon mke2fs zstd nbdcopy curl; do \
	        PATH=$$PATH:/usr/sbin:/sbin command -v $$program >/dev/null || missing="$$missing $$program"; \
	    done; \
	    [ -z "$$missing" ] && exit 0; \
	    echo "Not a Debian machine: install these programs first:$$missing" >&2; exit 1; \
	fi; \
	for package in $(PACKAGES); do \
	    [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] \
	        || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	echo "Installing Debian packages:$$missing"; \
	[ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -q \
	    && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
