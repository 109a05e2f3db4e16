# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of the documents: a writer backs up but removes no point, a keeper prunes but shortens no protection."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pitr.repository import Repository
from pitr.repository.store import StillProtected, buckets
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.locked_store import LockedStore
from tests.support import s3
from tests.support.s3 import host_at

POLICY = (Path(__file__).parents[2] / "docs/examples/bucket-policy.json").read_text()


def test_the_policy_names_both_and_nobody_else() -> None:
    statements = json.loads(POLICY)["Statement"]
    assert {who for each in statements for who in each["Principal"]["AWS"]} == {"WRITER", "KEEPER"}
    for each in statements:
        names_writer = "WRITER" in each["Principal"]["AWS"]
        removes = any(action.startswith("s3:Delete") for action in each["Action"])
        if each["Effect"] == "Allow" and names_writer and removes:
            folders = {resource.split("/")[2] for resource in each["Resource"]}
            assert not folders & {"*", "backups", "blobs", "indexes", "configurations", "marks", "tombstones"}


@pytest.mark.skipif(s3.SERVER_VARIABLE not in os.environ, reason="needs a real gateway: make test-s3")
def test_a_real_gateway_keeps_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = s3.client(s3.server())
    location = s3.place(bucket=f"policy-{os.urandom(4).hex()}", prefix="ovirt")
    owner.create_bucket(Bucket=location.bucket, ObjectLockEnabledForBucket=True)
    policy = POLICY.replace("BUCKET", location.bucket).replace("PREFIX", "ovirt")
    for name in ("writer", "keeper"):
        policy = policy.replace(name.upper(), f"arn:aws:iam:::user/{name}")
    owner.put_bucket_policy(Bucket=location.bucket, Policy=policy)
    with monkeypatch.context() as patched:
        patched.setattr(buckets, "try_out", lambda store: None)
        Repository.create(location, lock=Lock("governance", timedelta(days=1)), grace=timedelta()).close()
    writer, keeper = (
        host_at(replace(location, access_key_id=name), tmp_path / name) for name in ("writer", "keeper")
    )
    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20))
    for day in (1, 2):
        writer("import", "raw", image, "--vm", "web", "--disk", f"d{day}", "--time", f"2026-11-0{day}")
    assert writer.json("verify")["ok"] and len(writer.json("list")["points"]) == 2
    writer("doctor", code=1)
    checks = {each["name"]: each["status"] for each in writer.json("doctor", code=1)["checks"]}
    assert checks["object store"] == "ok"
    # The writer removes nothing, not even without protection.
    as_writer, as_keeper = (
        Repository.open(replace(location, access_key_id=name)).store for name in ("writer", "keeper")
    )
    assert isinstance(as_writer, LockedStore) and isinstance(as_keeper, LockedStore)
    name = next(iter(as_writer.list("blobs")))
    for store in (as_writer, as_keeper):
        with pytest.raises(StillProtected):
            store.delete(name)
    # Neither shortens a protection.
    version = as_keeper.true_version(name).id
    for key in ("writer", "keeper"):
        client = s3.client(s3.server(), key)
        soon = datetime.now(UTC) + timedelta(minutes=1)
        with pytest.raises(ClientError):
            client.put_object_retention(
                Bucket=location.bucket,
                Key=f"ovirt/{name}",
                VersionId=version,
                Retention={"Mode": "GOVERNANCE", "RetainUntilDate": soon},
                BypassGovernanceRetention=True,
            )
        with pytest.raises(ClientError):
            client.delete_object(
                Bucket=location.bucket, Key=f"ovirt/{name}", VersionId=version, BypassGovernanceRetention=True
            )
    assert len(keeper.json("prune", "--keep-last", "1")["removed"]) == 1
    assert keeper.json("protect", "--for", "2d")["extended"] > 0
    as_writer.close()
    as_keeper.close()


@pytest.mark.skipif(s3.SERVER_VARIABLE not in os.environ, reason="needs a real gateway: make test-s3")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
        ({"PITR_REPO": "s3://no-such-bucket/x"}, "no such bucket"),
    ],
)
def test_a_real_gateway_says_what_is_wrong(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    failed = host_at(s3.place(), tmp_path, **changes)("list", code=6)
    assert words in failed.complaint
