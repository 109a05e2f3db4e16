# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the keys of a sealed repository: what this host seals to, what it opens, and who else can read its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pitr.errors import PitrError
from pitr.jobs.doctor_check import Check
from pitr.jobs.exposed_secrets import readable_by_others
from pitr.repository import Repository
from pitr.repository.sealing import identities
from pitr.text import counted

if TYPE_CHECKING:
    from pitr.repository.sealing.keyring import Keyring

_ENOUGH = 2


def check_keys(repository: Repository) -> list[Check]:
    """Return the checks of the keys; none for a repository that is not sealed."""
    keys = repository.keyring
    if keys is None:
        return []
    return [_recipients(keys), *([_few(keys)] if _too_few(keys) else []), _identity(keys), *_exposed()]


def _recipients(keys: Keyring) -> Check:
    try:
        recipients = keys.recipients()
    except PitrError as error:
        return Check("recipients", "failed", error.message, error.advice)
    return Check(
        "recipients",
        "ok",
        f"this host seals to {counted(len(recipients), 'recipient')}, of epoch {keys.current.number}",
    )


def _too_few(keys: Keyring) -> bool:
    return len(keys.current.recipients) < _ENOUGH


def _few(keys: Keyring) -> Check:
    return Check(
        "second recipient",
        "warning",
        "the repository is sealed to one recipient: if you lose its identity, no one can restore",
        "Add another one with 'pitr key add', and keep its identity on paper.",
    )


def _identity(keys: Keyring) -> Check:
    if not keys.given:
        return Check("identity", "ok", "no identity is given: this host can back up, and not read")
    if not keys.opens:
        refusal = keys.refusal()
        return Check("identity", "failed", refusal.message, refusal.advice)
    newest = keys.current.number
    if keys.opens_all:
        return Check("identity", "ok", f"the given identities open all {counted(newest, 'epoch')}")
    if keys.held.isdisjoint(keys.current.recipients):
        return Check(
            "identity",
            "failed",
            f"the given identities open older points, and nothing that is sealed now, in epoch {newest}",
            "Use an identity of a recipient that 'pitr key list' shows last.",
        )
    return Check(
        "identity",
        "warning",
        f"the given identities open what is sealed now, in epoch {newest}, and not all older points",
        "Give the older identity, too, as long as you keep points of its time: 'pitr key check' shows which.",
    )


def _exposed() -> Iterator[Check]:
    """Check the files with identities and passphrases. Those that do not exist were refused already."""
    for path, readers in readable_by_others(identities.settings().secret_files):
        yield Check(
            "key files",
            "warning",
            f"{readers} can read {path}, which opens the repository",
            f"Run: chmod 600 {path}. If others may have read it, use 'pitr key rotate'.",
        )
