# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in the shell: VM names and point ids of the repository, never an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pitr.model import Record, VMName
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer, backup_of, fake_stream


def _completions(command: Pitr, line: str, **environment: str) -> list[str]:
    words = line.split()
    done = subprocess.run(
        [sys.executable, "-m", "pitr"],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PITR_REPO": str(command.repository),
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
            "_PITR_COMPLETE": "complete_bash",
            "_PYTHON__M_PITR_COMPLETE": "complete_bash",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "", done
    return done.stdout.split()


@pytest.fixture
def filled(repository: Repository) -> Writer:
    writer = Writer(repository)
    writer.add("64k:A")
    return writer


def test_vms_and_points_are_completed(filled: Writer, command: Pitr) -> None:
    backup = filled.backups[0]
    assert _completions(command, "pitr restore w") == ["web"]
    assert _completions(command, "pitr list x") == []
    assert _completions(command, f"pitr show {backup.backup_id[:5]}") == [backup.backup_id]
    assert set(_completions(command, "pitr hold ")) == {"web", backup.backup_id}
    assert _completions(command, f"pitr restore --point {backup.backup_id[:3]}") == [backup.backup_id]
    assert _completions(command, "pitr prune --vm w") == ["web"]
    assert _completions(command, f"pitr --repo {command.repository} list w", PITR_REPO="/nonexistent") == [
        "web"
    ]


def test_policies_are_completed(command: Pitr, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[policy.nightly]\nall = true\n[policy.hourly]\nall = true\n")
    assert _completions(command, "pitr run n", PITR_CONFIG=str(config)) == ["nightly"]
    assert _completions(command, f"pitr --config-file {config} schedule show ") == ["nightly", "hourly"]
    config.write_text("= nonsense")
    assert _completions(command, "pitr run n", PITR_CONFIG=str(config)) == []


def test_a_name_of_two_vms_is_completed_as_their_ids(
    filled: Writer, repository: Repository, command: Pitr
) -> None:
    other = VMName("22222222-0000-4000-8000-000000000002", "web")
    repository.commit(Record(backup_of([fake_stream(7)], vm=other), None))
    found = _completions(command, "pitr list ")
    assert set(found) == {filled.backups[0].vm.id, other.id}


def test_nothing_is_offered_and_no_error_printed_without_a_catalog(
    filled: Writer, command: Pitr, tmp_path: Path
) -> None:
    for place in (tmp_path / "nothing", "s3://bucket/prefix", "host:/path", ""):
        assert _completions(command, "pitr list ", PITR_REPO=str(place)) == []
    (command.repository / "catalog.db").write_bytes(b"no database at all" * 100)
    assert _completions(command, "pitr list ") == []
