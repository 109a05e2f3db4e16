# SPDX-License-Identifier: GPL-2.0-or-later
"""Log in to the engine and out.

The SDK's login has no timeout, cannot be interrupted, and reports little about a wrong CA; its logout raises
libcurl's errors. pitr sends the same requests (the engine's OAuth documentation: grant type password, scope
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
from pitr.ovirt import certificates
from pitr.ovirt.engine.config import EngineConfig
from pitr.ovirt.engine.faults import EngineFault, from_status, login_advice, unreachable, untrusted
from pitr.ovirt.engine.proxy import Proxy, proxy_for

_SCOPE = "ovirt-app-api"
#: The answer to a login has a few hundred bytes; a longer one is not from an engine.
_LONGEST_ANSWER = 1 << 20
_LOGOUT_TIMEOUT_S = 5.0


def login(config: EngineConfig, timeout_s: float = 30.0) -> str:
    """Return a new token for the user of `config`.

    Raises LoginError when the engine refuses the user, EngineError when it is unreachable or not trusted.
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
            f"logging in: the answer of {where} is not from an oVirt engine (HTTP status {status})",
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
        login_advice(config.username),
    )


def logout(config: EngineConfig, token: str) -> str | None:
    """Make `token` invalid, with a short timeout. Return None, or why that failed.

    Otherwise the token expires after the engine's session timeout.
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
    request = urllib.request.Request(  # noqa: S310 - `api_url` checked the scheme
        f"{base.scheme}://{base.netloc}{path}",
        data=urlencode(form).encode(),
        headers={"Accept": "application/json"},
        method="POST",
    )
    proxy = proxy_for(config.url)
    if proxy is not None:
        if proxy.authorization is not None:
            request.add_header("Proxy-authorization", proxy.authorization)
        request.set_proxy(proxy.address, "http")
    opener = urllib.request.build_opener(
        # The variables of the environment are read above, as for the other requests.
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=_tls_context(config)),
        _NoRedirects(),
    )
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return int(response.status), response.read(_LONGEST_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_LONGEST_ANSWER)
    except urllib.error.URLError as error:
        raise _no_answer(config, error.reason, proxy) from None
    except (OSError, HTTPException) as error:
        raise _no_answer(config, error, proxy) from None


def _no_answer(config: EngineConfig, reason: object, proxy: Proxy | None) -> EngineFault:
    where = _where(config)
    if isinstance(reason, ssl.SSLCertVerificationError):
        names: tuple[str, ...] = ()
        if proxy is None and certificates.is_for_another_name(reason.verify_message):
            parts = urlsplit(config.url)
            names = certificates.names_in_certificate(parts.hostname or "", parts.port or 443, config.cafile)
        return untrusted(where, reason.verify_message, names=names, proxy=proxy)
    # A login changes nothing, so it always counts as unsent.
    if isinstance(reason, OSError):
        text = reason.strerror or str(reason) or type(reason).__name__
    else:
        text = str(reason) or type(reason).__name__
    return unreachable(where, text, unsent=True, proxy=proxy)


def _tls_context(config: EngineConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if config.cafile is None else str(config.cafile))
    except (ssl.SSLError, OSError) as error:
        raise EngineFault(
            f"cannot use the CA file {config.cafile}: {getattr(error, 'reason', None) or error}",
            "Use a file of certificates in PEM format.",
            unsent=True,
        ) from None
    if not config.secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _where(config: EngineConfig) -> str:
    return urlsplit(config.url).netloc


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirects, because they would send the password to another server."""

    def redirect_request(self, *_: object) -> None:
        return None
