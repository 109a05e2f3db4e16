# SPDX-License-Identifier: GPL-2.0-or-later
"""The failures of object stores, from the answers of their servers: what failed, why, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pitr.errors import RepositoryError

_CODE = re.compile(r"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]{1,500}?)\s*</Message>")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
#: The cause of a request without an answer, as the HTTP library words it.
_CAUSES: Final = (
    ("certificate", "tls"),
    ("InvalidContentType", "tls"),
    ("tls", "tls"),
    ("dns error", "unknown host"),
    ("failed to lookup", "unknown host"),
    ("Connection refused", "refused"),
    ("timed out", "timeout"),
    ("timeout on endpoint", "timeout"),
    ("could not connect", "refused"),
    ("operation timed out", "timeout"),
)


class ObjectStoreError(RepositoryError):
    """The object store refused, failed or is unreachable."""

    exit_code = 6


class AccessRefused(ObjectStoreError):
    """The object store does not accept the key, its secret or its rights."""


class ClockSkew(ObjectStoreError):
    """The object store refuses requests whose time differs too much from its own clock."""


class NoSuchBucket(ObjectStoreError):
    """The object store has no such bucket."""


class WrongRegion(ObjectStoreError):
    """The bucket is in another region, or at another address."""


class StoreFull(ObjectStoreError):
    """The object store or the quota is full."""


class Throttled(ObjectStoreError):
    """The object store asks for fewer requests."""


class StoreUnreachable(ObjectStoreError):
    """No answer came from the object store."""


class StillProtected(ObjectStoreError):
    """The object lock of the store refuses the removal of an object."""

    def __init__(self, name: str, until: datetime) -> None:
        super().__init__(
            f"{name} is protected until {until.isoformat(timespec='seconds')}", "Remove it after that."
        )
        self.until = until


class ColdObject(ObjectStoreError):
    """An object is in a cold storage class, and the store must bring it back before it can be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the text of an obstore error says. `code` is S3's error code, `cause` why no answer came."""

    status: int | None
    code: str | None
    message: str
    cause: str | None

    @property
    def in_words(self) -> str:
        """The code, and what the server says about it."""
        code = self.code or str(self.status)
        return f"{code}: {self.message}" if self.message else code

    @property
    def is_definite(self) -> bool:
        """Whether the server has certainly not carried out the request, and will not after a retry."""
        return self.status is not None and self.status < 500 and self.status not in (408, 429)


def parse(error: Exception) -> Answer:
    """Read the answer of the server from an error of obstore."""
    text = str(error)
    status = _STATUS.search(text)
    code = _CODE.search(text)
    message = _MESSAGE.search(text)
    cause = None
    if status is None:
        lowered = text.lower()
        cause = next((name for words, name in _CAUSES if words.lower() in lowered), "no answer")
    # Without an answer, the first line of obstore's text says why; else the server's own words do, if it has any.
    words = message[1] if message else "" if code or status else text.partition("\n")[0][:300]
    return Answer(int(status[1]) if status else None, code[1] if code else None, words, cause)


_KEY_ADVICE = (
    "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or [repository] in the configuration, and the rights of "
    "the key."
)
_BY_CODE: Final[dict[str, tuple[type[ObjectStoreError], str, str]]] = {
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidToken", "ExpiredToken"),
        (AccessRefused, "the object store refuses the access key", _KEY_ADVICE),
    ),
    "RequestTimeTooSkewed": (
        ClockSkew,
        "the clocks of this machine and of the object store differ too much",
        "Set the clock of this machine, for example with chrony.",
    ),
    "InvalidObjectState": (
        ColdObject,
        "it is in a cold storage class",
        "Ask for the data with 'pitr warm VM --at TIME --wait', and repeat the command then.",
    ),
    "NoSuchBucket": (
        NoSuchBucket,
        "the object store has no such bucket",
        "Create the bucket, or name another one with --repo s3://BUCKET/PREFIX.",
    ),
    **dict.fromkeys(
        (
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraintException",
            "TemporaryRedirect",
        ),
        (
            WrongRegion,
            "the bucket is in another region",
            "Set AWS_REGION, or region in [repository] of the configuration.",
        ),
    ),
    **dict.fromkeys(
        (
            "QuotaExceeded",
            "XMinioStorageFull",
            "InsufficientStorage",
            "InsufficientCapacity",
        ),
        (StoreFull, "the object store is full", "Free some space (see 'pitr prune'), or raise the quota."),
    ),
    **dict.fromkeys(
        (
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "TooManyRequests",
            "ServiceUnavailable",
        ),
        (
            Throttled,
            "the object store asks for fewer requests",
            "Run fewer jobs or workers at once, or try later.",
        ),
    ),
}
_BY_STATUS: Final = {
    301: "PermanentRedirect",
    307: "PermanentRedirect",
    401: "AccessDenied",
    403: "AccessDenied",
    429: "SlowDown",
    503: "SlowDown",
    507: "InsufficientStorage",
}
_BY_CAUSE: Final = {
    "tls": (
        "the TLS connection to the object store failed",
        "Check the address in AWS_ENDPOINT_URL_S3, and that this machine trusts the certificate's issuer "
        "(SSL_CERT_FILE). http:// is without TLS.",
    ),
    "unknown host": (
        "the name of the object store is unknown",
        "Check AWS_ENDPOINT_URL_S3; a store beside AWS usually needs the path style.",
    ),
    "refused": ("the object store is unreachable: connection refused", "Check AWS_ENDPOINT_URL_S3."),
    "timeout": ("the object store does not answer in time", "Check the network, and try again."),
    "no answer": ("the object store is unreachable", "Check AWS_ENDPOINT_URL_S3 and the network."),
}


def failure(what: str, error: Exception) -> ObjectStoreError:
    """Return the failure for people. `what` says what pitr was doing ("cannot write NAME")."""
    return of_answer(what, parse(error))


def of_answer(what: str, answer: Answer) -> ObjectStoreError:
    """Return the failure for people that an answer means, or that came without one."""
    if answer.cause is not None:
        why, advice = _BY_CAUSE[answer.cause]
        return StoreUnreachable(f"{what}: {why} ({answer.message})", advice)
    code = answer.code if answer.code in _BY_CODE else _BY_STATUS.get(answer.status or 0)
    if code is not None:
        kind, why, advice = _BY_CODE[code]
        return kind(f"{what}: {why} ({answer.in_words})", advice)
    return ObjectStoreError(f"{what}: the object store answers {answer.in_words}")
