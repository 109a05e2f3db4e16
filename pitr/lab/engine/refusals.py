# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's refusals: an HTTP status and a text, which is all that a client sees."""

from __future__ import annotations


class Refusal(Exception):
    """An answer with `status` and a fault; without a detail the body is empty."""

    def __init__(self, status: int, detail: str | None, reason: str = "Operation Failed") -> None:
        super().__init__(f"{status} {detail or ''}")
        self.status = status
        self.detail = detail
        self.reason = reason


class Missing(Refusal):
    """An entity does not exist: status 404 with an empty body."""

    def __init__(self, what: str, entity_id: str) -> None:
        super().__init__(404, None)
        self.add_note(f"no {what} {entity_id}")


def conflict(text: str) -> Refusal:
    """Return a 409: the request is valid, but not now."""
    return Refusal(409, f"[{text}]")


def bad_request(text: str) -> Refusal:
    """Return a 400: the engine cannot execute the request."""
    return Refusal(400, f"[{text}]")


def incomplete(entity: str, fields: str) -> Refusal:
    """Return a 400: the body lacks a required field."""
    return Refusal(400, f"{entity} [{fields}] required for add", "Incomplete parameters")


def during_backup() -> Refusal:
    return conflict("Cannot backup VM. The VM is during a backup operation.")


def vm_not_up_or_down() -> Refusal:
    return conflict("Cannot backup VM. The Virtual Machine should be in Up or Down status.")


def vm_previews_snapshot() -> Refusal:
    return conflict("Cannot backup VM. VM is previewing a Snapshot.")


def hosted_engine() -> Refusal:
    return conflict("Cannot backup VM. The VM is the hosted engine.")


def disks_locked(action: str, names: list[str]) -> Refusal:
    return conflict(
        f"Cannot {action}. The following disks are locked: {', '.join(names)}. "
        "Please try again in a few minutes."
    )


def disks_not_active(vm_name: str, names: list[str]) -> Refusal:
    return conflict(
        f"Cannot backup VM. The following disks are not active on VM {vm_name}: {', '.join(names)}"
    )


def active_transfer() -> Refusal:
    return conflict("Cannot stop VM backup. There is an active image transfer for VM backup")


def backup_not_ready(phase: str) -> Refusal:
    return conflict(
        "Cannot transfer Virtual Disk. "
        f"The VM backup is not in READY phase, backup phase is {phase.upper()}. "
        "Please try again when the backup is in READY phase."
    )


def backup_not_ready_to_stop(phase: str) -> Refusal:
    return bad_request(
        f"Cannot stop VM backup. The VM backup is not in READY phase, backup phase is {phase.upper()}."
    )


def backup_already(phase: str) -> Refusal:
    # The engine writes only this text in lower case.
    return bad_request(
        f"cannot stop vm backup. the vm backup is already in '{phase}' phase, no need to finalize it."
    )


def checkpoint_missing(checkpoint_id: str) -> Refusal:
    return bad_request(f"Cannot backup VM. Checkpoint ID {checkpoint_id} doesn't exist.")


def checkpoint_invalid(checkpoint_id: str) -> Refusal:
    return bad_request(f"Cannot backup VM. Checkpoint ID {checkpoint_id} is invalid and should be removed.")


def disks_missing(disk_ids: list[str]) -> Refusal:
    return bad_request(f"Cannot backup VM. The following disk(s) ID(s) does not exist: {', '.join(disk_ids)}")


def backup_exists(backup_id: str) -> Refusal:
    return bad_request(f"Cannot backup VM. backup ID {backup_id} already exists.")


def format_not_applicable() -> Refusal:
    return bad_request("Cannot transfer Virtual Disk. The specified format is not applicable for VM backup.")


def bad_disk_alias(action: str) -> Refusal:
    return bad_request(
        f"Cannot {action} Virtual Disk. Disk alias name must be formed of alpha-numeric characters or "
        '"-_.", Attribute: diskImage.diskAlias'
    )


def bad_vm_name(action: str) -> Refusal:
    return bad_request(
        f"Cannot {action} VM. The given name contains special characters. Only lower-case and upper-case letters, "
        "numbers, '_', '-', '.' are allowed., Attribute: vm.vmStatic.name"
    )


def vm_name_too_long(action: str, most: int) -> Refusal:
    return bad_request(f"Cannot {action} VM. The VM name must have at most {most} characters.")


def network_missing(names: list[str]) -> Refusal:
    return conflict(
        f"Cannot import VM. The following networks do not exist in the cluster: {', '.join(names)}."
    )


def chain_lost() -> Refusal:
    return Refusal(400, "[]")
