# SPDX-License-Identifier: GPL-2.0-or-later
"""An S3 server on this machine (moto), and stores on it and in memory."""

from __future__ import annotations

import logging
import uuid
from functools import cache
from pathlib import Path

import boto3
import obstore.store
from moto.server import ThreadedMotoServer

from pitr.repository.store import Store
from pitr.repository.store.object_store import ObjectStore
from pitr.repository.store.s3 import S3Location, open_store
from tests.support.pitr import Pitr

BUCKET = "backups"


@cache
def server() -> str:
    """Start the server once for this process, with the bucket; return its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    client(address).create_bucket(Bucket=BUCKET)
    return address


def client(address: str):  # type: ignore[no-untyped-def]
    """Return the client of another library, which shows what the server holds."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


def place(prefix: str | None = None) -> S3Location:
    """Return a new place on the server."""
    return S3Location(
        BUCKET,
        prefix or f"test/{uuid.uuid4()}",
        endpoint=server(),
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
    )


def host(location: S3Location, state: Path, **environment: str) -> Pitr:
    """Run the program on a host with its own `state`, with the repository at `location`."""
    return Pitr(
        {
            "PITR_REPO": location.url,
            "AWS_ENDPOINT_URL_S3": str(location.endpoint),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "XDG_STATE_HOME": str(state),
            "TZ": "UTC",
            "COLUMNS": "140",
            **environment,
        }
    )


def keys(location: S3Location, prefix: str | None = None) -> set[str]:
    """Return the keys below a prefix of the bucket; that of the location for None."""
    found: set[str] = set()
    for page in (
        client(server())
        .get_paginator("list_objects_v2")
        .paginate(Bucket=location.bucket, Prefix=location.prefix if prefix is None else prefix)
    ):
        found |= {each["Key"] for each in page.get("Contents", ())}
    return found


def s3_store(state: Path) -> Store:
    """Return an empty store on the server."""
    return open_store(place(), state)


def memory_store(state: Path) -> Store:
    """Return an empty store in memory."""
    objects = obstore.store.MemoryStore()
    return ObjectStore(objects, objects, state)
