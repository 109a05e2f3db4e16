# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with ovirt-imageio: what is worth another try, and what a person is told."""

from __future__ import annotations

import http.client
import ssl

from pitr.errors import ImageioError, PitrError
from pitr.system.retry import RETRIES

_MAX_TEXT = 300


class StatusError(Exception):
    """ovirt-imageio answered with an HTTP status that is not success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that ovirt-imageio answered, None when it did not answer.

    The client library's own error type is private; its `code` is what can be relied on.
    """
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def is_expected(error: Exception) -> bool:
    """Whether an exception tells of the network or the server, and not of a mistake in pitr.

    The library reports a body that ends early as a plain RuntimeError.
    """
    if isinstance(error, PitrError):
        return False
    return status_of(error) is not None or isinstance(
        error, (OSError, http.client.HTTPException, RuntimeError)
    )


def is_transient(error: Exception) -> bool:
    """Whether a fresh connection may do better: a reset, a timeout, a short answer or a 5xx."""
    code = status_of(error)
    if code is not None:
        return code >= 500
    if isinstance(error, (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError)):
        return False
    return is_expected(error)


def describe(error: Exception, secrets: tuple[str, ...]) -> str:
    """Say in a few words what happened, without `secrets` and without anything a terminal would act on."""
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, http.client.RemoteDisconnected):
        text = "it closed the connection without an answer"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "…")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text[:_MAX_TEXT]


def translated(error: Exception, host: str, what: str, secrets: tuple[str, ...]) -> ImageioError:
    """Make the one line that a person reads when `what` has finally failed at `host`."""
    said = describe(error, secrets)
    code = status_of(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ImageioError(
            f"the certificate of ovirt-imageio at {host} is not trusted: {error.verify_message}",
            "Name the engine's CA certificate with --cafile.",
        )
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return ImageioError(
            f"cannot connect to ovirt-imageio at {host}: {said}", "Check the file of --cafile."
        )
    if code is None:
        return ImageioError(
            f"ovirt-imageio at {host} failed to {what}, {RETRIES + 1} times: {said}",
            "Check that this machine can reach that host and port.",
        )
    if code >= 500:
        return ImageioError(
            f"ovirt-imageio at {host} failed to {what}, {RETRIES + 1} times: {said}",
            "Look into /var/log/ovirt-imageio/daemon.log on that host.",
        )
    advice = "This is likely an error in pitr: please report it."
    if code in {401, 403, 404}:
        advice = (
            "The transfer was ended, cancelled or has expired: see the engine's events, then run this again."
        )
    elif code == 416:
        advice = "The disk is smaller than expected: was it changed meanwhile?"
    return ImageioError(f"ovirt-imageio at {host} refuses to {what}: {said}", advice)
