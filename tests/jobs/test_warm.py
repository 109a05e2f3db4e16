# SPDX-License-Identifier: GPL-2.0-or-later
"""Data in a cold storage class: commands say so before they begin, and `pitr warm` asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs import warm
from pitr.repository.store.s3 import S3Location
from tests.support import s3
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.s3 import host_at

MiB = 1 << 20


@pytest.fixture
def location() -> S3Location:
    return s3.place()


@pytest.fixture
def cold(location: S3Location, tmp_path: Path) -> Pitr:
    """Run the program with two points of one disk, the older one of which is in a cold class."""
    host = host_at(location, tmp_path / "state")
    host("init")
    for day in (1, 2):
        image = tmp_path / f"image{day}"
        image.write_bytes(os.urandom(2 * MiB))
        host("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", f"2026-11-0{day}")
        if day == 1:
            for key in s3.keys(location):
                if key.removeprefix(f"{location.prefix}/").startswith("blobs/"):
                    _move(location, key)
    return host


def _move(location: S3Location, key: str) -> None:
    """Do what a lifecycle rule does."""
    s3.client(s3.server()).copy_object(
        Bucket=location.bucket,
        Key=key,
        CopySource={"Bucket": location.bucket, "Key": key},
        StorageClass="GLACIER",
        MetadataDirective="COPY",
    )


def _restore(host: Pitr, folder: Path, *more: str, code: int = 0) -> Any:
    return host("restore", "web", "--at", "2026-11-01", "--to-file", folder / "out", *more, code=code)


def test_a_cold_point_is_told_before_anything_is_written(cold: Pitr, tmp_path: Path) -> None:
    for more in ((), ("--dry-run",)):
        refused = _restore(cold, tmp_path, *more, code=6)
        assert "1 blob (2 MiB)" in refused.complaint and "cold storage class" in refused.complaint
        assert "pitr warm --point" in refused.complaint and not (tmp_path / "out").exists()
    assert cold.run("export", "web", "--at", "2026-11-01", "--to", tmp_path / "stream").code == 6
    assert cold.run("drill", "web", "--at", "2026-11-01", "--digests-only").code == 6
    assert "cold storage class" in cold("verify", code=6).complaint
    # It is no damage, and other points are not concerned.
    assert not any(point["damaged"] for point in cold.json("list")["points"])
    cold("restore", "web", "--at", "2026-11-02", "--to-file", tmp_path / "other")
    assert_same(tmp_path / "other", tmp_path / "image2")


def test_warm_asks_for_what_the_point_needs(cold: Pitr, location: S3Location, tmp_path: Path) -> None:
    planned = cold.json("warm", "web", "--at", "2026-11-01", "--dry-run")
    [name] = planned["asked"]
    assert name.startswith("blobs/") and planned["bytes"] > 2 * MiB and planned["ready"] == 0
    _restore(cold, tmp_path, code=6)
    assert cold.json("warm", "web", "--at", "2026-11-01", "--days", "2", "--wait")["asked"] == [name]
    assert "can be read" in cold("warm", "web", "--at", "2026-11-01").stdout
    _restore(cold, tmp_path)
    assert_same(tmp_path / "out", tmp_path / "image1")
    assert cold.json("warm", "web")["ready"] == 1


def test_the_wait_ends_when_all_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["waiting", "waiting", "ready"])
    told: list[str] = []
    slept: list[float] = []
    monkeypatch.setattr(warm, "_state", lambda bucket, blob: next(states))
    warm._wait(None, [warm._Blob("blobs/d/s", 1, None)], told.append, slept.append)  # type: ignore[arg-type]
    assert len(slept) == 2 and len(told) == 1


@pytest.mark.parametrize(
    ("head", "state"),
    [
        ({}, "ready"),
        ({"StorageClass": "STANDARD_IA"}, "ready"),
        ({"StorageClass": "GLACIER"}, "cold"),
        ({"StorageClass": "DEEP_ARCHIVE", "Restore": 'ongoing-request="true"'}, "waiting"),
        ({"StorageClass": "GLACIER", "Restore": 'ongoing-request="false", expiry-date="x"'}, "ready"),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, "cold"),
    ],
)
def test_what_the_store_says_of_a_blob(head: dict[str, str], state: str) -> None:
    class Bucket:
        def head(self, name: str, version: str | None) -> dict[str, str]:
            return head

    assert warm._state(Bucket(), warm._Blob("blobs/d/s", 1, None)) == state  # type: ignore[arg-type]


def test_a_folder_has_no_cold_data(command: Pitr, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(MiB))
    command("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    assert "folder" in command("warm", "web", code=2).complaint
