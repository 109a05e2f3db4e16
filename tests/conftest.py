# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for tests of all folders: one local oVirt, one daemon of each kind, one program `pitr`."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import settings

from pitr.guest import guestfish
from pitr.lab import Lab
from pitr.lab.host.host import Host
from pitr.repository import Repository
from tests.support.lab import nothing_open
from tests.support.memory_engine import MemoryEngine
from tests.support.pitr import Pitr
from tests.support.sealed import SealedPlace, sealed_place
from tests.support.stored_points import SOAK

_PHASE_LAG_S = 0.01

# A loaded machine makes any example slow. `make soak` tries more of them.
settings.register_profile("pitr", settings(deadline=None, max_examples=1000 if SOAK else 50))
settings.load_profile("pitr")

# A shell starts background jobs with SIGINT ignored, and pitr leaves ignored signals ignored. The programs that the
# tests start must get theirs.
for _signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Create an empty repository."""
    with Repository.create(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture(autouse=True)
def without_libguestfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pitr find no libguestfs, whose VM needs half a minute. Tests of it undo this."""
    monkeypatch.setattr(guestfish, "is_installed", lambda: False)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out fsync, which takes most of the time of a test that writes much and needs no crash safety."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def command(repository: Repository) -> Pitr:
    """Run the program `pitr` with `repository`, in UTC, without a terminal and without an engine."""
    return Pitr({"PITR_REPO": str(repository.path), "TZ": "UTC", "COLUMNS": "140"})


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    """Start one local oVirt for the whole test process."""
    with Lab(phase_lag_s=_PHASE_LAG_S) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """Lend the local oVirt to a test. After it, check that nothing is open, and remove what the test added."""
    state = shared_lab.engine.state
    with state.lock:
        old_vms = set(state.vms)
        old_domains = dict(state.storage_domains)
        old_networks = list(state.networks)
    old_disks = {disk.id for disk in shared_lab.disks}
    shared_lab.engine.forget_requests()
    yield shared_lab
    shared_lab.engine.faults.clear()
    shared_lab.engine.phase_lag_s = _PHASE_LAG_S
    shared_lab.engine.keep_ended(success_s=900, failure_s=1800)
    shared_lab.clock.set(datetime.now().astimezone())
    assert nothing_open(shared_lab)
    assert shared_lab.engine.failures == []
    with state.lock:
        new_vms = [vm_id for vm_id in state.vms if vm_id not in old_vms]
    for vm_id in new_vms:
        vm = shared_lab.vm(vm_id)
        if vm.running:
            vm.stop()
        vm.remove()
    for disk in shared_lab.disks:
        if disk.id not in old_disks:
            disk.delete()
    # A test that adds a storage domain must not make the choice of one ambiguous in the tests after it.
    with state.lock:
        state.storage_domains = old_domains
        state.networks = old_networks


@pytest.fixture
def pitr(lab: Lab, tmp_path: Path) -> Pitr:
    """Run the program `pitr` with the lab's engine, a new repository and an empty configuration file."""
    config = tmp_path / "config.toml"
    config.touch()
    runner = Pitr(
        {
            **lab.environment(),
            "PITR_REPO": str(tmp_path / "backups"),
            "PITR_CONFIG": str(config),
            "COLUMNS": "400",
        }
    )
    runner("init")
    return runner


@pytest.fixture
def memory_engine(monkeypatch: pytest.MonkeyPatch) -> MemoryEngine:
    """Put an engine in memory under the real backup job."""
    engine = MemoryEngine()
    engine.install(monkeypatch)
    return engine


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Make a temporary folder with a path short enough for unix sockets; pytest's paths may be too long."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """Run a real ovirt-imageio daemon with TLS, and a unix socket for clients on this machine."""
    with _short_folder() as folder, Host(folder) as running:
        yield running


@pytest.fixture
def sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_engine: MemoryEngine, quick_disk: None
) -> Iterator[SealedPlace]:
    """Make a sealed repository with two points, on a host that holds no identity."""
    with sealed_place(tmp_path, monkeypatch, memory_engine) as place:
        yield place


@pytest.fixture(scope="session")
def remote_host() -> Iterator[Host]:
    """Run a real ovirt-imageio daemon with TLS and without a unix socket: every client is a remote one."""
    with _short_folder() as folder, Host(folder, unix_socket=False) as running:
        yield running


@pytest.fixture(scope="session")
def plain_host() -> Iterator[Host]:
    """Run a real ovirt-imageio daemon without TLS, for a proxy that reads along."""
    with _short_folder() as folder, Host(folder, tls=False, unix_socket=False) as running:
        yield running
