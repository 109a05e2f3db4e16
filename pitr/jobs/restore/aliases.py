# SPDX-License-Identifier: GPL-2.0-or-later
"""The aliases of new disks: the old disks' aliases, made valid for the engine, or aliases that you chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.errors import NoSuchDisk, UsageError
from pitr.jobs import find
from pitr.model import Stream
from pitr.ovirt.engine import is_alias, valid_alias
from pitr.reporting import Notify
from pitr.text import named, printable


def choose_aliases(
    streams: Sequence[Stream], renames: Mapping[str, str], old_names: Mapping[str, str], notify: Notify
) -> dict[str, str]:
    """Return the alias of each stream's new disk, by disk id.

    `renames` are new aliases by the old disks' names or ids. Other disks keep the name in `old_names`, else the name in
    the point. A name that the engine does not accept is changed, and `notify` tells it. Raises NoSuchDisk if no disk
    has the name, UsageError for a new alias that the engine does not accept or another disk has.
    """
    chosen = _renamed(streams, renames)
    names = {stream.disk_id: old_names.get(stream.disk_id, stream.name) for stream in streams}
    names = {disk_id: name for disk_id, name in names.items() if disk_id not in chosen}
    kept = {disk_id: name for disk_id, name in names.items() if is_alias(name)}
    for alias in chosen.values():
        if alias in kept.values():
            raise UsageError(
                f"another restored disk has the alias {alias!r} already",
                "Choose another alias with --rename.",
            )
    chosen |= kept
    taken = set(chosen.values())
    for disk_id, name in names.items():
        if disk_id in chosen:
            continue
        alias = valid_alias(name)
        number = 2
        while alias in taken:
            alias = valid_alias(name, f"_{number}")
            number += 1
        taken.add(alias)
        chosen[disk_id] = alias
        notify(
            f"disk {printable(name)} is restored as {alias}: the engine accepts only letters, digits, '.', '_' and '-' "
            "in the alias of a new disk, and at most 255 characters"
        )
    return chosen


def _renamed(streams: Sequence[Stream], renames: Mapping[str, str]) -> dict[str, str]:
    """Return the chosen aliases by disk id."""
    known = [(stream.disk_id, stream.name, stream) for stream in streams]
    chosen: dict[str, str] = {}
    for old, new in renames.items():
        stream = find.by_id_or_name(old, "disks", known)
        if stream is None:
            listed = ", ".join(named(stream.name, stream.disk_id) for stream in streams)
            raise NoSuchDisk(
                f"--rename names {old!r}, which is no disk of this restore",
                f"Use one of these disks: {listed}.",
            )
        if not is_alias(new):
            raise UsageError(
                f"the engine does not accept the alias {new!r}",
                "Use letters, digits, '.', '_' and '-', and at most 255 characters.",
            )
        if new in chosen.values() or chosen.get(stream.disk_id, new) != new:
            raise UsageError(f"--rename gives the alias {new!r} to a second disk, or a disk two aliases")
        chosen[stream.disk_id] = new
    return chosen
