# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in to the engine and out again.

The SDK's own login has no timeout, cannot be interrupted, and says little about a wrong CA; its logout raises
errors of libcurl. The requests here are the same (docs of the engine's OAuth: grant type password, scope
ovirt-app-api).
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlencode, urlsplit

from pitr.errors import EngineError, LoginError
from pitr.ovirt.engine.config import EngineConfig
from pitr.ovirt.engine.faults import EngineFault, from_status, unreachable, untrusted

_SCOPE = "ovirt-app-api"
#: A login is a few hundred bytes; more than this is not an engine's answer.
_LONGEST_ANSWER = 1 << 20
_LOGOUT_TIMEOUT_S = 5.0


def login(config: EngineConfig, timeout_s: float = 30.0) -> str:
    """Return a new token for the user of `config`.

    Raises LoginError when the engine refuses the user, EngineError when it cannot be reached or trusted.
    """
    form = {
        "grant_type": "password",
        "scope": _SCOPE,
        "username": config.username,
        "password": config.password,
    }
    status, body = _post(config, "/ovirt-engine/sso/oauth/token", form, timeout_s)
    where = _where(config)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if status >= 400:
            raise from_status(status, "", what="logging in", where=where)
        raise EngineFault(
            f"logging in: the answer from {where} is not that of an engine (HTTP status {status})",
            "Check the engine's URL.",
            status=status,
        )
    token = answer.get("access_token")
    if status < 400 and isinstance(token, str) and token:
        return token
    if status >= 500:
        raise from_status(status, "", what="logging in", where=where)
    reason = str(answer.get("error_description") or answer.get("error") or f"HTTP status {status}")
    reason = " ".join(reason.split()).replace(config.password, "…")
    raise LoginError(
        f"the engine at {where} refuses the login of {config.username}: {reason}",
        "Check the user name (with its profile, as admin@internal) and the password.",
    )


def logout(config: EngineConfig, token: str) -> str | None:
    """Make `token` invalid, with a short bound; return None, or why it did not work.

    A token that stays ends by itself after the engine's session timeout.
    """
    try:
        status, _ = _post(
            config,
            "/ovirt-engine/services/sso-logout",
            {"scope": _SCOPE, "token": token},
            _LOGOUT_TIMEOUT_S,
        )
    except EngineError as error:
        return error.message
    return None if status < 400 else f"HTTP status {status}"


def _post(config: EngineConfig, path: str, form: dict[str, str], timeout_s: float) -> tuple[int, bytes]:
    base = urlsplit(config.url)
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked when the configuration was read
        f"{base.scheme}://{base.netloc}{path}",
        data=urlencode(form).encode(),
        headers={"Accept": "application/json"},
        method="POST",
    )
    where = _where(config)
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=_tls_context(config)), _NoRedirects()
    )
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return int(response.status), response.read(_LONGEST_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_LONGEST_ANSWER)
    except urllib.error.URLError as error:
        raise _no_answer(where, error.reason) from None
    except (OSError, HTTPException) as error:
        raise _no_answer(where, error) from None


def _no_answer(where: str, reason: object) -> EngineFault:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return untrusted(where, reason.verify_message)
    # A login has no effect on anything, so it always counts as unsent.
    if isinstance(reason, OSError):
        text = reason.strerror or str(reason) or type(reason).__name__
    else:
        text = str(reason) or type(reason).__name__
    return unreachable(where, text, unsent=True)


def _tls_context(config: EngineConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if config.cafile is None else str(config.cafile))
    except (ssl.SSLError, OSError) as error:
        raise EngineFault(
            f"the CA file {config.cafile} cannot be used: {getattr(error, 'reason', None) or error}",
            "It must hold certificates in PEM form.",
            unsent=True,
        ) from None
    if not config.secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _where(config: EngineConfig) -> str:
    return urlsplit(config.url).netloc


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: following one would carry the password elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None
