# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may talk to whom: mutual TLS, or plain TCP inside one machine."""

from __future__ import annotations

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pitr.errors import ProgramMissing, UsageError

if TYPE_CHECKING:
    from distributed.security import Security

#: The files of a folder of certificates (pitr/fleet/certificates.py).
CA: Final = "ca.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"
PORT: Final = 8786

_ADDRESS: Final = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^:/\[\]]+)(?::(\d{1,5}))?/?")


def require_dask() -> None:
    """Raise ProgramMissing if dask.distributed is not installed."""
    try:
        import distributed  # noqa: F401, PLC0415
    except ImportError:
        raise ProgramMissing(
            "dask.distributed is not installed", "Install it with: pip install 'pitr[fleet]'"
        ) from None


def checked_dashboard(text: str) -> str:
    """Return HOST:PORT of the page for browsers. Raises UsageError, and ProgramMissing if bokeh is not installed."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(
            f"{text!r} is not an address for the dashboard", "Write HOST:PORT, for example 127.0.0.1:8787."
        )
    if find_spec("bokeh") is None:
        raise ProgramMissing(
            "the dashboard needs bokeh, which is not installed",
            "Install it with: pip install 'pitr[dashboard]'",
        )
    return text


def checked_address(text: str) -> str:
    """Return the address with its port: tls://HOST:PORT, or tcp:// on this machine. Raises UsageError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3] or PORT) > 65535:
        raise UsageError(
            f"{text!r} is not the address of a scheduler", "Write tls://HOST:8786, or tcp://127.0.0.1:8786."
        )
    scheme, host, port = match[1], match[2], int(match[3] or PORT)
    if scheme == "tcp" and not is_loopback(host):
        raise UsageError(
            f"{text}: without TLS, whoever reaches the scheduler can run programs on all workers",
            "Use tls:// and certificates ('pitr fleet certificates'). tcp:// is for this machine only.",
        )
    return f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine, by its name or number."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def security(address: str, folder: Path | None) -> Security | None:
    """Return what a connection to the address needs: certificates for tls://, nothing for tcp://. Raises UsageError."""
    from distributed.security import Security  # noqa: PLC0415 - an extra

    if address.startswith("tcp:"):
        return None
    if folder is None:
        raise UsageError(
            f"no certificates for {address}", "Give --tls FOLDER, or set PITR_FLEET_TLS to the folder."
        )
    missing = [name for name in (CA, CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}", "Make certificates with 'pitr fleet certificates FOLDER'."
        )
    files = {"cert": str(folder / CERTIFICATE), "key": str(folder / KEY)}
    return Security(
        require_encryption=True,
        tls_ca_file=str(folder / CA),
        **{
            f"tls_{role}_{what}": path
            for role in ("client", "worker", "scheduler")
            for what, path in files.items()
        },
    )
