# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository with points whose content is known, and the keys of people."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.jobs.backup import one_vm as job
from pitr.repository import Repository
from pitr.repository.sealing import identities
from pitr.repository.sealing.identities import KeySettings
from pitr.repository.sealing.keys import Identity
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.stored_points import MiB, Stored, change

ALICE, BOB, EVE = (Identity.generate() for _ in range(3))
VM_NAME, OVF = "paymaster-vm", "<ovf:Envelope>the ledger of the paymaster</ovf:Envelope>"


@dataclass
class SealedPlace:
    """A sealed repository with a full and an incremental of one VM, and the folder of this host's keys."""

    stored: Stored
    vm: MemoryVM
    folder: Path

    @property
    def path(self) -> Path:
        return self.stored.path

    def key(self, identity: Identity) -> Path:
        path = self.folder / f"{identity.recipient.fingerprint}.key"
        path.write_text(f"{identity.secret()}\n")
        return path

    def use(self, *held: Identity, trust: bool = False) -> None:
        identities.use(KeySettings(tuple(self.key(each) for each in held), trust=trust))


@contextmanager
def sealed_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_engine: MemoryEngine
) -> Iterator[SealedPlace]:
    """Make the repository on a host that holds no identity."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(identities.VARIABLE, raising=False)
    identities.use(KeySettings())
    path, engine = tmp_path / "repository", memory_engine
    with Repository.create(path, recipients=[str(each.recipient) for each in (ALICE, BOB)]):
        stored = Stored(path, engine)
    chance = random.Random(7)
    vm = engine.add_vm(VM_NAME, chance.randbytes(MiB) + bytes(MiB + 512), chance.randbytes(MiB // 4))
    place = SealedPlace(stored, vm, tmp_path)
    monkeypatch.setattr(job, "get_configuration", lambda engine, vm_id: OVF)
    stored.back_up(vm)
    change(vm, chance)
    stored.back_up(vm)
    yield place
    identities.use(KeySettings())
