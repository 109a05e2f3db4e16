# SPDX-License-Identifier: GPL-2.0-or-later
"""The options for the keys of a sealed repository."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.errors import NamesSealed, UsageError
from pitr.system.target_path import given_path

if TYPE_CHECKING:
    from pitr.repository import Repository

IdentityOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        help="File with an age identity that opens a sealed repository; repeatable. 'passphrase': the identity in the "
        "repository that a passphrase protects [env: PITR_IDENTITY_FILE].",
        parser=given_path("--identity"),
    ),
]
TrustRecipientsOption = Annotated[
    bool,
    typer.Option(
        "--trust-recipients",
        help="Pin the recipients that a sealed repository names: this host seals its backups to them.",
    ),
]
EncryptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encrypt",
        metavar="RECIPIENT",
        help="Seal the repository to this age recipient, age1…; repeatable. 'passphrase', or the recipient of an age "
        "plugin: to a new identity, which pitr keeps in the repository, protected by it. With only one, pitr makes a "
        "second identity and prints it, for you to keep on paper.",
    ),
]


def use(files: Sequence[Path], configured: Mapping[str, Any], *, trust: bool) -> None:
    """Use these files and the table [encryption] for all repositories that this process opens."""
    from pitr.repository.sealing import identities  # noqa: PLC0415 - 'pitr --help' needs no repository

    identities.use(
        identities.KeySettings(
            identity_files=tuple(files),
            identity_command=configured.get("identity_command"),
            recipients=tuple(configured.get("recipients", ())),
            trust=trust,
            passphrase_command=configured.get("passphrase_command"),
            ask=_typed if sys.stdin is not None and sys.stdin.isatty() else None,
        )
    )


@cache
def _typed(question: str) -> str:
    """Return the passphrase that the user types, once for the whole command. Raises UsageError at the end of input."""
    try:
        return getpass.getpass(question)
    except EOFError:
        raise UsageError("no passphrase was typed", "Type it, or set PITR_PASSPHRASE_FILE.") from None


@contextmanager
def telling(repository: Repository) -> Iterator[None]:
    """Let the error about a sealed name say which recipients open the repository."""
    try:
        yield
    except NamesSealed as error:
        if repository.keyring is None:
            raise
        raise repository.keyring.refusal(error.message) from None
