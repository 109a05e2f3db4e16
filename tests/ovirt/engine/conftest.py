# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.ovirt.engine import Engine
from tests.support.scripted_engine import Script, config_of, serve


@pytest.fixture
def script() -> Iterator[Script]:
    with serve() as script:
        yield script


@pytest.fixture
def engine(script: Script) -> Iterator[Engine]:
    """A connection to the scripted engine that has not logged in yet, with short pauses."""
    engine = Engine(config_of(script), poll_interval_s=0.02, retry_pause_s=0.01)
    yield engine
    engine.close()
