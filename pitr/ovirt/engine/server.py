# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the engine's clock and certificate."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from pitr.ovirt import certificates
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.config import EngineConfig
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.proxy import proxy_for
from pitr.ovirt.engine.values import utc

_CONNECT_TIMEOUT_S = 10.0


def engine_time(engine: Engine) -> datetime | None:
    """Return the time of the engine's clock in UTC, None if the engine does not report it. Raises EngineError."""
    info = engine.call("reading the engine's clock", lambda system: system.get())
    return utc(info.time, "its time")


def certificate_end(config: EngineConfig) -> datetime | None:
    """Return when the engine's certificate expires, in UTC; None without TLS or certificate checks.

    Raises EngineError when the certificate is not trusted, or the engine is unreachable.
    """
    parts = urlsplit(config.url)
    if parts.scheme != "https" or not config.secure:
        return None
    host, port = parts.hostname or "", parts.port or 443
    context = ssl.create_default_context(cafile=None if config.cafile is None else str(config.cafile))
    proxy = proxy_for(config.url)
    connection = HTTPSConnection(
        host if proxy is None else proxy.address,
        None if proxy is not None else port,
        timeout=_CONNECT_TIMEOUT_S,
        context=context,
    )
    if proxy is not None:
        login = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        connection.set_tunnel(host, port, login)
    try:
        connection.connect()
        certificate: dict[str, Any] = dict(connection.sock.getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        names: tuple[str, ...] = ()
        if proxy is None and certificates.is_for_another_name(error.verify_message):
            names = certificates.names_in_certificate(host, port, config.cafile)
        raise faults.untrusted(parts.netloc, error.verify_message, names=names, proxy=proxy) from error
    except OSError as error:
        raise faults.unreachable(parts.netloc, error.strerror or str(error), proxy=proxy) from error
    finally:
        connection.close()
    end = certificate.get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(end), UTC) if isinstance(end, str) else None
