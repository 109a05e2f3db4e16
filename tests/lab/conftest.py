# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.lab import Lab
from pitr.lab.host import Host
from tests.support.lab_host import children_of
from tests.support.sdk_client import Client


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets; pytest's own are too long."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as name:
        yield Path(name)


@pytest.fixture
def new_host(folder: Path) -> Iterator[Host]:
    """A host; the fixture checks that it leaves no process and no socket behind."""
    before = set(children_of(os.getpid()))
    with Host(folder) as new_host:
        yield new_host
    assert set(children_of(os.getpid())) <= before
    assert [path for path in folder.rglob("*") if path.is_socket()] == []


@pytest.fixture
def new_lab() -> Iterator[Lab]:
    """A fast local oVirt; the fixture checks that it ends without errors and leftovers."""
    before = set(children_of(os.getpid()))
    with Lab(phase_lag_s=0.01) as new_lab:
        yield new_lab
        assert new_lab.engine.failures == []
    assert set(children_of(os.getpid())) <= before
    assert not new_lab.cafile.exists()


@pytest.fixture
def client(new_lab: Lab) -> Iterator[Client]:
    """The unmodified SDK, logged in."""
    with Client(new_lab) as client:
        yield client


@pytest.fixture
def shared_client(lab: Lab) -> Iterator[Client]:
    """The unmodified SDK, logged in to the engine of the shared lab."""
    with Client(lab) as client:
        yield client
