# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates for a fleet: one authority, and a certificate for each role. Each side checks the other's."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pitr.errors import PitrError, ProgramMissing, UsageError
from pitr.fleet.connections import CA, CERTIFICATE, KEY

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateBuilder

ROLES: Final = ("scheduler", "worker", "caller")
AUTHORITY_KEY: Final = "ca-key.pem"
#: Clocks of hosts differ.
_EARLIER: Final = timedelta(hours=1)


def make(folder: Path, days: int) -> list[Path]:
    """Make an authority and a folder of certificates for each role in `folder`, which must be new or empty.

    Returns the folders. Raises UsageError, PitrError, ProgramMissing.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra
    except ImportError:
        raise ProgramMissing(
            "the library cryptography is not installed", "Install it with: pip install 'pitr[fleet]'"
        ) from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", "Name a new folder: old keys are never overwritten.")
        authority = ec.generate_private_key(ec.SECP256R1())
        issuer = _signed(_builder("pitr fleet", "pitr fleet", authority, days, is_authority=True), authority)
        _write(folder / AUTHORITY_KEY, _private(authority))
        _write(folder / CA, _public(issuer))
        for role in ROLES:
            key = ec.generate_private_key(ec.SECP256R1())
            signed = _signed(_builder(f"pitr {role}", "pitr fleet", key, days, is_authority=False), authority)
            of_role = folder / role
            of_role.mkdir(mode=0o700)
            _write(of_role / CA, _public(issuer))
            _write(of_role / CERTIFICATE, _public(signed))
            _write(of_role / KEY, _private(key))
    except OSError as error:
        raise PitrError(f"cannot write the certificates: {error}") from error
    return [folder / role for role in ROLES]


def _builder(name: str, issuer: str, key: Any, days: int, *, is_authority: bool) -> CertificateBuilder:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


def _signed(builder: CertificateBuilder, authority: Any) -> Certificate:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    return builder.sign(authority, hashes.SHA256())


def _public(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return certificate.public_bytes(Encoding.PEM)


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    stored: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return stored


def _write(path: Path, content: bytes) -> None:
    """Write a new file that only its owner reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
