# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.lab import Lab
from tests.support.pitr_server import PitrServer


@pytest.fixture(scope="module")
def remote_lab() -> Iterator[Lab]:
    """A local oVirt with short phases, for pitr processes."""
    with Lab(phase_lag_s=0.01, unix_socket=False) as remote_lab:
        yield remote_lab
        assert remote_lab.engine.failures == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def server(remote_lab: Lab, folder: Path) -> Iterator[PitrServer]:
    """Runs real pitr processes with the lab's engine and the module's own repository."""
    environment = {**remote_lab.environment(), "PITR_REPO": str(folder / "repository"), "TZ": "UTC"}
    with PitrServer(environment, folder) as server:
        assert server.run("init").code == 0
        yield server
