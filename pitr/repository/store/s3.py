# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores on S3: a place in a bucket, and how to reach it. obstore is an extra: pip install 'pitr[s3]'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from pitr.errors import ProgramMissing, UsageError

if TYPE_CHECKING:
    from pitr.repository.store.lock_rules import Lock
    from pitr.repository.store.object_store import ObjectStore

SCHEME: Final = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]*")
#: One request may take so long, and all its repetitions together.
_REQUEST_TIMEOUT: Final = timedelta(seconds=30)
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_REPEAT: Final = timedelta(seconds=60)
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class S3Location:
    """A folder `prefix` ("" for the whole bucket) of a bucket, and how to reach it.

    Without `endpoint`, the bucket is on AWS. Without a key, obstore asks the machine it runs on for one.
    """

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read s3://BUCKET/PREFIX. Raises UsageError."""
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        parts = prefix.split("/") if prefix else []
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise UsageError(
                f"{url!r} does not name a bucket", "Give s3://BUCKET/PREFIX, for example s3://backups/ovirt."
            )
        if len(prefix) > 512 or not all(_PREFIX_PART.fullmatch(part) for part in parts):
            raise UsageError(
                f"{prefix!r} cannot be a prefix in a bucket",
                "Use letters, digits, '.', '_', '-' and '=', with '/' between folders.",
            )
        return cls(bucket, prefix)

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def with_environment(self, environment: Mapping[str, str]) -> Self:
        """Return the place with the usual AWS variables; what is already set stays. Raises UsageError."""

        def first(*names: str) -> str | None:
            return next((environment[name] for name in names if environment.get(name)), None)

        endpoint = self.endpoint or first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        key = self.access_key_id or first("AWS_ACCESS_KEY_ID")
        if endpoint is not None:
            _check_endpoint(endpoint)
        return replace(
            self,
            endpoint=endpoint,
            region=self.region or first("AWS_REGION", "AWS_DEFAULT_REGION"),
            access_key_id=key,
            secret_access_key=self.secret_access_key or first("AWS_SECRET_ACCESS_KEY"),
            # It belongs to the key of the environment.
            session_token=self.session_token or (None if self.access_key_id else first("AWS_SESSION_TOKEN")),
        )

    def options(self) -> dict[str, Any]:
        """Return the parameters of obstore's S3Store."""
        # A server beside AWS rarely has a host name for each bucket.
        path_style = self.path_style if self.path_style is not None else self.endpoint is not None
        options: dict[str, Any] = {
            "bucket": self.bucket,
            "prefix": self.prefix or None,
            "endpoint": self.endpoint.rstrip("/") if self.endpoint else None,
            "region": self.region or "us-east-1",
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.session_token,
        }
        client = {
            "timeout": _REQUEST_TIMEOUT,
            "connect_timeout": _CONNECT_TIMEOUT,
            # An address that is written with http:// is meant so.
            "allow_http": bool(self.endpoint and self.endpoint.startswith("http://")),
        }
        chosen = {name: value for name, value in options.items() if value is not None}
        return chosen | {"virtual_hosted_style_request": not path_style, "client_options": client}

    def __repr__(self) -> str:
        # The secret must not get into a log or a traceback.
        return f"S3Location({self.url!r}, endpoint={self.endpoint!r})"


def open_store(place: S3Location, state: Path, lock: Lock | None = None) -> ObjectStore:
    """Open the store at `place`; `state` is a local folder for scratch files and copies. The caller closes it.

    `lock`: how it protects objects. Raises ProgramMissing without obstore, or without boto3 where a lock needs it.
    Sends no request.
    """
    try:
        import obstore.store  # noqa: PLC0415 - an extra

        from pitr.repository.store.object_store import ObjectStore  # noqa: PLC0415
    except ImportError as error:
        raise ProgramMissing(
            f"a repository on S3 needs obstore, which is not installed ({error.name})",
            "Install it beside pitr: pip install 'pitr[s3]'.",
        ) from error
    options = place.options()
    try:
        objects, once = (
            obstore.store.S3Store(**options, retry_config={"max_retries": retries, "retry_timeout": _REPEAT})
            for retries in (8, 0)
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise UsageError(f"{place.url} cannot be used: {str(error).partition(chr(10))[0]}") from error
    if lock is None:
        return ObjectStore(objects, once, state)
    from pitr.repository.store.locked_store import LockedStore  # noqa: PLC0415 - few stores have a lock
    from pitr.repository.store.versions import VersionedBucket  # noqa: PLC0415

    return LockedStore(objects, once, state, bucket=VersionedBucket(place), lock=lock)


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"{endpoint!r} cannot be the address of an object store", "Give https://HOST or http://HOST:PORT."
        )
