# SPDX-License-Identifier: GPL-2.0-or-later
# On a fresh Debian machine, `make demo` and `make test` install what is missing and run.

VENV := .venv
BIN := $(VENV)/bin
# pip compiles parts of the oVirt packages.
BUILD_PACKAGES := gcc python3-dev python3-venv libxml2-dev
# The local oVirt of the demo and the tests.
DEMO_PACKAGES := qemu-utils qemu-system-common e2fsprogs
TEST_PACKAGES := age systemd rsync openssl zstd libnbd-bin btrfs-progs dosfstools mtools ntfs-3g xfsprogs curl exfat-fuse exfatprogs qemu-system-x86 ovmf
# The Debian that a test boots. These are only unpacked: nobody wants a second kernel installed.
GUEST_PACKAGES := busybox-static qemu-guest-agent syslinux syslinux-common
GUEST_KERNEL := linux-image-cloud-amd64
# The real gateway for S3 of `make test-s3`.
CEPH_PACKAGES := ceph-mon ceph-osd ceph-common radosgw
# Only the tests of the page of `pitr diff --html` need this package of 400 MB.
BROWSER := chromium
# More workers than this only wait for the disk.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -lt 2 ] && n=2; [ $$n -gt 4 ] && n=4; echo $$n)

# Two runs of apt-get at the same time lock each other out.
.NOTPARALLEL:
.PHONY: help demo test guest test-s3 soak fuzz check format docs man bench bench-check plot bundle venv install-demo install-system install-test install-s3 clean

help:
	@echo "make demo            run the demo on a local oVirt: backups, a disaster, a restore, the proof"
	@echo "make test            run all tests (PYTEST='-k name' selects some)"
	@echo "make test-s3         run the tests of object storage against a real Ceph gateway"
	@echo "make soak            run the random tests for longer: 1,000 kills, every power failure, a fleet"
	@echo "make fuzz            fuzz the readers of stored files, guided by coverage (FUZZ=-max_total_time=600)"
	@echo "make check           check format, lint and types"
	@echo "make format          format the code"
	@echo "make docs            generate docs/cli.md and docs/configuration.md"
	@echo "make bench           run the benchmarks of bench/ (QUICK=1, BENCH=name)"
	@echo "make bench-check     compare counts (requests, bytes, steps) with bench/expected.json (UPDATE=1 writes them)"
	@echo "make plot            draw docs/performance.svg from the newest results"
	@echo "make bundle          build an archive for machines without internet (EXTRAS=files,gateway)"
	@echo "make venv            create $(VENV) with pitr and its development tools"
	@echo "make install-system  install the missing Debian packages"
	@echo "make clean           remove everything that make created"

demo: install-demo $(VENV)/demo
	@$(BIN)/pitr demo

test: install-test $(VENV)/installed guest
	@$(BIN)/pytest -n $(WORKERS) $(PYTEST)

# `make test` runs these tests against a simulated server.
S3_TESTS := tests/repository/test_s3_repository.py tests/repository/test_object_lock.py tests/repository/test_bucket_policy.py tests/repository/store tests/jobs/test_doctor_store.py tests/jobs/replicate/test_buckets.py
test-s3: install-s3 $(VENV)/installed
	@$(BIN)/python -m tests.support.radosgw $(BIN)/pytest -n $(WORKERS) $(S3_TESTS) $(PYTEST)

# Ten times and more of what the tests sample or draw at random: about half an hour.
soak: venv
	@PITR_SOAK=1 PITR_KILLS=1000 $(BIN)/pytest -n $(WORKERS) tests/faults tests/guest tests/jobs/files tests/jobs/rollback tests/ovirt/engine/test_in_place_kills.py $(PYTEST)
	@$(BIN)/python -m tests.fleet.soak --kills 100

# FUZZ takes libFuzzer's options.
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
	@$(BIN)/python -m pitr.cli.man docs/man
	@new=docs/configuration.md.$$$$; $(BIN)/python -m pitr.cli.config_reference > $$new && mv $$new docs/configuration.md || { rm -f $$new; exit 1; }

# The manual pages, which an installation puts into share/man.
man: venv
	@$(BIN)/python -m pitr.cli.man docs/man

bench: venv
	@PATH="$(CURDIR)/$(BIN):$$PATH" bench/run $(BENCH)

# Counts of requests, bytes and steps, which do not depend on the machine. UPDATE=1 writes the new numbers.
bench-check: install-demo $(VENV)/installed
	@$(BIN)/python bench/check.py $(if $(UPDATE),--update)

plot: venv
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]'
	@$(BIN)/python bench/plot.py

# One archive with wheels and an installer, for machines with the same Python and processor as this one.
bundle: venv
	@sh packaging/bundle.sh $(BIN)/python dist $(EXTRAS)

venv: install-system $(VENV)/installed

# The demo needs fewer Python packages than development does.
$(VENV)/demo: EXTRA := lab
$(VENV)/installed: EXTRA := dev
$(VENV)/demo $(VENV)/installed: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do \
	        $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	        echo "Creating $(VENV) with $$python"; \
	        exec $$python -m venv --clear $(VENV); \
	    done; \
	    echo "Python 3.11 or later with its venv module is not installed" >&2; exit 1; }
	@echo "Installing pitr and its Python packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	@touch $@ $(VENV)/demo

# Without them, the test that boots a Debian is skipped. Installed ones are used as they are.
guest: $(VENV)/installed
	@if [ -d $(VENV)/guest ] || { ls /boot/vmlinuz-* && command -v busybox && command -v qemu-ga && command -v syslinux; } >/dev/null 2>&1; then exit 0; fi; \
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 0; \
	new=$(VENV)/guest.$$$$; mkdir -p $$new && cd $$new && \
	    kernel=$$(apt-cache depends $(GUEST_KERNEL) 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p') && \
	    apt-get download -qq $$kernel $(GUEST_PACKAGES) 2>/dev/null && \
	    for package in *.deb; do dpkg-deb -x $$package . && rm $$package || exit 1; done && \
	    mv "$(CURDIR)/$$new" "$(CURDIR)/$(VENV)/guest" || rm -rf "$(CURDIR)/$$new"

install-demo: PACKAGES := $(BUILD_PACKAGES) $(DEMO_PACKAGES)
install-demo: PROGRAMS := gcc qemu-img qemu-nbd qemu-storage-daemon mke2fs
install-system: PACKAGES := $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
install-test: PACKAGES := $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES) $(BROWSER)
install-s3: PACKAGES := $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES) $(CEPH_PACKAGES)
install-s3: PROGRAMS := gcc qemu-img qemu-nbd qemu-storage-daemon mke2fs zstd ceph-mon ceph-osd ceph radosgw radosgw-admin
install-system install-test: PROGRAMS := gcc qemu-img qemu-nbd qemu-storage-daemon mke2fs zstd nbdcopy curl

install-demo install-system install-test install-s3:
	@missing=; sudo=; \
	if ! command -v dpkg-query >/dev/null; then \
	    for program in $(PROGRAMS); do \
	        PATH=$$PATH:/usr/sbin:/sbin command -v $$program >/dev/null || missing="$$missing $$program"; \
	    done; \
	    [ -z "$$missing" ] && exit 0; \
	    echo "This is not a Debian machine. Install these programs first:$$missing" >&2; exit 1; \
	fi; \
	for package in $(PACKAGES); do \
	    [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] \
	        || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" != 0 ]; then \
	    sudo=sudo; \
	    by_root="As root, run: apt-get update && apt-get install -y --no-install-recommends$$missing"; \
	    command -v sudo >/dev/null || { echo "$$by_root" >&2; exit 1; }; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	$$sudo apt-get update -q \
	    && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing \
	    || { [ -z "$$sudo" ] || echo "$$by_root" >&2; exit 1; }

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
