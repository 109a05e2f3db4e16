# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP status of a failure, and its document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pitr.errors import (
    BusyError,
    CheckpointGone,
    EngineBusy,
    EngineError,
    FormatError,
    NamesSealed,
    NoFittingIdentity,
    NoSuchError,
    PitrError,
    UsageError,
)
from pitr.ovirt.engine.faults import EngineFault


class Unauthorized(PitrError):
    """The token is missing or wrong."""


class NotFound(PitrError):
    """The path is unknown."""


class MethodNotAllowed(PitrError):
    """The path exists, but does not support this method."""


class Conflict(PitrError):
    """The request conflicts with the state of the transfer or disk."""


class OutsideOfDisk(PitrError):
    """The requested range is outside the disk."""


class NotConfigured(PitrError):
    """The gateway was started without the engine or repository that the request needs."""


class TooManyRequests(PitrError):
    """The maximum number of streams is reached."""


#: The first matching type decides.
_STATUSES: tuple[tuple[type[PitrError], HTTPStatus], ...] = (
    # Failures of HTTP requests.
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
    # The gateway holds no identity that opens what was asked for.
    (NoFittingIdentity, HTTPStatus.FORBIDDEN),
    (NamesSealed, HTTPStatus.FORBIDDEN),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (EngineBusy, HTTPStatus.CONFLICT),
    (CheckpointGone, HTTPStatus.CONFLICT),
    (EngineError, HTTPStatus.BAD_GATEWAY),
)


def status_of(error: BaseException) -> HTTPStatus:
    """Return the HTTP status that tells a client who must act, and whether a retry may help."""
    if isinstance(error, EngineFault) and error.status is not None:
        return _of_fault(error.status)
    return next(
        (status for kind, status in _STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _of_fault(status: int) -> HTTPStatus:
    if status == HTTPStatus.NOT_FOUND:
        return HTTPStatus.NOT_FOUND
    # The engine refuses the request in its present state.
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT}:
        return HTTPStatus.CONFLICT
    return HTTPStatus.BAD_GATEWAY


def document_of(error: PitrError) -> dict[str, Any]:
    """Return the failure as a document of docs/json.md."""
    advice = " ".join([error.advice, *getattr(error, "__notes__", ())]).strip()
    return {"error": {"type": type(error).__name__, "message": error.message, "advice": advice}}
