# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of points, disks and results for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pitr import times
from pitr.cli.display.table import FittingTable
from pitr.model import Backup, Kind, Stream
from pitr.text import named, printable
from pitr.units import human_size

if TYPE_CHECKING:  # all commands import this module: it must not import what one of them needs
    from pitr.jobs.backup.many_vms import Outcome
    from pitr.jobs.facts import PointFacts
    from pitr.jobs.point_extents import Range
    from pitr.jobs.restore.restored import Restored
    from pitr.jobs.rollback.result import RolledBack
    from pitr.repository.catalog.in_turn import InTurn
    from pitr.repository.damage import Damage
    from pitr.repository.drills import Proven
    from pitr.repository.removed_points import RemovedPoint

_SHORT_ID = 8


#: What tables say of a point with known damage, and of one that changed unusually.
DAMAGED, UNUSUAL = "DAMAGED", "unusual"

table = FittingTable


def points(
    backups: Sequence[Backup] | InTurn, facts: Mapping[str, PointFacts] | None = None, *, notes: bool = False
) -> RenderableType:
    """Return the table of points. `facts` holds what the repository knows of them, by backup id.

    `notes`: show the notes of the points.
    """
    if not backups:
        return Text("The repository holds no points.")
    states = {name: state for name, fact in (facts or {}).items() if (state := point_state(fact))}
    any_state = any(backup.backup_id in states for backup in backups)
    shown = {name: proven_text(fact.proven) for name, fact in (facts or {}).items() if fact.proven}
    removed = {name: fact.removed for name, fact in (facts or {}).items() if fact.removed}
    return table(
        ("Point",)
        + (("State",) if any_state else ())
        + ("VM", "Kind", "Disks", "Changed", "Stored", "Took", "Id", "Why whole")
        + (("Proven",) if shown else ())
        + (("Removed", "Swept after") if removed else ())
        + (("Note",) if notes else ()),
        (
            (
                times.for_people(backup.point),
                *([states.get(backup.backup_id, "")] if any_state else []),
                backup.vm.name,
                kind(backup),
                disk_count(backup),
                human_size(_changed_bytes(backup)),
                human_size(backup.stored_bytes),
                times.duration(backup.duration_ms / 1000),
                backup.backup_id[:_SHORT_ID],
                why_whole(backup),
                *([shown.get(backup.backup_id, "")] if shown else []),
                *(_removal(removed.get(backup.backup_id)) if removed else []),
                *([_note(facts, backup)] if notes else []),
            )
            for backup in backups
        ),
        right=("Disks", "Changed", "Stored", "Took"),
        # Within 80 columns, neither a name nor a reason nor a drill displaces disks, changed and stored.
        drop=("Took", "Why whole", "Kind", "Proven", "Removed", "Disks", "Changed", "Stored"),
        least={"VM": ("cut", 12), "Why whole": ("cut", 12), "Proven": ("cut", 11), "Note": ("fold", 20)},
        below=("Why whole", "Proven", "Note"),
    )


def _removal(removed: RemovedPoint | None) -> list[str]:
    if removed is None:
        return ["", ""]
    return [times.for_people(removed.removed_at), times.for_people(removed.swept_after)]


def _note(facts: Mapping[str, PointFacts] | None, backup: Backup) -> str:
    known = (facts or {}).get(backup.backup_id)
    return ((known and known.marks.note) or "").replace("\n", " ")


def point_state(facts: PointFacts) -> str:
    """Return what a table says about a point with these facts; "" if there is nothing to say."""
    state = DAMAGED if facts.damaged else UNUSUAL if facts.unusual else ""
    return ", ".join(part for part in (state, "held" if facts.marks.hold is not None else "") if part)


def fleet(outcomes: Sequence[Outcome]) -> RenderableType:
    """Return the table of a backup of several VMs: the result of each VM."""
    return table(
        ("VM", "Result", "Point", "Disks", "Changed", "Stored", "Took", "Id", "Why"),
        (
            (
                outcome.vm.name,
                kind(backup) if backup else "skipped" if outcome.skipped else "FAILED",
                times.for_people(backup.point) if backup else "",
                disk_count(backup) if backup else "",
                human_size(_changed_bytes(backup)) if backup else "",
                human_size(backup.stored_bytes) if backup else "",
                times.duration(outcome.duration_s),
                backup.backup_id[:_SHORT_ID] if backup else "",
                why_whole(backup) if backup else outcome.error.message if outcome.error else "",
            )
            for outcome in outcomes
            for backup in [outcome.backup]
        ),
        right=("Disks", "Changed", "Stored", "Took"),
        drop=("Took", "Id", "Point", "Disks", "Changed", "Stored"),
        least={"VM": ("cut", 12), "Why": ("fold", 20)},
        below=("Why",),
    )


def _changed_bytes(backup: Backup) -> int:
    return sum(stream.data_bytes + stream.zero_bytes for stream in backup.streams)


def proven_text(last: Proven) -> str:
    """Return the time of the last drill, and whether it failed."""
    return f"{'' if last.ok else 'FAILED '}{times.for_people(last.time)}"


def disk_count(backup: Backup) -> str:
    """Return the number of disks; "1 of 2" if the point lacks disks of the VM."""
    count = len(backup.streams)
    return str(count) if backup.is_complete else f"{count} of {count + len(backup.missing_disks)}"


def kind(backup: Backup) -> str:
    """Return the kind of a backup for people: "compared" if pitr itself found all its changes."""
    changes = {stream.changes for stream in backup.streams_of_its_kind}
    return "compared" if changes == {"compared"} else backup.kind.value


def why_whole(backup: Backup) -> str:
    """Return the reason why pitr read a backup, or some of its disks, whole."""
    if backup.kind is not Kind.INCREMENTAL:
        return backup.reason or ""
    whole = [stream for stream in backup.streams if stream.kind is Kind.FULL or stream.changes == "compared"]
    if len(whole) == len(backup.streams) and len({stream.reason for stream in whole}) == 1:
        return whole[0].reason or ""
    return "; ".join(f"{stream.name}: {stream.reason or stream.kind.value}" for stream in whole)


def disks(streams: Sequence[Stream]) -> RenderableType:
    """Return the table of a point's disks."""
    return table(
        ("Disk", "Kind", "Size", "Data", "Zero", "Stored", "Extents", "Format", "Id"),
        (
            (
                stream.name,
                stream.changes if stream.changes == "compared" else stream.kind.value,
                human_size(stream.size),
                human_size(stream.data_bytes),
                human_size(stream.zero_bytes),
                human_size(stream.stored_bytes),
                str(stream.extents),
                "qcow2" if stream.settings.format == "cow" else stream.settings.format,
                stream.disk_id,
            )
            for stream in streams
        ),
        right=("Size", "Data", "Zero", "Stored", "Extents"),
        drop=("Extents", "Format", "Zero", "Kind", "Data", "Stored"),
        least={"Disk": ("cut", 12)},
    )


def one_point(
    backup: Backup,
    chain: Sequence[Backup],
    external: Collection[str] = (),
    known: Mapping[str, PointFacts] | None = None,
) -> RenderableType:
    """Return all facts about one point. `external` holds the ids of streams whose data is stored externally.

    `chain` goes from the full to the point. `known` is as for `points`.
    """
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in (
        ("Point", f"{times.for_people(backup.point)}  ({times.to_text(backup.point)})"),
        ("State of", f"{times.for_people(backup.lo)} to {times.for_people(backup.point)}"),
        ("VM", named(backup.vm.name, backup.vm.id)),
        ("Backup", backup.backup_id),
        ("Kind", kind(backup) + (f": {why_whole(backup)}" if why_whole(backup) else "")),
        ("Mode", f"{backup.mode.value}, consistency {backup.consistency}"),
        ("Checkpoint", backup.checkpoint_id or "none"),
        ("Stored", f"{human_size(backup.stored_bytes)} in {times.duration(backup.duration_ms / 1000)}"),
    ):
        facts.add_row(name, Text(printable(value)))
    parts: list[RenderableType] = [facts, disks(backup.streams)]
    parts += [
        Text(f"Note on {printable(stream.name)}: {printable(stream.note)}")
        for stream in backup.streams
        if stream.note
    ]
    parts += [
        Text(f"The data of {printable(stream.name)} is stored externally")
        for stream in backup.streams
        if stream.stream_id in external
    ]
    parts += [
        Text(f"Left out: {named(disk.name, disk.disk_id)}: {printable(disk.reason)}")
        for disk in backup.left_out
    ]
    parts += [Text("Chain", style="bold"), chain_table(chain, known)]
    return Group(*parts)


def chain_table(chain: Sequence[Backup], facts: Mapping[str, PointFacts] | None = None) -> RenderableType:
    """Return the table of a chain, the full first. `facts` is as for `points`."""
    states = {name: state for name, fact in (facts or {}).items() if (state := point_state(fact))}
    any_state = any(backup.backup_id in states for backup in chain)
    return table(
        ("Point", *(("State",) if any_state else ()), "Kind", "Stored", "Id"),
        (
            (
                times.for_people(backup.point),
                *([states.get(backup.backup_id, "")] if any_state else []),
                backup.kind.value,
                human_size(backup.stored_bytes),
                backup.backup_id,
            )
            for backup in chain
        ),
        right=("Stored",),
        drop=("Stored", "Kind"),
        least={"Id": ("begin", _SHORT_ID)},
    )


def rolled_back(result: RolledBack) -> RenderableType:
    """Return the table of the disks after a rollback."""
    return table(
        ("Disk", "Id", "Differs", "Written", "Zeroed", "Took"),
        (
            (
                disk.name,
                disk.disk_id,
                human_size(disk.differing_bytes),
                "" if result.dry_run else human_size(disk.bytes_written),
                "" if result.dry_run else human_size(disk.bytes_zeroed),
                "" if result.dry_run else times.duration(disk.duration_s),
            )
            for disk in result.disks
        ),
        right=("Differs", "Written", "Zeroed", "Took"),
        drop=("Took", "Zeroed"),
        least={"Disk": ("cut", 12), "Id": ("fold", 36)},
    )


def restored(results: Sequence[Restored], *, planned: bool) -> RenderableType:
    """Return the table of restored disks; `planned` means a dry run."""
    return table(
        (
            "Disk",
            "New disk or file",
            "Size",
            "To write" if planned else "Written",
            "Zeroed",
            "Skipped",
            "Read",
            "Took",
        ),
        (
            (
                result.name,
                result.target or "a new disk",
                human_size(result.size),
                human_size(result.bytes_written),
                human_size(result.bytes_zeroed),
                human_size(result.bytes_skipped),
                human_size(result.bytes_read),
                "" if planned else times.duration(result.duration_s),
            )
            for result in results
        ),
        right=("Size", "To write", "Written", "Zeroed", "Skipped", "Read", "Took"),
        drop=("Read", "Skipped", "Zeroed", "Took", "Size"),
        least={"Disk": ("cut", 12), "New disk or file": ("fold", 36)},
    )


def damaged_ranges(results: Sequence[Restored]) -> RenderableType:
    """Return the table of the damaged ranges in restored disks."""
    return table(
        ("Disk", "Start", "Length", "", "Why"),
        (
            (disk.name, str(part.start), str(part.length), human_size(part.length), part.message)
            for disk in results
            for part in disk.damaged
        ),
        right=("Start", "Length", ""),
        drop=("",),
        least={"Disk": ("cut", 12), "Why": ("fold", 24)},
    )


def damage(findings: Sequence[Damage]) -> RenderableType:
    """Return the table of all damage found, with the points that it makes impossible to restore."""
    return table(
        ("Damage", "What", "Points lost"),
        (
            (finding.kind, finding.message, ", ".join(point[:_SHORT_ID] for point in finding.points_lost))
            for finding in findings
        ),
        least={"What": ("fold", 30), "Points lost": ("fold", 2 * _SHORT_ID + 2)},
        below=("What",),
    )


def ranges(resolved: Sequence[Range]) -> RenderableType:
    """Return the table of `pitr extents`."""
    return table(
        ("Start", "Length", "", "State", "From backup"),
        (
            (
                str(part.start),
                str(part.length),
                human_size(part.length),
                "zero" if part.zero else "data",
                part.backup_id or "never written",
            )
            for part in resolved
        ),
        right=("Start", "Length", ""),
        drop=("", "Length"),
        least={"From backup": ("begin", len("never written"))},
    )
