# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of the demo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo. Sizes are in bytes, None if the step has none; `seconds` is wall time.

    `disk_bytes` is the amount of data on the VM's disks when the step began.
    """

    name: str
    command: str
    disk_bytes: int
    stored_bytes: int | None
    uploaded_bytes: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Proof:
    """A statement that the demo checked, and whether it is true."""

    what: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The demo's result. `replayed_bytes` is the upload of a restore that replays each backup of the chain."""

    steps: tuple[Step, ...]
    proofs: tuple[Proof, ...]
    replayed_bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        return all(proof.ok for proof in self.proofs)
