# SPDX-License-Identifier: GPL-2.0-or-later
"""Which HTTP status a failure is, and its document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pitr.errors import (
    BusyError,
    CheckpointGone,
    EngineBusy,
    EngineError,
    FormatError,
    NoSuchError,
    PitrError,
    UsageError,
)
from pitr.ovirt.engine.faults import EngineFault


class Unauthorized(PitrError):
    """The token is missing or wrong."""


class NotFound(PitrError):
    """There is nothing at the path."""


class MethodNotAllowed(PitrError):
    """There is something at the path, and this is not what can be done with it."""


class Conflict(PitrError):
    """What is asked for does not go with the state of the transfer or disk."""


class OutsideOfDisk(PitrError):
    """The range that is asked for holds nothing."""


class NotConfigured(PitrError):
    """This gateway was started without what the request needs."""


class TooManyRequests(PitrError):
    """As many streams as may be are under way."""


#: The first that fits.
_STATUSES: tuple[tuple[type[PitrError], HTTPStatus], ...] = (
    # Failures that only HTTP knows.
    (Unauthorized, HTTPStatus.UNAUTHORIZED),
    (NotFound, HTTPStatus.NOT_FOUND),
    (MethodNotAllowed, HTTPStatus.METHOD_NOT_ALLOWED),
    (Conflict, HTTPStatus.CONFLICT),
    (OutsideOfDisk, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    (NotConfigured, HTTPStatus.NOT_IMPLEMENTED),
    (TooManyRequests, HTTPStatus.SERVICE_UNAVAILABLE),
    # Failures of pitr.
    (FormatError, HTTPStatus.BAD_REQUEST),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NoSuchError, HTTPStatus.NOT_FOUND),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (EngineBusy, HTTPStatus.CONFLICT),
    (CheckpointGone, HTTPStatus.CONFLICT),
    (EngineError, HTTPStatus.BAD_GATEWAY),
)


def status_of(error: BaseException) -> HTTPStatus:
    """The HTTP status that tells a client whose fault it is, and whether another try may help."""
    if isinstance(error, EngineFault) and error.status is not None:
        return _of_fault(error.status)
    return next(
        (status for kind, status in _STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _of_fault(status: int) -> HTTPStatus:
    if status == HTTPStatus.NOT_FOUND:
        return HTTPStatus.NOT_FOUND
    # What the engine refuses as it is now.
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT}:
        return HTTPStatus.CONFLICT
    return HTTPStatus.BAD_GATEWAY


def document_of(error: PitrError) -> dict[str, Any]:
    """The failure as in docs/json.md."""
    advice = " ".join([error.advice, *getattr(error, "__notes__", ())]).strip()
    return {"error": {"type": type(error).__name__, "message": error.message, "advice": advice}}
