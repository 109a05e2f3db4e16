# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository whose objects are locked: what an intruder adds hides nothing, and nothing protected can be removed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import ProgramMissing, UsageError
from pitr.repository import Repository
from pitr.repository.store import ObjectExists, buckets, lock_probe, versions
from pitr.repository.store.lock_rules import Lock, is_protected
from pitr.repository.store.locked_store import LockedStore
from pitr.repository.store.object_errors import AccessRefused, NoSuchBucket, StillProtected, StoreUnreachable
from pitr.repository.store.probe import UnsafeStore
from pitr.repository.store.s3 import S3Location, open_store
from pitr.repository.store.versions import VersionedBucket
from tests.support import s3
from tests.support.hostile_s3 import RefusingProxy
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.s3 import host_at

MiB = 1 << 20
LOCK = Lock("governance", timedelta(days=1))


@pytest.fixture
def location() -> S3Location:
    return s3.place(bucket=s3.LOCKED)


@pytest.fixture
def quick_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trial of the lock wait for nothing; one test keeps the wait."""
    monkeypatch.setattr(buckets, "try_out", lambda store: None)


@pytest.fixture
def locked(location: S3Location, tmp_path: Path, quick_trial: None) -> Pitr:
    """Run the program with a new locked repository."""
    Repository.create(location, lock=LOCK).close()
    return host_at(location, tmp_path / "state")


def _image(path: Path, size: int = 12 * MiB) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def _import(host: Pitr, image: Path, day: str, disk: str = "sys") -> None:
    host("import", "raw", image, "--vm", "web", "--disk", disk, "--time", day)


def _ids(host: Pitr) -> list[str]:
    return [point["backup_id"] for point in host.json("list")["points"]]


def _versions(location: S3Location) -> list[dict[str, Any]]:
    found = s3.client(s3.server()).list_object_versions(Bucket=location.bucket, Prefix=f"{location.prefix}/")
    versions: list[dict[str, Any]] = found.get("Versions") or []
    return versions


def _intrude(location: S3Location, act: Callable[[Any, str], None]) -> list[str]:
    """Let `act` do something to each object that points need; return their keys."""
    client = s3.client(s3.server())
    keys = {each["Key"] for each in _versions(location)}
    hit = sorted(key for key in keys if is_protected(key.removeprefix(f"{location.prefix}/")))
    for key in hit:
        act(client, key)
    return hit


def test_init_tries_out_the_lock_and_keeps_it(location: S3Location, tmp_path: Path) -> None:
    host = host_at(location, tmp_path / "state")
    made = host.json("init", "--lock", "governance:2d")["repository"]
    assert made["lock"] == {"mode": "governance", "period": 2 * 86400}
    [marker] = _versions(location)
    assert marker["Key"] == f"{location.prefix}/repository.json"
    with Repository.open(location) as repository:
        assert repository.lock == Lock("governance", timedelta(days=2))
        assert isinstance(repository.store, LockedStore)
        until = repository.store.protection("repository.json")
    assert until is not None and until > datetime.now(UTC) + timedelta(days=1, hours=23)


@pytest.mark.parametrize(("mode", "words"), [("forever", "compliance:30d"), ("governance:0d", "some time")])
def test_a_lock_that_means_nothing_is_refused(
    location: S3Location, tmp_path: Path, mode: str, words: str
) -> None:
    assert words in host_at(location, tmp_path)("init", "--lock", mode, code=2).complaint


def test_buckets_that_cannot_protect_are_refused_and_left_empty(tmp_path: Path) -> None:
    client = s3.client(s3.server())
    plain = s3.place()
    assert "no versions" in host_at(plain, tmp_path)("init", "--lock", "governance:1d", code=2).complaint
    folder = Pitr({"HOME": str(tmp_path)})("init", str(tmp_path / "r"), "--lock", "governance:1d", code=2)
    assert "S3" in folder.complaint and not (tmp_path / "r").exists()
    retained = replace(plain, bucket=f"retained-{os.urandom(4).hex()}")
    client.create_bucket(Bucket=retained.bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=retained.bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    assert (
        "default retention"
        in host_at(retained, tmp_path)("init", "--lock", "governance:1d", code=2).complaint
    )
    versioned = replace(plain, bucket=f"versioned-{os.urandom(4).hex()}")
    client.create_bucket(Bucket=versioned.bucket)
    client.put_bucket_versioning(Bucket=versioned.bucket, VersioningConfiguration={"Status": "Enabled"})
    assert (
        "no object lock" in host_at(versioned, tmp_path)("init", "--lock", "governance:1d", code=2).complaint
    )
    for each in (plain, retained, versioned):
        assert _versions(each) == []


def test_a_store_that_forgets_protection_is_refused(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_probe, "_PROTECTED", timedelta(seconds=1))
    monkeypatch.setattr(VersionedBucket, "protection", lambda self, name, version: None)
    with pytest.raises(UnsafeStore) as raised:
        Repository.create(location, lock=LOCK)
    assert "does not keep it" in raised.value.message and raised.value.exit_code == 6
    monkeypatch.undo()
    assert s3.keys(location) == set()


def test_all_that_a_point_needs_is_protected(locked: Pitr, location: S3Location, tmp_path: Path) -> None:
    _import(locked, _image(tmp_path / "image"), "2026-11-01")
    client = s3.client(s3.server())
    soon = datetime.now(UTC) + timedelta(hours=23)
    kinds = set()
    for each in _versions(location):
        name = each["Key"].removeprefix(f"{location.prefix}/")
        if not is_protected(name):
            continue
        kinds.add(name.partition("/")[0])
        kept = client.head_object(Bucket=location.bucket, Key=each["Key"], VersionId=each["VersionId"])
        assert kept["ObjectLockRetainUntilDate"] > soon
    assert kinds == {"repository.json", "backups", "blobs", "indexes"}


def test_what_an_intruder_adds_hides_nothing(locked: Pitr, location: S3Location, tmp_path: Path) -> None:
    image = _image(tmp_path / "image")
    _import(locked, image, "2026-11-01")
    before = _ids(locked)

    def act(client: Any, key: str) -> None:
        client.put_object(Bucket=location.bucket, Key=key, Body=b"ransom")
        client.delete_object(Bucket=location.bucket, Key=key)

    assert len(_intrude(location, act)) >= 4
    # Also a host that has never seen the repository.
    new = host_at(location, tmp_path / "new")
    for host in (locked, new):
        assert _ids(host) == before
        host("restore", "web", "--at", "2026-11-01", "--to-file", tmp_path / "out")
        assert_same(tmp_path / "out", image)
        (tmp_path / "out").unlink()
    assert new.json("verify")["ok"]
    _import(locked, _image(tmp_path / "more", MiB), "2026-11-02")
    assert len(_ids(new)) == 2


def test_nothing_protected_is_removed(location: S3Location, tmp_path: Path, quick_trial: None) -> None:
    with Repository.create(location, lock=LOCK) as repository:
        store = repository.store
        assert isinstance(store, LockedStore)
        for name in ("blobs/d/s.sparse.zst", "configurations/1"):
            store.create(name, b"data")
            with pytest.raises(StillProtected):
                store.delete(name)
            assert store.read(name, limit=10) == b"data"
        with pytest.raises(ObjectExists):
            store.create("configurations/1", b"other")
        assert store.read("configurations/1", limit=10) == b"data"
        # Notes are not protected, and leave nothing.
        store.create("commits/20261101/one", b"")
        store.delete("commits/20261101/one")
        assert [each for each in _versions(location) if "/commits/" in each["Key"]] == []


def test_without_boto3_the_extra_is_named(
    locked: Pitr, location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.client_of.cache_clear()
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr(buckets, "find_spec", lambda name: None)
    with pytest.raises(ProgramMissing) as raised:
        Repository.open(location)
    assert "pitr[lock]" in raised.value.advice
    # A repository without a lock needs none.
    open_store(s3.place(), tmp_path).close()


def test_the_lock_is_read_from_the_oldest_marker(locked: Pitr, location: S3Location) -> None:
    client = s3.client(s3.server())
    key = f"{location.prefix}/repository.json"
    client.put_object(Bucket=location.bucket, Key=key, Body=b"{}")
    with Repository.open(location) as repository:
        assert repository.lock == LOCK
    with pytest.raises(UsageError):
        Lock.parse("compliance")


def _protected(location: S3Location) -> dict[str, datetime]:
    """Return until when the oldest version of each protected object is protected, by name."""
    client = s3.client(s3.server())
    found = {}
    for each in _versions(location):
        name = each["Key"].removeprefix(f"{location.prefix}/")
        if is_protected(name):
            head = client.head_object(Bucket=location.bucket, Key=each["Key"], VersionId=each["VersionId"])
            if "ObjectLockRetainUntilDate" in head:
                found[name] = head["ObjectLockRetainUntilDate"]
    return found


def test_protect_extends_the_points_and_status_tells_the_least_time_left(
    locked: Pitr, location: S3Location, tmp_path: Path
) -> None:
    _import(locked, _image(tmp_path / "image", MiB), "2026-11-01")
    planned = locked.json("protect", "--for", "30d", "--dry-run")
    assert (planned["points"], planned["objects"], planned["extended"]) == (1, 4, 4)
    now = datetime.now(UTC)
    assert max(_protected(location).values()) < now + timedelta(days=2)
    assert locked.json("protect", "web", "--for", "30d")["extended"] == 4
    assert min(_protected(location).values()) > now + timedelta(days=29, hours=23)
    # A shorter time changes nothing, and the state of another host is not needed.
    other = host_at(location, tmp_path / "other")
    assert other.json("protect", "--for", "2d")["extended"] == 0
    for host in (locked, other):
        told = host.json("status")["protection"]
        assert (told["mode"] == "governance" and told["vm"] is None) or told["vm"]["name"] == "web"
        assert 29 * 86400 < told["left_s"] < 31 * 86400
    assert "protected for at least 29 days" in locked("status").stdout
    locked("protect", "--until", "2020-01-01", code=2)
    locked("protect", "--until", "2030-01-01", "--for", "1d", code=2)
    plain = host_at(s3.place(), tmp_path / "plain")
    plain("init")
    assert "init" in plain("protect", code=2).complaint and "protection" not in plain.json("status")


def test_an_object_that_is_not_protected_is_a_warning(
    location: S3Location, tmp_path: Path, quick_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.create(location, lock=LOCK).close()
    host = host_at(location, tmp_path / "state")
    with monkeypatch.context() as patched:
        patched.setattr(LockedStore, "stored", lambda self, name: None)
        _import(host, _image(tmp_path / "image", MiB), "2026-11-01")
    told = host.json("status", code=1)["protection"]
    assert told["until"] is None and told["left_s"] == 0 and told["vm"]["name"] == "web"
    assert "is not protected" in host("status", code=1).stdout
    assert "not protected" in host("status", "--output", "nagios", code=1).stdout
    checks = {check["name"]: check for check in host.json("doctor", "--no-probe", code=1)["checks"]}
    assert checks["protection"]["status"] == "warning" and "pitr protect" in checks["protection"]["advice"]
    host("protect")
    assert host.json("status")["ok"]


def test_prune_extends_what_stays_and_removes_nothing_protected(
    location: S3Location, tmp_path: Path, quick_trial: None
) -> None:
    lock = Lock("governance", timedelta(seconds=8))
    Repository.create(location, lock=lock, grace=timedelta(seconds=1)).close()
    host = host_at(location, tmp_path / "state")
    for day in (1, 2):
        # Points of different disks are not based on each other.
        _import(host, _image(tmp_path / f"image{day}", MiB), f"2026-11-0{day}", f"disk{day}")
    host("protect", "--for", "1h")
    pruned = host.json("prune", "--keep-last", "1")
    assert len(pruned["removed"]) == 1 and pruned["protected"]["points"] == 1
    time.sleep(1.5)
    assert host.json("prune", "--keep-last", "1")["swept"] == []
    assert len([name for name in _protected(location) if name.startswith("backups/")]) == 2


def test_a_removed_point_goes_when_its_protection_ends(
    location: S3Location, tmp_path: Path, quick_trial: None
) -> None:
    Repository.create(
        location, lock=Lock("governance", timedelta(seconds=1)), grace=timedelta(seconds=1)
    ).close()
    host = host_at(location, tmp_path / "state")
    for day in (1, 2):
        # Points of different disks are not based on each other.
        _import(host, _image(tmp_path / f"image{day}", MiB), f"2026-11-0{day}", f"disk{day}")
    swept = host.json("prune", "--keep-last", "1")["swept"]
    time.sleep(2.5)
    # On a slow machine the second has passed in the first prune already.
    swept += host.json("prune", "--keep-last", "1")["swept"]
    assert len(swept) == 1
    assert len([name for name in _protected(location) if name.startswith("blobs/")]) == 1
    assert host.json("verify")["ok"]


def test_verify_lists_what_somebody_changed(locked: Pitr, location: S3Location, tmp_path: Path) -> None:
    _import(locked, _image(tmp_path / "image", MiB), "2026-11-01")
    assert locked.json("verify", "--versions") == {
        "ok": True,
        "level": "versions",
        "checked": {"objects": 4},
        "versions": [],
    }
    client = s3.client(s3.server())
    key = f"{location.prefix}/repository.json"
    client.put_object(Bucket=location.bucket, Key=key, Body=b"{}")
    [blob] = [name for name in _protected(location) if name.startswith("blobs/")]
    client.delete_object(Bucket=location.bucket, Key=f"{location.prefix}/{blob}")
    found = {each["object"]: each for each in locked.json("verify", "--versions", code=3)["versions"]}
    assert set(found) == {"repository.json", blob}
    assert found[blob]["deleted"] and found[blob]["overwritten"] == 0
    assert found["repository.json"]["overwritten"] == 1 and not found["repository.json"]["deleted"]
    assert "CHANGED BY SOMEBODY" in locked("verify", "--versions", code=3).stdout
    assert locked.json("verify")["ok"]
    locked("verify", "web", "--versions", code=2)


def test_requests_about_versions_fail_with_the_same_types(location: S3Location, tmp_path: Path) -> None:
    away = replace(location, endpoint="http://127.0.0.1:1")
    with pytest.raises(StoreUnreachable) as raised:
        VersionedBucket(away).has_versions()
    assert raised.value.exit_code == 6 and raised.value.advice
    missing = VersionedBucket(replace(location, bucket="no-such-bucket"))
    with pytest.raises(NoSuchBucket):
        missing.of("repository.json")
    with RefusingProxy(str(location.endpoint)) as proxy:
        proxy.refused = location.prefix
        with pytest.raises(AccessRefused):
            VersionedBucket(replace(location, endpoint=proxy.address)).of("repository.json")
