# SPDX-License-Identifier: GPL-2.0-or-later
"""`--wait-lock`: a command waits for another pitr that works on its VM."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer


@contextmanager
def _locked(repository: Repository, seconds: float) -> Iterator[None]:
    """Hold the lock of the VM's points in another thread, for some seconds."""
    vm = Writer(repository).add("64k:A").vm
    held = threading.Event()

    def hold() -> None:
        with Repository.open(repository.location) as other, other.removing_from_vm(vm):
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize(
    "line", [("verify",), ("prune", "--keep-last", "1"), ("drill", "web", "--digests-only")]
)
def test_a_command_waits_for_the_lock(repository: Repository, command: Pitr, line: tuple[str, ...]) -> None:
    with _locked(repository, 1.5):
        command(*line, code=5)
        command(*line, "--wait-lock", "30s")


def test_the_wait_ends(repository: Repository, command: Pitr) -> None:
    with _locked(repository, 3):
        started = time.monotonic()
        assert "--wait-lock 10m" in command("verify", "--wait-lock", "1s", code=5).complaint
        assert 0.9 <= time.monotonic() - started < 2.9


def test_a_wrong_time_is_refused(command: Pitr) -> None:
    assert "30s" in command("verify", "--wait-lock", "soon", code=2).complaint
