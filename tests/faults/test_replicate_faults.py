# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication with a fault at any call, or killed: each point of the copy is whole, and the next run ends it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from pitr.errors import RepositoryError
from pitr.jobs.replicate.outcome import ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.repository import Repository, names
from pitr.repository.location import Location
from pitr.repository.store import Store
from tests.support import s3
from tests.support.faulty_os import BROKEN, DIED, ENDURED, NOT_POSSIBLE, NOT_REACHED, REFUSED, Fault, run
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import (
    SOAK,
    Stored,
    chain_of_three,
    check_contents,
    check_verified,
    unnamed_files,
)

_ENDLESS = 2000
#: CI injects a fault at every so many calls.
_STEP = 1 if SOAK else 19
_WATCH = ReplicateWatch(lambda line: None)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory, where syncs cost nothing; the fault layer knows which data is synced."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def _copy(source: Path, target: Location, *, repair: bool = False) -> int:
    with Repository.open(source) as repository:
        return replicate(repository, target, ReplicateOptions(repair=repair), _WATCH).exit_code


def _check(target: Path, stored: Stored) -> None:
    """Check that what is there is whole, and that the next run completes it and leaves nothing behind."""
    if (target / names.REPOSITORY).exists():
        check_verified(target, at_least=set())
        check_contents(target, stored)
    assert _copy(stored.path, target) == 0
    assert check_verified(target, at_least=set(stored.contents)) == set(stored.contents)
    check_contents(target, stored)
    with Repository.open(target) as repository:
        prune(repository, Retention(last=100), [], grace=timedelta(seconds=-1), notify=lambda line: None)
    assert unnamed_files(target) == set()


@pytest.mark.parametrize("fault", get_args(Fault))
def test_each_point_of_a_copy_is_whole_for_any_failing_call(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    target = tmp_path / "copy"
    injected = 0
    for at in range(1 + get_args(Fault).index(fault), _ENDLESS, _STEP):
        outcome, said = run(partial(_copy, stored.path, target), target, fault, at)
        assert outcome != BROKEN, said
        if outcome == NOT_REACHED:
            break
        if outcome != NOT_POSSIBLE:
            injected += 1
            assert outcome in ((REFUSED, ENDURED) if fault in ("ENOSPC", "EIO") else (DIED,))
            _check(target, stored)
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(tmp_path / "copy.graves", ignore_errors=True)
    assert injected > 4


@pytest.mark.parametrize("fault", ["kill", "ENOSPC", "power"])
def test_a_repair_that_fails_anywhere_makes_nothing_worse(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    harmed = tmp_path / "harmed"
    _copy(stored.path, harmed)
    good = {path.relative_to(harmed): path.read_bytes() for path in harmed.rglob("*.zst")}
    for name in list(good)[::2]:
        (harmed / name).write_bytes(b"damaged")
    target = tmp_path / "copy"
    repair = partial(_copy, stored.path, target, repair=True)
    for at in range(1, _ENDLESS, 1 if SOAK else 5):
        shutil.copytree(harmed, target)
        outcome, said = run(repair, target, fault, at)
        assert outcome != BROKEN, said
        if outcome == NOT_REACHED:
            break
        for name, data in good.items():
            assert (target / name).read_bytes() in (data, b"damaged")
        assert repair() == 0
        assert {name: (target / name).read_bytes() for name in good} == good
        check_verified(target, at_least=set(stored.contents))
        shutil.rmtree(target)
        shutil.rmtree(tmp_path / "copy.graves", ignore_errors=True)
    assert at > 5


class _Failing:
    """A store on S3 whose n-th request fails, before or after its effect."""

    def __init__(self, store: Store, at: int, *, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> object:
        value = getattr(self._store, name)
        if name not in ("create", "new", "read", "size", "open", "list"):
            return value

        def called(*arguments: object, **named: object) -> object:
            self._left -= 1
            if self._left == 0 and self._after:
                value(*arguments, **named)
            if self._left == 0:
                raise RepositoryError("the store failed")
            return value(*arguments, **named)

        return called


@pytest.mark.parametrize("after", [False, True])
def test_a_bucket_that_fails_at_any_request_holds_only_whole_points(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    real = Repository.open
    failed = 0
    for at in range(1, _ENDLESS, 1 if SOAK else 47):
        place = s3.place()

        def failing(location: Location, at: int = at) -> Repository:
            repository = real(location)
            if not isinstance(location, Path):
                repository.store = _Failing(repository.store, at, after=after)  # type: ignore[assignment]
            return repository

        with monkeypatch.context() as patch:
            patch.setattr(Repository, "open", failing)
            try:
                _copy(stored.path, place)
            except RepositoryError:
                failed += 1
            else:
                break
        check_verified(place, at_least=set())  # type: ignore[arg-type]
        assert _copy(stored.path, place) == 0
        assert check_verified(place, at_least=set()) == set(stored.contents)  # type: ignore[arg-type]
    assert failed


def test_a_copy_that_is_killed_again_and_again_comes_to_its_end(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    target = tmp_path / "copy"
    chance = random.Random(5)
    command = [sys.executable, "-m", "pitr", "replicate", str(stored.path), str(target)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    for number in range(40 if SOAK else 6):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        # Python itself answers SIGINT while the program is loaded.
        time.sleep(0.4 + chance.random() * 0.5)
        process.send_signal((signal.SIGKILL, signal.SIGTERM)[number % 2])
        _, said = process.communicate()
        assert "Traceback" not in said, said
        if (target / names.REPOSITORY).exists():
            check_verified(target, at_least=set())
    _check(target, stored)
