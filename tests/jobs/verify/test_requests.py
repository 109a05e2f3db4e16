# SPDX-License-Identifier: GPL-2.0-or-later
"""How many requests a quick check of points in a bucket sends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, names
from tests.support import counted, s3
from tests.support.points import Writer


def test_each_object_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Repository.create(s3.place()) as repository:
        writer = Writer(repository)
        for _ in range(3):
            writer.add("64k:A 64k:0" if not writer.backups else "64k:B 64k:-")
        repository.forget_catalog()
        assert repository.catalog.points()
        with counted.requests() as made:
            verified = verify(repository, Scope(), "quick")
        assert verified.ok and verified.streams == 3
        of_kind = Counter(request.split("/")[0] for request in made)
        read = {kind: number for kind, number in of_kind.items() if not kind.startswith("LIST")}
        assert read == {"GET backups": 3, "GET indexes": 3, "GET blobs": 3, "GET configurations": 1}


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_damage_of_a_blob_in_a_bucket_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Repository.create(s3.place()) as repository:
        stream = Writer(repository).add("64k:A 64k:0").streams[0]
        name = names.blob(stream.disk_id, stream.stream_id)
        repository.store.delete(name)
        if content is not None:
            repository.store.create(name, content)
        [damage] = verify(repository, Scope(), "quick").damage
        assert (damage.what, damage.kind) == ("blob", "missing" if content is None else "truncated")
