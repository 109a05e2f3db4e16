# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the engine's clock and certificate."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pitr.ovirt.engine import faults
from pitr.ovirt.engine.config import EngineConfig
from pitr.ovirt.engine.connection import Engine
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
    try:
        with (
            socket.create_connection((host, port), _CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise faults.untrusted(parts.netloc, error.verify_message) from error
    except OSError as error:
        raise faults.unreachable(parts.netloc, error.strerror or str(error)) from error
    end = certificate.get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(end), UTC) if isinstance(end, str) else None
