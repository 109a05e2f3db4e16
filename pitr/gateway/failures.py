# SPDX-License-Identifier: GPL-2.0-or-later
"""Which HTTP status a failure is, and its document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pitr.engine.faults import EngineFault
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


class HttpError(PitrError):
    """A failure that only HTTP knows, with its `status`."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(HttpError):
    status = HTTPStatus.UNAUTHORIZED


class NotFound(HttpError):
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(HttpError):
    status = HTTPStatus.METHOD_NOT_ALLOWED


class Conflict(HttpError):
    """What is asked for does not go with the state of the transfer or disk."""

    status = HTTPStatus.CONFLICT


class OutsideOfDisk(HttpError):
    """The range that is asked for holds nothing."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


class NotConfigured(HttpError):
    """This gateway was started without what the request needs."""

    status = HTTPStatus.NOT_IMPLEMENTED


class TooManyRequests(HttpError):
    """As many streams as may be are under way."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


def status_of(error: BaseException) -> HTTPStatus:
    """The HTTP status that tells a client whose fault it is, and whether another try may help."""
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, EngineFault) and error.status is not None:
        return _of_fault(error.status)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


#: The first that fits.
_STATUSES: tuple[tuple[type[PitrError], HTTPStatus], ...] = (
    (FormatError, HTTPStatus.BAD_REQUEST),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NoSuchError, HTTPStatus.NOT_FOUND),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (EngineBusy, HTTPStatus.CONFLICT),
    (CheckpointGone, HTTPStatus.CONFLICT),
    (EngineError, HTTPStatus.BAD_GATEWAY),
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
