# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask systemd when the timers of policies elapse."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pitr.errors import ProgramFailed, ProgramMissing
from pitr.jobs.schedule.install import UnitFolder
from pitr.jobs.schedule.units import base_name_of

_PROPERTY = "NextElapseUSecRealtime"


def next_runs(folder: UnitFolder, policies: Iterable[str]) -> dict[str, datetime]:
    """Return when each of these policies runs next, by name; those without a timer that runs are absent.

    Asks systemd only if `folder` has a timer of a policy.
    """
    names = list(policies)
    units = {f"{base_name_of(name)}.timer": [name] for name in names}
    # Units without a policy run the only one, or "default".
    only = names[0] if len(names) == 1 else "default"
    units.setdefault(f"{base_name_of(None)}.timer", []).append(only)
    there = [unit for unit in units if (folder.path / unit).exists()]
    if not there or folder.manager is None:
        return {}
    try:
        answer = folder.run_program([*folder.manager, "show", "--property", f"Id,{_PROPERTY}", *there])
    except (ProgramFailed, ProgramMissing):
        return {}
    found: dict[str, datetime] = {}
    for part in answer.split("\n\n"):
        values = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
        time = _time(values.get(_PROPERTY, ""))
        for name in units.get(values.get("Id", ""), ()):
            if time is not None:
                found[name] = min(time, found.get(name, time))
    return found


def _time(text: str) -> datetime | None:
    """Return a time as systemd prints it: "Sat 2026-11-28 22:00:00 CET", in local time; None for "n/a"."""
    try:
        return datetime.strptime(" ".join(text.split()[1:3]), "%Y-%m-%d %H:%M:%S").astimezone()
    except ValueError:
        return None
