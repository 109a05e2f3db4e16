# SPDX-License-Identifier: GPL-2.0-or-later
"""Versions of objects in a bucket, their protection and their storage classes, through boto3.

obstore moves the data, but knows none of these. boto3 is an extra: pip install 'pitr[lock]'.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pitr.errors import ProgramMissing
from pitr.repository.store import object_errors
from pitr.repository.store.lock_rules import LockMode
from pitr.repository.store.object_errors import AccessRefused, ObjectStoreError, StillProtected
from pitr.repository.store.requests import Requests

if TYPE_CHECKING:
    from pitr.repository.store.s3 import S3Location

T = TypeVar("T")
_CONNECT_S: Final = 10
_REQUEST_S: Final = 30
_ATTEMPTS: Final = 5


class CannotProtect(ObjectStoreError):
    """The store did not protect an object as it was asked to."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object; `id` is "null" for an object from before the bucket had versions."""

    name: str
    id: str
    size: int
    written: datetime
    tag: str
    storage_class: str


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions of an object, the newest first, and the delete markers among them: id and time."""

    name: str
    versions: tuple[Version, ...]
    markers: tuple[tuple[str, datetime], ...]

    @property
    def oldest(self) -> Version | None:
        return self.versions[-1] if self.versions else None


@dataclass(frozen=True, slots=True)
class Protection:
    """The protection of one version."""

    mode: LockMode
    until: datetime


@lru_cache(maxsize=4)
def client_of(place: S3Location) -> Any:
    """Return the client for a location. Raises ProgramMissing."""
    # A client takes a while to make, and several threads may use it.
    try:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise ProgramMissing(
            f"versions, object lock and storage classes need boto3, which is not installed ({error.name})",
            "Install it beside pitr: pip install 'pitr[lock]'.",
        ) from error
    path_style = place.path_style if place.path_style is not None else place.endpoint is not None
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region or "us-east-1",
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        aws_session_token=place.session_token,
        config=Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_REQUEST_S,
            retries={"max_attempts": _ATTEMPTS, "mode": "standard"},
            signature_version="s3v4",
            s3={"addressing_style": "path" if path_style else "virtual"},
            # Older servers do not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        ),
    )


class VersionedBucket:
    """The versions below the prefix of a location. Names are relative to it. Raises ObjectStoreError."""

    def __init__(self, place: S3Location) -> None:
        self._client = client_of(place)
        self._bucket = place.bucket
        self._prefix = f"{place.prefix}/" if place.prefix else ""

    # The bucket

    def has_versions(self) -> bool:
        """Return whether the bucket keeps versions."""
        answer = self._ask(
            "read the settings of the bucket", lambda: self._client.get_bucket_versioning(Bucket=self._bucket)
        )
        return bool(answer.get("Status") == "Enabled")

    def lock_settings(self) -> dict[str, Any] | None:
        """Return the bucket's settings of the object lock; None if it has none."""
        try:
            answer = self._ask(
                "read the settings of the bucket",
                lambda: self._client.get_object_lock_configuration(Bucket=self._bucket),
            )
        except ObjectStoreError as error:
            if "ObjectLockConfigurationNotFound" in error.message or "404" in error.message:
                return None
            raise
        settings: dict[str, Any] = answer.get("ObjectLockConfiguration") or {}
        return settings if settings.get("ObjectLockEnabled") == "Enabled" else None

    # Versions

    def of(self, name: str) -> Versions:
        """Return the versions of an object; none if there never was one."""
        for found in self.listed(name):
            # Longer names that begin with this one follow it.
            if found.name == name:
                return found
            break
        return Versions(name, (), ())

    def listed(self, beginning: str) -> Iterator[Versions]:
        """Yield the versions of all objects whose names begin so, name by name."""
        page: dict[str, Any] = {}
        waiting: dict[str, tuple[list[Version], list[tuple[str, datetime]]]] = {}
        while True:
            answer = self._ask(
                f"list the versions of {beginning}",
                lambda page=page: self._client.list_object_versions(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=self._prefix + beginning, **page
                ),
            )
            for each in answer.get("Versions") or ():
                version = self._version(each)
                waiting.setdefault(version.name, ([], []))[0].append(version)
            for each in answer.get("DeleteMarkers") or ():
                name = str(each["Key"]).removeprefix(self._prefix)
                waiting.setdefault(name, ([], []))[1].append(
                    (str(each["VersionId"]), each["LastModified"].astimezone(UTC))
                )
            more = bool(answer.get("IsTruncated"))
            names = sorted(waiting, key=str.encode)
            # The versions of the last name may go on in the next page.
            for name in names[:-1] if more else names:
                versions, markers = waiting.pop(name)
                yield Versions(name, tuple(versions), tuple(markers))
            if not more:
                return
            page = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}

    def _version(self, each: dict[str, Any]) -> Version:
        return Version(
            name=str(each["Key"]).removeprefix(self._prefix),
            id=str(each["VersionId"]),
            size=int(each["Size"]),
            written=each["LastModified"].astimezone(UTC),
            tag=str(each.get("ETag") or ""),
            storage_class=str(each.get("StorageClass") or "STANDARD"),
        )

    def delete(self, name: str, version_id: str) -> None:
        """Delete a version or a delete marker. Raises StillProtected, AccessRefused."""
        try:
            self._ask(
                f"delete {name}",
                lambda: self._client.delete_object(
                    Bucket=self._bucket, Key=self._prefix + name, VersionId=version_id
                ),
            )
        except AccessRefused:
            protection = self.protection(name, version_id)
            if protection is not None:
                raise StillProtected(name, protection.until) from None
            raise

    # Protection

    def protection(self, name: str, version_id: str) -> Protection | None:
        """Return the protection of a version; None without one, or for a delete marker."""
        # Not every server answers the request for the protection alone.
        try:
            found = self.head(name, version_id)
        except ObjectStoreError as error:
            if "405" in error.message or "MethodNotAllowed" in error.message:
                return None
            raise
        if "ObjectLockRetainUntilDate" not in found:
            return None
        mode: LockMode = "compliance" if found.get("ObjectLockMode") == "COMPLIANCE" else "governance"
        return Protection(mode, found["ObjectLockRetainUntilDate"].astimezone(UTC))

    def protect(self, name: str, version_id: str, wanted: Protection) -> None:
        """Protect a version, at least until the end of that second, and read back that it is. Raises CannotProtect."""
        # Some servers accept whole seconds only.
        until = wanted.until.replace(microsecond=0) + timedelta(seconds=1)
        self._ask(
            f"protect {name}",
            lambda: self._client.put_object_retention(
                Bucket=self._bucket,
                Key=self._prefix + name,
                VersionId=version_id,
                Retention={"Mode": wanted.mode.upper(), "RetainUntilDate": until},
            ),
        )
        found = self.protection(name, version_id)
        if found is None or found.mode != wanted.mode or found.until < until:
            raise CannotProtect(
                f"the object store accepted the protection of {name} but does not keep it",
                "Run 'pitr doctor', which tries out the object lock.",
            )

    # Storage classes

    def head(self, name: str, version_id: str | None = None) -> dict[str, Any]:
        """Return what the store says about an object."""
        version = {"VersionId": version_id} if version_id else {}
        answer: dict[str, Any] = self._ask(
            f"read {name}",
            lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + name, **version),
        )
        return answer

    def warm(self, name: str, days: int, tier: str, version_id: str | None = None) -> None:
        """Ask the store to bring an object back from a cold storage class for some days."""
        version = {"VersionId": version_id} if version_id else {}
        self._ask(
            f"warm {name}",
            lambda: self._client.restore_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": tier}},
                **version,
            ),
        )

    def _ask(self, what: str, request: Callable[[], T]) -> T:
        """Carry out a request; a signal or a cancellation ends the wait for it."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def carry_out() -> None:
            try:
                result = request()
            except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
                _settle(future, error=error)
            else:
                _settle(future, result=result)

        # Not a thread of a pool: Python would wait for it at its end.
        threading.Thread(target=carry_out, name="bucket", daemon=True).start()
        try:
            return Requests.wait(future)
        except ClientError as error:
            answer = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            raise object_errors.of_answer(
                f"cannot {what}",
                object_errors.Answer(
                    int(status) if status else None,
                    answer.get("Code"),
                    str(answer.get("Message") or ""),
                    None,
                ),
            ) from error
        except BotoCoreError as error:
            raise object_errors.failure(f"cannot {what}", error) from error


def _settle(
    future: concurrent.futures.Future[T], *, result: T | None = None, error: BaseException | None = None
) -> None:
    # The waiting thread may have given up.
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
