# SPDX-License-Identifier: GPL-2.0-or-later
"""An S3 server on this machine (moto, or the one that PITR_TEST_S3 names), and stores on it and in memory."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import obstore.store
from moto.server import ThreadedMotoServer

from pitr.repository.store import Store
from pitr.repository.store.object_store import ObjectStore
from pitr.repository.store.s3 import S3Location, open_store
from tests.support.pitr import Pitr

BUCKET = "backups"
#: A bucket with versions and object lock.
LOCKED = "locked-backups"
KEY = "key"
SECRET = "secret"
#: The variable with the address of a real server, where KEY and SECRET are a user's.
SERVER_VARIABLE = "PITR_TEST_S3"


@cache
def server() -> str:
    """Return the address of the server, which has the bucket. Without a real one, start moto once for this process."""
    address = os.environ.get(SERVER_VARIABLE) or _moto()
    made = client(address)
    made.create_bucket(Bucket=BUCKET)
    with suppress(made.exceptions.BucketAlreadyOwnedByYou, made.exceptions.BucketAlreadyExists):
        made.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    return address


def _moto() -> str:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    served = running._server
    assert served is not None
    application, creating = served.app, threading.Lock()

    def atomic(environ: dict[str, Any], start_response: Any) -> Any:
        """moto looks whether the name is free and then stores: without the lock, two writers at once can succeed."""
        with creating if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
            return application(environ, start_response)

    served.app = atomic
    _, port = running.get_host_and_port()
    return f"http://127.0.0.1:{port}"


def client(address: str, key: str = KEY):  # type: ignore[no-untyped-def]
    """Return the client of another library, which shows what the server holds."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=SECRET,
    )


def place(prefix: str | None = None, bucket: str = BUCKET) -> S3Location:
    """Return a new place on the server."""
    return S3Location(
        bucket,
        prefix or f"test/{uuid.uuid4()}",
        endpoint=server(),
        region="us-east-1",
        access_key_id=KEY,
        secret_access_key=SECRET,
    )


def host_at(location: S3Location, state: Path, **environment: str) -> Pitr:
    """Return the program on a host of its own, whose state is in `state`, with the repository at the location."""
    return Pitr(
        {
            "PITR_REPO": location.url,
            "AWS_ENDPOINT_URL_S3": str(location.endpoint),
            "AWS_ACCESS_KEY_ID": str(location.access_key_id),
            "AWS_SECRET_ACCESS_KEY": str(location.secret_access_key),
            "AWS_REGION": "us-east-1",
            "XDG_STATE_HOME": str(state),
            "TZ": "UTC",
            "COLUMNS": "140",
            **environment,
        }
    )


def keys(location: S3Location, prefix: str | None = None) -> set[str]:
    """Return the keys below the location, or below another prefix of its bucket."""
    pages = client(server()).get_paginator("list_objects_v2")
    found: set[str] = set()
    for page in pages.paginate(Bucket=location.bucket, Prefix=location.prefix if prefix is None else prefix):
        found |= {each["Key"] for each in page.get("Contents", ())}
    return found


def s3_store(state: Path) -> Store:
    """Return an empty store on the server."""
    return open_store(place(), state)


def memory_store(state: Path) -> Store:
    """Return an empty store in memory."""
    objects = obstore.store.MemoryStore()
    return ObjectStore(objects, objects, state)
