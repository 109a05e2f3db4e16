# SPDX-License-Identifier: GPL-2.0-or-later
"""Show where the disks of a restore go, and the VM that gets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pitr.jobs.restore.outcome import TargetOutcome, TargetPlace, TargetVM
from pitr.jobs.restore.restored import Restored
from pitr.text import named, printable
from pitr.units import human_size


def lines(outcome: TargetOutcome, done: Sequence[Restored], *, planned: bool) -> Iterator[str]:
    """Yield a line for each disk and one for the VM. `planned` means a dry run."""
    for disk in done:
        place = outcome.places[disk.disk_id]
        # The table names the files.
        if place.storage_domain is not None or planned:
            yield f"{printable(disk.name)}: {_place(place, disk.target)}"
    if outcome.vm is not None:
        yield _vm(outcome.vm)


def _place(place: TargetPlace, target: str | None) -> str:
    image_format = "qcow2" if place.format == "cow" else place.format
    free = "" if place.available is None else f" ({human_size(place.available)} free)"
    if place.storage_domain is None:
        return f"file {printable(place.name)}, {image_format}{free}"
    name = f"new disk {printable(place.name) if target is None else named(place.name, target)}"
    where = f"storage domain {printable(place.storage_domain)}"
    state = "" if place.status is None else f", {place.status}"
    return f"{name}, {image_format}, {'thin' if place.sparse else 'preallocated'}, on {where}{free}{state}"


def _vm(vm: TargetVM) -> str:
    if vm.id is None:
        return f"VM {printable(vm.name)}: new"
    return f"VM {named(vm.name, vm.id)}: {vm.status or 'unknown'}"
