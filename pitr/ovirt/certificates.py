# SPDX-License-Identifier: GPL-2.0-or-later
"""Explain why a server's certificate is not trusted: each cause has its own advice."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any, Literal

Server = Literal["engine", "host"]

_TIMEOUT_S = 5.0

_CA_ADDRESS = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA"
#: Words of OpenSSL's and libcurl's reasons.
_EXPIRED = ("has expired",)
_EARLY = ("not yet valid",)
_WRONG_NAME = (
    "hostname mismatch",
    "ip address mismatch",
    "no alternative certificate subject name",
    "does not match",
)

_ADVICE: dict[tuple[str, Server], str] = {
    (
        "expired",
        "engine",
    ): "Renew the engine's certificates: run engine-setup on the engine. They are valid for 398 days.",
    ("expired", "host"): (
        "Renew the host's certificate: set the host to maintenance in the Administration Portal, then choose "
        "Installation > Enroll Certificate."
    ),
    ("early", "engine"): "Check the clocks of this machine and of the engine.",
    ("early", "host"): "Check the clocks of this machine and of the host.",
    ("name", "engine"): "Use a name of the certificate in the engine's URL.",
    ("name", "host"): (
        "The engine knows the host by a name that the host's certificate does not contain: choose Installation > "
        "Enroll Certificate for the host in the Administration Portal."
    ),
    ("issuer", "engine"): (
        "Set --cafile, PITR_CAFILE or the key 'cafile' to the engine's CA file. Download it from the engine: "
        f"{_CA_ADDRESS}"
    ),
    ("issuer", "host"): (
        "Add the engine's own CA to the file of --cafile: the hosts use it even if a company's CA signed the engine's "
        f"web certificate. Download it from the engine: {_CA_ADDRESS}"
    ),
}


def advice_for(reason: str, server: Server) -> str:
    """Return what to do about a certificate that is refused for `reason`, in the words of OpenSSL or libcurl."""
    return _ADVICE[_cause(reason), server]


def is_for_another_name(reason: str) -> bool:
    """Return whether the certificate is trusted, but does not contain the server's name."""
    return _cause(reason) == "name"


def _cause(reason: str) -> str:
    text = reason.lower()
    for cause, words in (("expired", _EXPIRED), ("early", _EARLY), ("name", _WRONG_NAME)):
        if any(word in text for word in words):
            return cause
    return "issuer"


def names_in_certificate(host: str, port: int, cafile: Path | None) -> tuple[str, ...]:
    """Return the names and addresses in a server's certificate; empty if it is not trusted or unreachable."""
    context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
    context.check_hostname = False
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate: dict[str, Any] = dict(secured.getpeercert() or {})
    except (OSError, ValueError):
        return ()
    return _names(certificate)


def _names(certificate: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")
    )
