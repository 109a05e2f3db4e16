# SPDX-License-Identifier: GPL-2.0-or-later
"""Classify errors of ovirt-imageio, and translate them to messages for users."""

from __future__ import annotations

import http.client
import ssl

from pitr.errors import ImageioError, PitrError
from pitr.ovirt import certificates
from pitr.system.retry import RETRIES

_MAX_TEXT = 300


class StatusError(Exception):
    """ovirt-imageio answered with an HTTP status other than success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of ovirt-imageio's answer, None if it did not answer.

    The client library's error type is private, but it has a public `code`.
    """
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def is_expected(error: Exception) -> bool:
    """Return whether the network or the server caused the exception, and not a bug in pitr.

    The library reports a truncated body as a plain RuntimeError.
    """
    if isinstance(error, PitrError):
        return False
    return status_of(error) is not None or isinstance(
        error, (OSError, http.client.HTTPException, RuntimeError)
    )


def is_transient(error: Exception) -> bool:
    """Return whether a retry on a new connection can succeed: after a reset, timeout, short answer or 5xx."""
    code = status_of(error)
    if code is not None:
        return code >= 500
    if isinstance(error, (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError)):
        return False
    return is_expected(error)


def describe(error: Exception, secrets: tuple[str, ...]) -> str:
    """Describe the error in a few words, without `secrets` and without control characters."""
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, http.client.RemoteDisconnected):
        text = "the server closed the connection without an answer"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "…")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text[:_MAX_TEXT]


def translated(error: Exception, host: str, what: str, secrets: tuple[str, ...]) -> ImageioError:
    """Return the error for the user after `what` has finally failed at `host`."""
    text = describe(error, secrets)
    code = status_of(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ImageioError(
            f"the certificate of ovirt-imageio at {host} is not trusted: {error.verify_message}",
            certificates.advice_for(error.verify_message, "host"),
        )
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return ImageioError(
            f"cannot connect to ovirt-imageio at {host}: {text}", "Check the file that --cafile names."
        )
    if code is None:
        return ImageioError(
            f"ovirt-imageio at {host} failed to {what}, {RETRIES + 1} times: {text}",
            "Check that this machine can reach this host and port.",
        )
    if code >= 500:
        return ImageioError(
            f"ovirt-imageio at {host} failed to {what}, {RETRIES + 1} times: {text}",
            "Check /var/log/ovirt-imageio/daemon.log on this host.",
            status=code,
        )
    advice = "This is probably a bug in pitr. Please report it."
    if code in {401, 403, 404}:
        advice = "The transfer has ended or expired. Check the engine's events, then run the command again."
    elif code == 416:
        advice = "The disk is smaller than expected. Check whether it was changed in the meantime."
    return ImageioError(f"ovirt-imageio at {host} refuses to {what}: {text}", advice, status=code)
