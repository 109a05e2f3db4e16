# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploads in parts that a dead host left in a bucket. Their parts are invisible, and cost as much as objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec

from pitr.repository.store.object_errors import ObjectStoreError
from pitr.repository.store.s3 import S3Location


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that began at `begun`, by the store's clock. `name` is that of its object in the repository."""

    name: str
    upload_id: str
    begun: datetime


def unfinished(place: S3Location) -> Iterator[Upload]:
    """Yield the uploads below the location; none without boto3, which is an extra. Raises ObjectStoreError."""
    if find_spec("boto3") is None:
        return
    from pitr.repository.store.versions import client_of  # noqa: PLC0415 - an extra

    prefix = f"{place.prefix}/" if place.prefix else ""
    with _errors("list the unfinished uploads"):
        pages = client_of(place).get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=place.bucket, Prefix=prefix):
            for each in page.get("Uploads", ()):
                begun = each["Initiated"].astimezone(UTC)
                yield Upload(each["Key"].removeprefix(prefix), each["UploadId"], begun)


def abort(place: S3Location, upload: Upload) -> None:
    """Remove the parts of an upload. Raises ObjectStoreError."""
    from pitr.repository.store.versions import client_of  # noqa: PLC0415 - an extra

    key = f"{place.prefix}/{upload.name}" if place.prefix else upload.name
    with _errors(f"end the upload of {upload.name}"):
        client_of(place).abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=upload.upload_id)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ObjectStoreError(f"cannot {what}: {error}", "Is the key allowed to do that?") from error
