# SPDX-License-Identifier: GPL-2.0-or-later
"""Identities that a plugin of age protects, for example one for hardware keys: age files in the repository.

pitr seals to the recipient of an identity of its own, and the program `age` seals that identity to the plugin's
recipient. So the plugin works once for a command, and not for each object.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pitr.errors import FormatError, NoFittingIdentity, ProgramFailed
from pitr.repository import canonical, names
from pitr.repository.sealing import bech32
from pitr.repository.sealing.identities import KeySettings, parsed_identities
from pitr.repository.sealing.keys import Identity
from pitr.repository.store.base import Store
from pitr.system.process import require

_AGE = "age"
#: A person may have to find the key, type its PIN and touch it.
_TIMEOUT_S = 180.0
_PREFIX = "age1"


def is_recipient(text: str) -> bool:
    """Return whether this is the recipient of a plugin: age1NAME1…"""
    try:
        prefix, _ = bech32.decode(text)
    except FormatError:
        return False
    return prefix.startswith(_PREFIX) and len(prefix) > len(_PREFIX)


def protected(identity: Identity, recipient: str) -> tuple[str, bytes]:
    """Return the name and the bytes of an object with the identity, sealed to a plugin's recipient.

    Raises ProgramMissing, ProgramFailed.
    """
    text = f"# public key: {identity.recipient}\n{identity.secret()}\n"
    name = names.protected_identity(identity.recipient.fingerprint, plugin=True)
    return name, _age(["-r", recipient], text.encode())


def stored_in(listed: Iterable[str]) -> list[str]:
    """Return those of the names below `keys` that are of identities that plugins protect."""
    return [name for name in listed if names.is_protected_identity(name, plugin=True)]


def opened(store: Store, stored: Iterable[str], settings: KeySettings) -> list[Identity]:
    """Open the repository's identities with the plugin identities of the user.

    Raises NoFittingIdentity if they open none, and the user has no others; ProgramMissing, UsageError.
    """
    files = tuple(settings.plugin_files())
    failure: ProgramFailed | None = None
    found: list[Identity] = []
    for name in stored if files else ():
        try:
            text = _opened(store.read(name, limit=canonical.MAX_SIZE), files)
        except ProgramFailed as error:
            failure = error
            continue
        found += parsed_identities(text, f"the identity {name}")
    if failure is not None and not found and not settings.identities():
        raise NoFittingIdentity(
            f"no plugin identity opens the repository: {failure.message}",
            "Plug in the key, or give another identity.",
        )
    return found


@lru_cache(maxsize=8)
def _opened(data: bytes, files: tuple[Path, ...]) -> str:
    """Return the text of an identity, once for each process: a person may have to touch the key."""
    options = [word for path in files for word in ("-i", str(path))]
    return _age(["-d", *options], data).decode(errors="replace")


def _age(arguments: list[str], data: bytes) -> bytes:
    """Run age on `data`. It asks at the terminal, not on standard input. Raises ProgramMissing, ProgramFailed."""
    require(_AGE)
    try:
        done = subprocess.run(
            [_AGE, *arguments], input=data, capture_output=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{_AGE} did not exit within {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        lines = [
            line
            for line in done.stderr.decode(errors="replace").splitlines()
            if "report unexpected" not in line
        ]
        raise ProgramFailed(f"{_AGE} failed: {'; '.join(lines)[-500:]}")
    return done.stdout
