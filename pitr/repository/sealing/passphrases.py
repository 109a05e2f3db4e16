# SPDX-License-Identifier: GPL-2.0-or-later
"""Identities that a passphrase protects: age files that hold an identity, in the repository or in a file of the user.

`age -d keys/identity-FINGERPRINT.age` opens one, too. A passphrase is never an argument, nor in a message.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from functools import lru_cache

from pitr.errors import FormatError, NoFittingIdentity, UsageError
from pitr.repository import canonical, names
from pitr.repository.sealing import age, keys
from pitr.repository.sealing.identities import ENCRYPTED, KeySettings, parsed_identities
from pitr.repository.sealing.keys import Identity, Passphrase
from pitr.repository.store.base import Store

_BEGIN, _END = b"-----BEGIN AGE ENCRYPTED FILE-----", b"-----END AGE ENCRYPTED FILE-----"


def protected(identity: Identity, passphrase: str) -> tuple[str, bytes]:
    """Return the name and the bytes of an object with the identity, which the passphrase opens."""
    text = f"# public key: {identity.recipient}\n{identity.secret()}\n"
    sealed = age.sealed(text.encode(), [Passphrase(passphrase, keys.WORK_FACTOR)])
    return names.protected_identity(identity.recipient.fingerprint), sealed


def stored_in(listed: Iterable[str]) -> list[str]:
    """Return those of the names below `keys` that are of protected identities."""
    return [name for name in listed if names.is_protected_identity(name)]


def opened(store: Store, stored: Iterable[str], settings: KeySettings) -> list[Identity]:
    """Open the repository's identities with the passphrase of the user.

    Raises UsageError without a passphrase, and NoFittingIdentity if it opens none of those that there are.
    """
    passphrase: str | None = None
    found: list[Identity] = []
    for name in stored:
        passphrase = passphrase or settings.passphrase("Passphrase of the repository: ")
        try:
            text = _text(store.read(name, limit=canonical.MAX_SIZE), passphrase)
            found += parsed_identities(text, f"the identity {name}")
        except NoFittingIdentity:
            # Each may have a passphrase of its own.
            continue
        except FormatError as error:
            raise UsageError(
                f"{name} is damaged: {error.message}", "Give another identity, with --identity FILE."
            ) from None
    if passphrase is not None and not found:
        raise NoFittingIdentity(
            "the passphrase opens no identity of the repository", "Type it again, or give --identity FILE."
        )
    return found


def of_file(data: bytes, where: str, settings: KeySettings) -> list[Identity]:
    """Return the identities of an encrypted identity file ('age -p'). Raises UsageError, NoFittingIdentity."""
    try:
        text = _text(_without_armor(data), settings.passphrase(f"Passphrase of {where}: "))
    except NoFittingIdentity:
        raise NoFittingIdentity(f"the passphrase does not open {where}", "Type it again.") from None
    except FormatError as error:
        raise UsageError(f"{where} is damaged: {error.message}") from None
    return parsed_identities(text, where)


@lru_cache(maxsize=8)
def _text(data: bytes, passphrase: str) -> str:
    """Return the text of an age file. A process that opens a repository twice does the work of scrypt once."""
    try:
        return age.opened(data, [Passphrase(passphrase)]).decode()
    except UnicodeDecodeError:
        raise FormatError("it holds no text") from None


def _without_armor(data: bytes) -> bytes:
    if data.startswith(ENCRYPTED[0]):
        return data
    lines = data.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 3 or lines[0].strip() != _BEGIN or lines[-1].strip() != _END:
        raise FormatError("it is truncated")
    try:
        return b64decode(b"".join(line.strip() for line in lines[1:-1]), validate=True)
    except (ValueError, binascii.Error):
        raise FormatError("its text is no base64") from None
