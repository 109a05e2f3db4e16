# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of the units and of the crontab line that run a policy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pitr.errors import UsageError
from pitr.jobs.schedule.quoting import checked, command_word, crontab_word, unit_part, value, word

#: Units with this mark in their first line belong to pitr: it replaces and removes them, and no others.
MARK = "; Created by 'pitr schedule install'."
#: The unit that reports a failure, unless the user names another one. Its instance is the unit that failed.
FAILURE_UNIT = "pitr-failed@.service"
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@%-]+\.(service|target)")
_AT = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")

#: What every unit of the system gets. A unit of a user cannot drop what the user's systemd does not have.
_HARDENING = """\
ProtectSystem=strict
ProtectHome=read-only
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""
_SYSTEM_HARDENING = """\
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
"""
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - the folders that PrivateTmp= hides
#: root must read and write files of other owners, such as the repository of a backup user. Nothing else.
_ROOT_CAPABILITIES = "CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER"


def base_name_of(policy: str | None) -> str:
    """Return the name of a policy's units without its suffix; None stands for the only policy."""
    return "pitr" if policy is None else f"pitr-{unit_part(policy)}"


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """What a unit runs: `command` as `user` (None in the unit of a user), with `environment`.

    `writable` are the folders that the run must be able to write, such as the repository.
    """

    policy: str | None
    command: Sequence[str]
    environment: Mapping[str, str]
    writable: Sequence[Path]
    user: str | None = None
    on_failure: str | None = None

    def check(self) -> None:
        """Raise UsageError for a text that no unit can hold."""
        for text in self.command:
            checked("the argument", text)
        for name, text in self.environment.items():
            checked(f"the value of {name}", text)
        for path in self.writable:
            checked("the path", str(path))
        if self.on_failure is not None and not _UNIT.fullmatch(self.on_failure):
            raise UsageError(
                f"--on-failure must be the name of a unit such as page-me@%n.service, not {self.on_failure!r}"
            )

    @property
    def base_name(self) -> str:
        """The name of the units without its suffix."""
        return base_name_of(self.policy)

    @property
    def title(self) -> str:
        return "pitr run" if self.policy is None else f"pitr run {self.policy}"


@dataclass(frozen=True, slots=True)
class Timing:
    """When the timer runs: `calendar` is an expression of systemd.time(7), `delay_s` the longest random delay."""

    calendar: str = "*-*-* 22:00:00"
    delay_s: int = 900


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: the name of its file, and its text."""

    file: str
    text: str = field(repr=False)


def daily(at: str) -> str:
    """Return the calendar expression for a time of day, such as 22:00. Raises UsageError."""
    hour, minute = _hour_and_minute(at)
    return f"*-*-* {hour:02}:{minute:02}:00"


def _hour_and_minute(at: str) -> tuple[int, int]:
    match = _AT.fullmatch(at.strip())
    if match is None:
        raise UsageError(f"--at must be a time of day such as 22:00, not {at!r}")
    return int(match[1]), int(match[2])


def units(run: ScheduledRun, timing: Timing) -> list[Unit]:
    """Return the service, its timer and, unless the user names one, the unit that reports a failure."""
    run.check()
    made = [
        Unit(f"{run.base_name}.service", _service(run)),
        Unit(f"{run.base_name}.timer", _timer(run, timing)),
    ]
    if run.on_failure is None:
        made.append(Unit(FAILURE_UNIT, _failure(run)))
    return made


def _head(run: ScheduledRun, file: str) -> str:
    return f"{MARK} To change it, run: systemctl {'' if run.user else '--user '}edit {file}\n"


def _service(run: ScheduledRun) -> str:
    file = f"{run.base_name}.service"
    lines = [
        "[Unit]",
        f"Description={value(run.title)}",
        *(
            ["Wants=network-online.target", "After=network-online.target remote-fs.target"]
            if run.user
            else []
        ),
        *(f"RequiresMountsFor={word(str(path))}" for path in run.writable),
        # The name of a unit may have specifiers: page-me@%n.service.
        f"OnFailure={run.on_failure or 'pitr-failed@%n.service'}",
        "",
        "[Service]",
        "Type=oneshot",
        *([f"User={value(run.user)}"] if run.user else []),
        # Secrets of notices and of S3, which are in no unit.
        f"EnvironmentFile=-{'/etc' if run.user else '%E'}/pitr/environment",
        *(f"Environment={word(f'{name}={text}')}" for name, text in sorted(run.environment.items())),
        f"ExecStart={' '.join(command_word(part) for part in run.command)}",
        "; A run may take all night. When it is stopped, it ends its backups on the engine.",
        "TimeoutStartSec=infinity",
        "TimeoutStopSec=15min",
        "KillMode=mixed",
        "",
        "Nice=10",
        "CPUWeight=20",
        "IOWeight=20",
        "IOSchedulingClass=best-effort",
        "IOSchedulingPriority=7",
        "",
        *(f"ReadWritePaths={word(str(path))}" for path in run.writable),
        *_temporary(run),
        "; Images of a drill may be larger than the memory behind /tmp.",
        "Environment=TMPDIR=/var/tmp",
        "UMask=0077",
    ]
    return _head(run, file) + "\n".join(lines) + "\n" + _HARDENING + _for_user(run.user)


def _temporary(run: ScheduledRun) -> list[str]:
    """Return the settings of /tmp. A folder of its own would hide what the run needs there."""
    needed = [*run.writable, *(Path(part) for part in (*run.command, *run.environment.values()))]
    if any(path.is_relative_to(folder) for path in needed for folder in _TEMPORARY):
        return [f"ReadWritePaths={folder}" for folder in _TEMPORARY]
    return ["PrivateTmp=yes"]


def _for_user(user: str | None) -> str:
    if user is None:
        return ""
    capabilities = _ROOT_CAPABILITIES if user == "root" else ""
    return f"{_SYSTEM_HARDENING}CapabilityBoundingSet={capabilities}\n"


def _timer(run: ScheduledRun, timing: Timing) -> str:
    return _head(run, f"{run.base_name}.timer") + (
        "[Unit]\n"
        f"Description=Time of {value(run.title)}\n"
        "\n"
        "[Timer]\n"
        f"OnCalendar={value(checked('the calendar expression', timing.calendar))}\n"
        f"RandomizedDelaySec={timing.delay_s}\n"
        "; After a night without power, run at the next start.\n"
        "Persistent=true\n"
        "\n"
        "[Install]\n"
        "WantedBy=timers.target\n"
    )


def _failure(run: ScheduledRun) -> str:
    return _head(run, FAILURE_UNIT) + (
        "[Unit]\n"
        "Description=Report that %i failed\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "ExecStart=/usr/bin/systemd-cat --priority=crit --identifier=pitr "
        '/bin/echo "%i failed. See: journalctl --unit %i"\n'
    )


def crontab_line(run: ScheduledRun, at: str) -> str:
    """Return the line of a crontab that runs `run` each day `at` a time of day. Raises UsageError."""
    run.check()
    hour, minute = _hour_and_minute(at)
    settings = [f"{name}={crontab_word(text)}" for name, text in sorted(run.environment.items())]
    polite = ["nice", "-n", "10", "ionice", "-c", "2", "-n", "7"]
    return " ".join([f"{minute} {hour} * * *", *settings, *polite, *map(crontab_word, run.command)])
