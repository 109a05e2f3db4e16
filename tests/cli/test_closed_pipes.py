# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever reads what pitr prints may have enough before it ends: `pitr list | head -1`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.cli.display import tables
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer

_ENDED = 128 + signal.SIGPIPE


@pytest.fixture
def closed() -> Iterator[int]:
    """The end of a pipe that nobody reads from."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def _ended(
    repository: Repository, *words: str, stdout: int, stderr: int
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pitr", *words],
        env={**os.environ, "PITR_REPO": str(repository.path)},
        stdout=stdout,
        stderr=stderr,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("list",),
        ("list", "--output", "json"),
        ("extents", "--help"),
        ("catalog", "query", "SELECT backup_id FROM point"),
    ],
    ids=" ".join,
)
def test_a_command_ends_quietly_when_nobody_reads(
    repository: Repository, words: tuple[str, ...], closed: int
) -> None:
    Writer(repository).add("64k:A")
    done = _ended(repository, *words, stdout=closed, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (_ENDED, b"")


def test_a_failure_that_nobody_reads_ends_quietly_too(repository: Repository, closed: int) -> None:
    assert _ended(repository, "list", "no-such-vm", stdout=closed, stderr=closed).returncode == _ENDED
    # What failed is said where somebody reads it.
    said = _ended(repository, "list", "no-such-vm", "--output", "json", stdout=closed, stderr=subprocess.PIPE)
    assert said.returncode == _ENDED
    assert (
        said.stderr.startswith(b"pitr: the repository holds no backup of a VM")
        and said.stderr.count(b"\n") == 1
    )


def test_the_head_of_a_long_list_is_enough(repository: Repository) -> None:
    # More than a pipe holds: without a reader the list cannot be printed to its end.
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) "
        "SELECT printf('%0100d', i) FROM n"
    )
    command = f'{sys.executable} -m pitr catalog query "{sql}" | head -n 1; echo "${{PIPESTATUS[*]}}"'
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env={**os.environ, "PITR_REPO": str(repository.path), "COLUMNS": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(_ENDED), "0"] and done.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [("list",), ("list", "-o", "json"), ("list", "no-such-vm", "-o", "json")], ids=" ".join
)
def test_output_that_nothing_can_be_written_to_is_said_in_one_line(
    repository: Repository, words: tuple[str, ...], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(repository).add("64k:A")
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("wb") as full:
        done = _ended(repository, *words, stdout=full.fileno(), stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"pitr: cannot write to standard output: No space left on device."
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr


def test_another_pipe_that_breaks_is_not_taken_for_the_output(
    command: Pitr, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(repository).add("64k:A")

    def broken(*_: object, **_options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(tables, "points", broken)
    result = command.run("list")
    assert result.code == 1 and "a defect in pitr: BrokenPipeError" in result.stderr
