# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the JSON documents that scripts depend on (docs/json.md). Keys may be added, never removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pitr import times
from pitr.jobs import find
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_all, facts_of_removed, facts_of_vm
from pitr.jobs.known_damage import damage_of
from pitr.jobs.point_order import without_replaced
from pitr.jobs.shared import Shared, shared_of
from pitr.model import Backup, Stream, VMName, known_name
from pitr.reporting import DocumentList
from pitr.repository import Repository
from pitr.repository.catalog.in_turn import InTurn
from pitr.repository.history import Failure, VMOfRun

if TYPE_CHECKING:
    from pitr.jobs.consolidate.one_point import Consolidated
    from pitr.jobs.keys import ListedEpoch
    from pitr.jobs.policy_run.notices import Sent
    from pitr.jobs.policy_run.outcome import RunResult, StepResult
    from pitr.jobs.replicate.outcome import Replicated
    from pitr.jobs.restore.outcome import TargetPlace, TargetVM
    from pitr.jobs.restore.restored import Restored
    from pitr.jobs.upkeep.pruned import Pruned
    from pitr.jobs.upkeep.undo_prune import Undone
    from pitr.jobs.verify.stored_data import Verified
    from pitr.repository.damage import Damage
    from pitr.repository.drilled_boot import Boot
    from pitr.repository.history import RunOutcome
    from pitr.repository.marks import Hold
    from pitr.repository.sealing.keyring import KeyEpoch


def point(backup: Backup, facts: PointFacts = NO_FACTS) -> dict[str, Any]:
    """Return the document of a point."""
    proven, removed = facts.proven, facts.removed
    return {
        "backup_id": backup.backup_id,
        "vm": {"id": backup.vm.id, "name": known_name(backup.vm.name)},
        "kind": backup.kind.value,
        "reason": backup.reason,
        "point": times.to_text(backup.point),
        "lo": times.to_text(backup.lo),
        "parent_id": backup.parent_id,
        "checkpoint_id": backup.checkpoint_id,
        "from_checkpoint_id": backup.from_checkpoint_id,
        "mode": backup.mode.value,
        "consistency": backup.consistency,
        "disks": [disk(stream) for stream in backup.streams],
        "left_out": [{**asdict(left_out), "name": known_name(left_out.name)} for left_out in backup.left_out],
        "complete": backup.is_complete,
        "missing_disks": [
            {
                "disk_id": missing.disk_id,
                "name": known_name(missing.name),
                "reason": missing.reason,
            }
            for missing in backup.missing_disks
        ],
        "stored_bytes": backup.stored_bytes,
        "duration_s": backup.duration_ms / 1000,
        "proven": {"time": times.to_text(proven.time), "ok": proven.ok} if proven is not None else None,
        "damaged": facts.damaged,
        "unusual": [asdict(each) for each in facts.unusual],
        "note": facts.marks.note,
        "hold": hold(facts.marks.hold) if facts.marks.hold is not None else None,
        "stands_for": backup.stands_for,
        "removed_at": times.to_text(removed.removed_at) if removed is not None else None,
        "swept_after": times.to_text(removed.swept_after) if removed is not None else None,
    }


def vm_document(vm: VMName | VMOfRun) -> dict[str, Any]:
    """Return the document of a VM. Its name is null if it is sealed."""
    return {"id": vm.id, "name": known_name(vm.name)}


def keys(epochs: Sequence[ListedEpoch]) -> dict[str, Any]:
    """Return the document of `pitr key list` and `pitr key check`."""
    return {
        "epochs": [
            {
                "epoch": epoch.number,
                "created": epoch.created,
                "trusted": epoch.trusted,
                "recipients": [asdict(each) for each in epoch.recipients],
            }
            for epoch in epochs
        ]
    }


def key_epoch(epoch: KeyEpoch) -> dict[str, Any]:
    """Return the document of `pitr key add`, `remove` and `rotate`."""
    return {
        "epoch": epoch.number,
        "created": epoch.created,
        "recipients": [
            {"recipient": str(each), "fingerprint": each.fingerprint} for each in epoch.recipients
        ],
    }


def hold(held: Hold) -> dict[str, Any]:
    """Return the document of a hold."""
    return {"until": times.to_text(held.until) if held.until is not None else None}


def disk(stream: Stream) -> dict[str, Any]:
    """Return the document of one disk of a point."""
    return {
        "disk_id": stream.disk_id,
        "name": known_name(stream.name),
        "stream_id": stream.stream_id,
        "kind": stream.kind.value,
        "reason": stream.reason,
        "size": stream.size,
        "data_bytes": stream.data_bytes,
        "zero_bytes": stream.zero_bytes,
        "stored_bytes": stream.stored_bytes,
        "extents": stream.extents,
        "note": stream.note,
        "external": stream.external,
        "changes": stream.changes,
    }


def restored(disk: Restored) -> dict[str, Any]:
    """Return the document of one restored disk."""
    return {**asdict(disk), "duration_s": round(disk.duration_s, 3)}


def place(disk_id: str, restored_to: TargetPlace) -> dict[str, Any]:
    """Return the document of the place that a disk is restored to."""
    return {"disk_id": disk_id, **asdict(restored_to)}


def target_vm(vm: TargetVM) -> dict[str, Any]:
    """Return the document of the VM that gets the disks of a restore."""
    return asdict(vm)


def boot(booted: Boot, screenshot: str | None) -> dict[str, Any]:
    """Return the document of a drill's boot; `screenshot` is the file, or the object in the repository."""
    return {
        "result": booted.result,
        "evidence": booted.evidence,
        "seconds": booted.duration_ms / 1000,
        "screenshot": screenshot if booted.screenshot is not None else None,
    }


def damage(finding: Damage) -> dict[str, Any]:
    """Return the document of one damage."""
    return {**asdict(finding), "points_lost": list(finding.points_lost)}


def verified(result: Verified) -> dict[str, Any]:
    """Return the document of `pitr verify`."""
    return {
        "ok": result.ok,
        "level": result.level,
        "checked": {
            "points": result.points,
            "streams": result.streams,
            "frames": result.frames,
            "bytes": result.bytes,
            "elsewhere": result.external,
        },
        "damage": [damage(finding) for finding in result.damage],
    }


def consolidated(result: Consolidated) -> dict[str, Any]:
    """Return the document of `pitr consolidate`."""
    return {
        "created": [point(backup) for backup in result.created],
        "removed": [point(backup, result.facts) for backup in result.removed],
        "copied_bytes": result.copied_bytes,
        "freed_bytes": result.freed_bytes,
    }


def pruned(result: Pruned, *, dry_run: bool) -> dict[str, Any]:
    """Return the document of `pitr prune` and `pitr forget`."""
    return {
        "dry_run": dry_run,
        "removed": DocumentList(lambda: (point(item.backup, item.facts) for item in result.removed.items())),
        "kept": DocumentList(
            lambda: (
                {**point(item.backup, item.facts), "kept_by": list(item.reasons)}
                for item in result.kept.items()
            )
        ),
        "busy": [{"vm": vm_document(busy.vm), "message": busy.message} for busy in result.busy],
        "failed": [
            {
                "vm": vm_document(failure.vm) if failure.vm is not None else None,
                "error": {
                    "type": type(failure.error).__name__,
                    "message": failure.error.message,
                    "advice": failure.error.advice,
                },
            }
            for failure in result.failed
        ],
        "unreferenced": result.unreferenced,
        "freed_bytes": result.freed_bytes,
        "left_elsewhere": result.left_external,
        "created": DocumentList(lambda: (point(item.backup) for item in result.consolidated.items())),
        "copied_bytes": result.copied_bytes,
        "swept": DocumentList(lambda: (point(item.backup, item.facts) for item in result.swept.items())),
        "protected": result.protected.as_document() if result.protected is not None else None,
    }


def replicated(result: Replicated, *, dry_run: bool) -> dict[str, Any]:
    """Return the document of `pitr replicate`."""
    return {
        "dry_run": dry_run,
        "source": result.source,
        "target": result.target,
        "target_id": result.target_id,
        "copied": {"points": result.points, "objects": result.objects, "bytes": result.bytes},
        "repaired": [asdict(each) for each in result.repaired],
        "behind": result.behind,
        "damage": [damage(each) for each in result.damage],
        "unrepaired": [damage(each) for each in result.unrepaired],
        "busy": [{"vm": vm_document(busy.vm), "message": busy.message} for busy in result.busy],
        "cold": result.cold,
    }


def failure(error: Failure | None) -> dict[str, Any] | None:
    """Return the document of a stored failure; None for none."""
    return asdict(error) if error is not None else None


def run(outcome: RunOutcome) -> dict[str, Any]:
    """Return the document of a run of `pitr history`."""
    return {
        "run_id": outcome.run_id,
        "command": outcome.command,
        "policy": outcome.policy,
        "started": times.to_text(outcome.started),
        "ended": times.to_text(outcome.ended),
        "ok": outcome.ok,
        "exit_code": outcome.exit_code,
        "error": failure(outcome.error),
        "steps": [
            {
                **asdict(step),
                "vm": vm_document(step.vm) if step.vm is not None else None,
                "error": failure(step.error),
            }
            for step in outcome.steps
        ],
        "host": outcome.host,
    }


def policy_run(result: RunResult) -> dict[str, Any]:
    """Return the document of `pitr run`."""
    document: dict[str, Any] = {
        "policy": result.policy,
        "dry_run": result.dry_run,
        "ok": result.ok,
        "skipped": result.skipped,
        "steps": [_step(step) for step in result.steps],
        "notices": sent(result.notices),
    }
    if result.interrupted is not None:
        document["unfinished"] = [asdict(each) for each in result.unfinished]
        document["error"] = failure(Failure.of(result.interrupted))
    return document


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "step": step.step,
        "vm": step.vm.name if step.vm is not None else None,
        "vm_id": step.vm.id if step.vm is not None else None,
        "ok": step.ok,
        "error": failure(Failure.of(step.error) if step.error is not None else None),
        "skipped": step.skipped,
        "detail": step.detail,
        "duration_s": round(step.duration_s, 3),
        "backup_id": step.backup_id,
        "kind": step.kind,
        "removed": step.removed,
        "freed_bytes": step.freed_bytes,
        "read_bytes": step.read_bytes,
        "damage": [damage(finding) for finding in step.damage],
        "unusual": [asdict(each) for each in step.unusual],
    }


def sent(notices: Sequence[Sent]) -> list[dict[str, Any]]:
    """Return the documents of the notices that a run sent."""
    return [
        {
            "via": each.via,
            "event": each.event,
            "ok": each.ok,
            "error": failure(Failure.of(each.error) if each.error is not None else None),
        }
        for each in notices
    ]


@dataclass(frozen=True, slots=True)
class ListedPart:
    """Which points a list shows: those since a moment, and of these the newest, this many; None: all."""

    since: datetime | None = None
    last: int | None = None

    def of(self, points: list[Backup]) -> list[Backup]:
        """Return the part of the points, which are newest first."""
        if self.since is not None:
            points = [backup for backup in points if backup.point >= self.since]
        return points[: self.last]


def points_document(
    repository: Repository, vm: str | None, part: ListedPart = ListedPart()
) -> dict[str, Any]:
    """Return the document of `pitr list`, to be written before the repository is closed. Raises NoSuchVM."""
    points, facts = points_of_vm(repository, vm, part)
    return {
        "points": DocumentList(
            lambda: (point(backup, facts.get(backup.backup_id, NO_FACTS)) for backup in points)
        )
    }


def points_of_vm(
    repository: Repository, vm: str | None, part: ListedPart = ListedPart()
) -> tuple[Sequence[Backup] | InTurn, Mapping[str, PointFacts]]:
    """Return a part of the points of a VM (None: of all VMs), newest first, and facts about them by backup id.

    The points of all VMs are read while you iterate. Raises NoSuchVM.
    """
    if vm is None:
        shown = repository.shown_catalog
        return InTurn(shown, since=part.since, last=part.last), facts_of_all(repository, shown)
    catalog = repository.catalog_of_vm(vm)
    chosen = find.vm_named(catalog, vm)
    return part.of(without_replaced(catalog.points(chosen.id))), facts_of_vm(repository, chosen.id)


def removed_document(
    repository: Repository, vm: str | None, part: ListedPart = ListedPart()
) -> dict[str, Any]:
    """Return the document of `pitr list --removed`. Raises NoSuchVM."""
    points, facts = removed_points_of_vm(repository, vm, part)
    return {"points": [point(backup, facts[backup.backup_id]) for backup in points]}


def removed_points_of_vm(
    repository: Repository, vm: str | None, part: ListedPart = ListedPart()
) -> tuple[list[Backup], Mapping[str, PointFacts]]:
    """Return a part of the removed points of a VM (None: of all VMs), newest first, and facts about them.

    Raises NoSuchVM.
    """
    facts = facts_of_removed(repository, None)
    removed = [fact.removed.backup for fact in facts.values() if fact.removed is not None]
    # The data of a consolidated point is in the point that stands for it.
    removed = [backup for backup in removed if repository.catalog.stand_in(backup.backup_id) is None]
    if vm is not None:
        # All points of the VM may be removed.
        entries = [(backup.vm.id, backup.vm.name, backup.vm.id) for backup in removed]
        vm_id = find.by_id_or_name(vm, "VMs", entries) or find.vms_of(repository, vm)[0].id
        removed = [backup for backup in removed if backup.vm.id == vm_id]
    return part.of(removed), facts


def undone(result: Undone, *, dry_run: bool) -> dict[str, Any]:
    """Return the document of `pitr undo-prune`."""
    return {
        "dry_run": dry_run,
        "points": [point(backup) for backup in result.points],
        "failed": [
            {"backup_id": each.backup_id, "error": failure(Failure.of(each.error))} for each in result.failed
        ],
    }


def point_document(repository: Repository, point_id: str) -> dict[str, Any]:
    """Return the document of `pitr show`. Raises NoSuchPoint, UsageError."""
    backup, chain, facts = point_and_chain(repository, point_id)
    own = facts.get(backup.backup_id, NO_FACTS)
    return {
        "point": _with_shared(repository, backup, own),
        "chain": [_with_shared(repository, link, facts.get(link.backup_id, NO_FACTS)) for link in chain],
        "damage": [damage(found) for found in damage_of(repository, own.damage)],
    }


def _with_shared(repository: Repository, backup: Backup, facts: PointFacts) -> dict[str, Any]:
    """Return the document of a point whose disks say what they share."""
    disks = [
        {**disk(stream), "shared": [_shared(each) for each in shared_of(repository, stream)]}
        for stream in backup.streams
    ]
    return {**point(backup, facts), "disks": disks}


def _shared(shared: Shared) -> dict[str, Any]:
    vm = vm_document(shared.vm) if shared.vm is not None else None
    return {"vm": vm, "disk_id": shared.disk_id, "bytes": shared.bytes}


def point_and_chain(
    repository: Repository, point_id: str
) -> tuple[Backup, list[Backup], Mapping[str, PointFacts]]:
    """Return the point, the points of its chain, and the facts about the VM's points by backup id.

    Raises NoSuchPoint, UsageError.
    """
    catalog = repository.catalog_with_point(point_id)
    backup = find.point_named(catalog, point_id).backup
    return backup, find.ancestry(catalog, backup), facts_of_vm(repository, backup.vm.id)
