# SPDX-License-Identifier: GPL-2.0-or-later
"""The status in the words of Nagios and Icinga: a line with performance data, then a line for each bad VM."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.jobs.status.report import Status
from pitr.jobs.status.vm_status import State, VMStatus
from pitr.text import counted, printable

#: Nagios reads a few kilobytes.
_MOST_LINES = 100


def text(status: Status) -> str:
    """Return the output of the plugin, without a newline at its end."""
    bad = [each for each in status.vms if each.state is not State.OK]
    late = [reason for site in status.sites for reason in site.reasons]
    lines = [f"PITR {status.state.name}: {_summary(status, bad, late)} | {_performance(status)}"]
    lines += [f"{each.state.name} {_vm(each)}" for each in bad[:_MOST_LINES]]
    lines += [f"WARNING {_plain(reason)}" for reason in late]
    if len(bad) > _MOST_LINES:
        lines.append(f"and {len(bad) - _MOST_LINES} more")
    return "\n".join(lines)


def _summary(status: Status, bad: list[VMStatus], late: list[str]) -> str:
    if late and not bad:
        return _plain(late[0])
    if not status.vms:
        return "the repository holds no points"
    protection = status.protection
    if not bad and protection is not None and protection.state is not State.OK:
        return _plain(f"{protection.words}. {protection.advice}")
    if not bad:
        return f"{counted(len(status.vms), 'VM')} ok"
    return f"{len(bad)} of {counted(len(status.vms), 'VM')}: {_vm(bad[0])}"


def _vm(status: VMStatus) -> str:
    return _plain(f"{printable(status.vm.name)}: {'; '.join(status.reasons)}")


def _plain(text: str) -> str:
    # A bar begins the performance data.
    return printable(" ".join(text.split())).replace("|", "/")


def _performance(status: Status) -> str:
    return " ".join(_values(status))


def _values(status: Status) -> Iterator[str]:
    yield f"vms={len(status.vms)}"
    yield f"warning={status.count(State.WARNING)};0"
    yield f"critical={status.count(State.CRITICAL)};;0"
    ages = [each.age.total_seconds() for each in status.vms if each.age is not None]
    if ages:
        yield f"oldest={round(max(ages))}s"
    if status.protection is not None:
        yield f"protected={max(0, round(status.protection.left.total_seconds()))}s"
    proven = [each.points.proven_at for each in status.vms if each.points.proven_at is not None]
    if len(proven) == len(status.vms) and proven:
        yield f"least_recently_proven={round((status.time - min(proven)).total_seconds())}s"
