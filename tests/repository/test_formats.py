# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository of another format is refused in one clear line, by every command, and nothing in it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pitr.repository import Repository, canonical
from tests.support.pitr import Pitr
from tests.support.points import Writer

#: The marker that format 1 had.
OLD = {
    "id": "6b4c0f3e-8d3f-4a55-9a34-1d2f6c0b7a10",
    "format": 1,
    "required_features": [],
    "created": "2020-06-29T20:00:00Z",
}
_COMMANDS = (
    ("list",),
    ("list", "web"),
    ("show", "1234"),
    ("backup", "web"),
    ("restore", "web", "--at", "now", "--to-file", "x.raw"),
    ("verify",),
    ("prune", "--keep-last", "1"),
    ("consolidate", "web"),
    ("catalog", "rebuild"),
    ("catalog", "rebuild", "--from-blobs"),
    ("catalog", "check"),
    ("stats",),
    ("status",),
    ("history",),
    ("forget", "1234"),
    ("init",),
)


def snapshot(path: Path) -> dict[str, bytes | None]:
    return {
        str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in path.rglob("*")
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A repository as format 1 laid it out."""
    path = tmp_path / "old"
    for folder in ("backups/vm", "streams/disk", "locks", "tmp", "pending"):
        (path / folder).mkdir(parents=True)
    (path / "repository.json").write_bytes(canonical.encode(OLD))
    (path / "backups/vm/20200629T220000.000000Z-b1.json").write_bytes(canonical.encode({"format": 1}))
    (path / "streams/disk/s1.sparse.zst").write_bytes(b"a blob")
    (path / "streams/disk/s1.index.db").write_bytes(b"an index")
    return path


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_format_1_is_refused_in_one_line_and_nothing_changes(old: Path, command: tuple[str, ...]) -> None:
    pitr = Pitr({"PITR_REPO": str(old), "PITR_ENGINE": "https://engine.invalid", "TZ": "UTC"})
    before = snapshot(old)
    result = pitr.run(*command)
    assert result.code == 1 and snapshot(old) == before
    if command == ("init",):
        assert "is a repository already" in result.complaint
        return
    assert f"the repository in {old} has format 1, which this version no longer reads" in result.complaint
    assert "'pitr init'" in result.complaint
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
    error = pitr.run(*command, "-o", "json").error
    assert "format 1" in error["message"] and error["advice"].startswith("Make a new one")
    assert snapshot(old) == before


def test_objects_of_format_1_in_a_repository_of_format_2_are_none(
    repository: Repository, command: Pitr
) -> None:
    """What another program left there is neither read nor removed."""
    Writer(repository).add("64k:A")
    path = repository.path
    (path / "streams/disk").mkdir(parents=True)
    blob = path / "streams/disk/s1.sparse.zst"
    blob.write_bytes(b"a blob")
    os.utime(blob, (0, 0))
    command("prune", "--keep-last", "5", "--grace", "1h")
    assert command.json("verify")["ok"]
    assert blob.read_bytes() == b"a blob"
