# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies from a folder to a bucket, and from there to another one. `make test-s3` runs this on a real gateway."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from pitr.repository import Repository
from pitr.repository.store.s3 import S3Location
from tests.support import counted, s3
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.s3 import host_at

MiB = 1 << 20
POINTS = 3


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(12 * MiB) + bytes(4 * MiB))
    return path


@pytest.fixture
def first(image: Path, tmp_path: Path) -> Pitr:
    """A host with a repository in a folder, of one VM with a few points; also the keys of the buckets."""
    host = host_at(s3.place(), tmp_path / "state", PITR_REPO=str(tmp_path / "first"))
    host("init")
    for day in range(1, POINTS + 1):
        with image.open("r+b") as file:
            file.seek(day * MiB)
            file.write(os.urandom(4096))
        host("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", f"2026-11-0{day}")
    return host


def test_a_folder_goes_to_a_bucket_and_from_there_to_another_one(
    first: Pitr, image: Path, tmp_path: Path
) -> None:
    near, far = s3.place(), s3.place()
    listed = first.json("list")["points"]
    copied = first.json("replicate", tmp_path / "first", near.url)["copied"]
    assert copied["points"] == POINTS
    between = host_at(near, tmp_path / "between")
    Repository.create(far).close()
    with counted.requests() as made:
        document = between.json("replicate", near.url, far.url)
    assert document["behind"] == 0 and document["copied"] == copied
    # Objects cost a read and a write each. What the target has is in lists.
    kinds = Counter(tuple(request.split("/")[0].split()) for request in made)
    objects = 2 * POINTS
    assert kinds["PUT", "blobs"] + kinds["PUT", "indexes"] == objects
    assert kinds["GET", "indexes"] == POINTS
    assert kinds["HEAD", "indexes"] == 0 and kinds["HEAD", "blobs"] <= 2
    assert kinds["LIST", "blobs"] <= 2 and kinds["LIST", "indexes"] <= 2

    with counted.requests() as made:
        again = between.json("replicate", near.url, far.url)
    assert again["copied"] == {"points": 0, "objects": 0, "bytes": 0}
    assert not [request for request in made if "blobs/" in request or "indexes/" in request]

    there = host_at(far, tmp_path / "there")
    assert there.json("list")["points"] == listed
    there("restore", "web", "--at", "now", "--to-file", tmp_path / "out.raw")
    assert_same(tmp_path / "out.raw", image)
    assert there.json("verify")["ok"]


def _damage(place: S3Location) -> list[str]:
    """Truncate one index of a bucket and remove the largest blob."""
    client = s3.client(s3.server())
    index = sorted(s3.keys(place, f"{place.prefix}/indexes/"))[0]
    client.put_object(Bucket=place.bucket, Key=index, Body=b"x")
    blobs = {
        key: client.head_object(Bucket=place.bucket, Key=key)["ContentLength"]
        for key in s3.keys(place, f"{place.prefix}/blobs/")
    }
    blob = max(blobs, key=lambda key: blobs[key])
    client.delete_object(Bucket=place.bucket, Key=blob)
    return sorted(key.removeprefix(f"{place.prefix}/") for key in (index, blob))


def test_damage_in_one_bucket_is_repaired_from_the_other(first: Pitr, tmp_path: Path) -> None:
    near, far = s3.place(), s3.place()
    first("replicate", tmp_path / "first", near.url)
    between = host_at(near, tmp_path / "between")
    between("replicate", near.url, far.url)
    _damage(far)
    there = host_at(far, tmp_path / "there")
    assert not there.json("verify", code=3)["ok"]
    repaired = between.json("replicate", "--repair", near.url, far.url)
    assert len(repaired["repaired"]) == 2
    assert there.json("verify")["ok"]

    _damage(near)
    # Damage of the source is named, and the rest is copied.
    third = s3.place()
    document = between.json("replicate", near.url, third.url, code=3)
    assert document["damage"] and document["behind"] == POINTS
    assert between.json("replicate", "--repair", far.url, near.url)["repaired"]
    assert between.json("replicate", near.url, third.url)["behind"] == 0
