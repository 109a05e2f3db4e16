# SPDX-License-Identifier: GPL-2.0-or-later
"""A point by its id, or by its VM and a time: the same for the commands that look at points."""

from __future__ import annotations

from typing import Any

import pytest

from pitr import times
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer

_COMMANDS = [("show",), ("extents",), ("drill", "--digests-only"), ("verify",)]


@pytest.fixture
def points(repository: Repository) -> list[Backup]:
    writer = Writer(repository)
    return [writer.add("64k:A"), writer.add("64k:B")]


def _streams(document: dict[str, Any]) -> Any:
    """The point that a document is about."""
    if "checked" in document:
        return document["checked"]["points"]
    if "extents" in document:
        return {part["backup_id"] for part in document["extents"]}
    return document["point"]["backup_id"]


@pytest.mark.parametrize("words", _COMMANDS, ids=" ".join)
def test_id_vm_and_time_and_option_name_the_same_point(
    command: Pitr, points: list[Backup], words: tuple[str, ...]
) -> None:
    first, second = points
    at = times.to_text(first.point)
    documents = [
        _streams(command.json(*words, *named))
        for named in (
            (first.backup_id,),
            (first.backup_id[:8],),
            ("--point", first.backup_id),
            (first.vm.name, "--point", first.backup_id),
            (first.vm.name, "--at", at),
            (first.vm.id, "--at", at),
            ("--at", at),
        )
    ]
    assert all(document == documents[0] for document in documents), documents
    assert documents[0] in (first.backup_id, {first.backup_id}, 1)
    newest = _streams(command.json(*words, second.vm.name))
    # Verify takes the whole VM.
    assert newest in (second.backup_id, {second.backup_id}, 2)
    command(*words, "nosuch", code=4)
    command(*words, "nosuch", "--at", "now", code=4)
    command(*words, first.vm.name, "--at", "now", "--point", first.backup_id, code=2)


@pytest.mark.parametrize("name", ["show", "extents"])
def test_without_a_point_or_vm_the_command_says_what_to_give(command: Pitr, name: str) -> None:
    assert "--at" in command(name, code=2).complaint
