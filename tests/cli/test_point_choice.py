# SPDX-License-Identifier: GPL-2.0-or-later
"""Which point --at and --point name: the same for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer, record_path

#: What needs a point, without saying which one.
_NEEDS_A_POINT = [
    ("restore", "--to-file", "OUT"),
    ("export", "--to", "OUT"),
    ("serve", "--run", "exit 0"),
    ("files", "ls"),
]
_KNOWS_THE_NEWEST = [("drill", "--digests-only"), ("verify",)]


def _words(words: tuple[str, ...], tmp_path: Path) -> list[str]:
    return [str(tmp_path / "out") if word == "OUT" else word for word in words]


@pytest.mark.parametrize("words", _NEEDS_A_POINT, ids=" ".join)
def test_one_of_at_and_point_is_needed(command: Pitr, words: tuple[str, ...], tmp_path: Path) -> None:
    complaint = command(*_words(words, tmp_path), code=2).complaint
    assert "needs --at or --point. Give --at 2020-06-30T22:00, or --point" in complaint


@pytest.mark.parametrize("words", _NEEDS_A_POINT + _KNOWS_THE_NEWEST, ids=" ".join)
def test_both_exclude_each_other(command: Pitr, words: tuple[str, ...], tmp_path: Path) -> None:
    complaint = command(*_words(words, tmp_path), "--at", "now", "--point", "1c2d", code=2).complaint
    assert "--at and --point exclude each other" in complaint


@pytest.mark.parametrize("words", _NEEDS_A_POINT + _KNOWS_THE_NEWEST, ids=" ".join)
def test_an_older_point_never_stands_in_for_a_lost_one(
    command: Pitr, repository: Repository, words: tuple[str, ...], tmp_path: Path
) -> None:
    writer = Writer(repository)
    first, second = writer.add("64k:A"), writer.add("64k:B")
    record_path(repository, second).write_bytes(b"damaged")
    # What the catalog has never known is not missed in it.
    (repository.path / "catalog.db").unlink()
    given = _words(words, tmp_path)
    refused = command(*given, "--at", "now", code=3)
    assert second.backup_id in refused.complaint and not (tmp_path / "out").exists()
    command(*given, "--point", first.backup_id)


def test_a_difference_is_not_one_to_an_older_point_either(command: Pitr, repository: Repository) -> None:
    writer = Writer(repository)
    points = [writer.add("64k:A"), writer.add("64k:B"), writer.add("64k:C")]
    record_path(repository, points[2]).write_bytes(b"damaged")
    (repository.path / "catalog.db").unlink()
    first, second = (point.backup_id for point in points[:2])
    assert points[2].backup_id in command("diff", "--point", first, "--at", "now", code=3).complaint
    refused = command("files", "diff", "--point", first, "--since", "now", code=3)
    assert points[2].backup_id in refused.complaint
    command("diff", "--point", first, "--point", second)
