# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr schedule show|install|remove`."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from pitr import times
from pitr.cli.config import user_file
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import UsageError
from pitr.jobs.policy_run.policy import choose_policy
from pitr.jobs.schedule.install import Crontab, Scheduled, UnitFolder, lingers, unit_folder
from pitr.jobs.schedule.units import ScheduledRun, Timing, crontab_line, daily, units
from pitr.repository import location as locations
from pitr.repository.location import Location
from pitr.system.target_path import given_path

#: The settings of the environment that a scheduled run needs, too. Files get absolute paths.
_VARIABLES = ("XDG_STATE_HOME", "PITR_ENGINE_URL", "PITR_USERNAME", "PITR_LOG_FORMAT")
_FILES = ("XDG_CONFIG_HOME", "PITR_LOG_FILE", "PITR_CONFIG", "PITR_PASSWORD_FILE", "PITR_CAFILE")

app = typer.Typer(
    help="Run a policy every night, by systemd or by cron.\n\n"
    "The units have low CPU and I/O priority and may write to the repository only.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PolicyArgument = Annotated[
    str | None,
    typer.Argument(metavar="POLICY", help="Policy of the configuration. Default: the only policy."),
]
TimeOfDayOption = Annotated[
    str | None,
    typer.Option("--at", metavar="HH:MM", help="Run each day at this local time. Default: 22:00."),
]
CalendarOption = Annotated[
    str | None,
    typer.Option("--calendar", metavar="WHEN", help="Run at these times: an expression of systemd.time(7)."),
]
RandomDelayOption = Annotated[
    str | None,
    typer.Option(
        "--random-delay",
        metavar="TIME",
        help="Start up to this time later, so that not all machines start together. Default: 15m.",
    ),
]
RunAsOption = Annotated[
    str | None,
    typer.Option(
        "--run-as",
        metavar="USER",
        help="User of the runs, if root installs them. Default: the repository's owner.",
    ),
]
OnFailureOption = Annotated[
    str | None,
    typer.Option(
        "--on-failure",
        metavar="UNIT",
        help="Unit to start when a run fails. Default: one that writes a line with priority crit to the journal.",
    ),
]
AlsoWritableOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--writable",
        metavar="FOLDER",
        help="Another folder that the runs may write to, such as that of a hook; repeatable.",
        parser=given_path("--writable"),
    ),
]
CrontabOption = Annotated[
    bool, typer.Option("--crontab", help="Use a line of your crontab instead of systemd.")
]
UnitsFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--in",
        metavar="FOLDER",
        help="Write the units to this folder, and do not call systemctl.",
        parser=given_path("--in"),
    ),
]


@dataclass(frozen=True, slots=True)
class _When:
    """The times that the user wants; None for those that were not given."""

    at: str | None
    calendar: str | None
    random_delay: str | None

    def timing(self, installed: Timing | None) -> Timing:
        """Return the timing of the units. What is not given stays as it is `installed`."""
        if self.at is not None and self.calendar is not None:
            raise UsageError("--at and --calendar exclude each other")
        known = installed or Timing()
        calendar = daily(self.at) if self.at is not None else self.calendar or known.calendar
        if self.random_delay is None:
            return Timing(calendar, known.delay_s)
        return Timing(calendar, int(times.parse_wait("--random-delay", self.random_delay)))

    def time_of_day(self) -> str:
        """Return the time for a crontab."""
        if self.calendar is not None or self.random_delay is not None:
            raise UsageError("--calendar and --random-delay go with systemd, not with --crontab", "Use --at.")
        return self.at or "22:00"


@dataclass(frozen=True, slots=True)
class _How:
    """How the units run and where they are."""

    run_as: str | None
    on_failure: str | None
    writable: tuple[Path, ...]
    folder: Path | None


@app.command("show")
@with_common(engine=True)
def show(
    common: Common,
    policy: PolicyArgument = None,
    at: TimeOfDayOption = None,
    calendar: CalendarOption = None,
    random_delay: RandomDelayOption = None,
    run_as: RunAsOption = None,
    on_failure: OnFailureOption = None,
    writable: AlsoWritableOption = None,
    crontab: CrontabOption = False,
) -> None:
    """Show the units, or the crontab line, that 'pitr schedule install' would write.

    Each unit follows a line with # and the name of its file.

    Examples: pitr schedule show nightly --at 22:00; pitr schedule show nightly --crontab
    """
    when = _When(at, calendar, random_delay)
    _check_policy(common, policy, only_warn=True)
    folder = unit_folder(None)
    run = _run(common, policy, _How(run_as, on_failure, tuple(writable or ()), None), folder, crontab=crontab)
    if crontab:
        line = crontab_line(run, when.time_of_day())
        if common.out.json:
            common.out.document({"policy": policy, "units": [], "crontab": line})
        else:
            typer.echo(line)
        return
    shown = units(run, when.timing(folder.timing(run.base_name)))
    if common.out.json:
        common.out.document({"policy": policy, "units": [asdict(unit) for unit in shown], "crontab": None})
        return
    typer.echo("\n".join(f"# {unit.file}\n{unit.text}" for unit in shown), nl=False)


@app.command("install")
@with_common(engine=True)
def install(
    common: Common,
    policy: PolicyArgument = None,
    at: TimeOfDayOption = None,
    calendar: CalendarOption = None,
    random_delay: RandomDelayOption = None,
    run_as: RunAsOption = None,
    on_failure: OnFailureOption = None,
    writable: AlsoWritableOption = None,
    crontab: CrontabOption = False,
    folder: UnitsFolderOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Install the timer of a policy, or the crontab line.

    If root installs it, the units belong to the system, else to the user. A second installation replaces the units
    and keeps the times that you do not name; name the other options again. The units carry the repository and the
    engine of this command line and of PITR_… in the environment. A password must be in a file.

    Examples: pitr schedule install nightly --at 22:00; pitr schedule install nightly --crontab --dry-run
    """
    when = _When(at, calendar, random_delay)
    _check_policy(common, policy, only_warn=dry_run)
    target = unit_folder(folder)
    if run_as is not None and target.manager == ("systemctl", "--user"):
        raise UsageError("--run-as goes with units of the system", "Run the command as root.")
    how = _How(run_as, on_failure, tuple(writable or ()), folder)
    run = _run(common, policy, how, target, crontab=crontab)
    if crontab:
        done = Crontab().install(run.base_name, crontab_line(run, when.time_of_day()), dry_run=dry_run)
    else:
        wanted = units(run, when.timing(target.timing(run.base_name)))
        if not dry_run:
            target.check()
            if folder is None and not isinstance(common.repository_location(), Path):
                _create_state_folder(run.writable[0], run.user)
        done = target.install(wanted, dry_run=dry_run)
        _warn_of_logout(common, target)
    _show(common, policy, done)


@app.command("remove")
@with_common()
def remove(
    common: Common,
    policy: PolicyArgument = None,
    crontab: CrontabOption = False,
    folder: UnitsFolderOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Remove the timer of a policy, or the crontab line, that 'pitr schedule install' wrote.

    A run that works at this moment goes on. Changes that you made with 'systemctl edit' stay.

    Examples: pitr schedule remove nightly; pitr schedule remove nightly --crontab
    """
    name = ScheduledRun(policy, (), {}, ()).base_name
    if crontab:
        done = Crontab().remove(name, dry_run=dry_run)
    else:
        target = unit_folder(folder)
        if not dry_run:
            target.check()
        done = target.remove(name, dry_run=dry_run)
    _show(common, policy, done)


def _check_policy(common: Common, policy: str | None, *, only_warn: bool) -> None:
    """Check that the configuration has the policy. Raises UsageError."""
    try:
        choose_policy(common.settings.policies, policy)
    except UsageError as error:
        if not only_warn:
            raise
        common.out.notify(f"{error.message}. {error.advice}")


def _run(
    common: Common, policy: str | None, how: _How, folder: UnitFolder, *, crontab: bool = False
) -> ScheduledRun:
    """Return what the units run: this pitr, with the settings of this command line and of the environment."""
    location = common.repository_location()
    repository = location.absolute() if isinstance(location, Path) else location
    environment = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    environment |= {name: str(Path(os.environ[name]).absolute()) for name in _FILES if os.environ.get(name)}
    given = {
        "PITR_REPO": locations.text(repository) if common.repo is not None else None,
        "PITR_CONFIG": common.config_file and common.config_file.absolute(),
        "PITR_ENGINE_URL": common.engine_url,
        "PITR_USERNAME": common.username,
        "PITR_PASSWORD_FILE": common.password_file and common.password_file.absolute(),
        "PITR_CAFILE": common.cafile and common.cafile.absolute(),
        "PITR_LOG_FILE": common.log_file and common.log_file.absolute(),
        "PITR_LOG_FORMAT": common.log_format,
    }
    environment |= {name: str(value) for name, value in given.items() if value}
    options = [
        *(["--config", common.config] if common.config else []),
        *(["--insecure"] if common.insecure else []),
    ]
    command = [*_program(), "run", *([policy] if policy is not None else []), *options]
    of_system = not crontab and (how.run_as is not None or folder.manager != ("systemctl", "--user"))
    user = how.run_as or _owner(repository)
    writable = [
        repository if isinstance(repository, Path) else _state_folder(user),
        *(path.absolute() for path in how.writable),
        # logrotate renames the file, and pitr creates the next one.
        *([common.log_file.absolute().parent] if common.log_file is not None else []),
    ]
    if (
        of_system
        and user != pwd.getpwuid(os.geteuid()).pw_name
        and user_file(os.environ) in common.settings.files
    ):
        common.out.notify(
            f"the runs of user {user} do not read {user_file(os.environ)}: move the settings to /etc/pitr/config.toml"
        )
    return ScheduledRun(policy, command, environment, writable, user if of_system else None, how.on_failure)


def _program() -> list[str]:
    """Return the words that start this pitr. A link to it stays, because an update may move its target."""
    called = Path(sys.argv[0])
    if called.name == "pitr" and called.is_file():
        return [str(called.absolute())]
    return [sys.executable, "-m", "pitr"]


def _owner(repository: Location) -> str:
    """Return the owner of the repository's folder; without one, the user who runs pitr."""
    try:
        return pwd.getpwuid(
            repository.stat().st_uid if isinstance(repository, Path) else os.geteuid()
        ).pw_name
    except (OSError, KeyError):
        return "root"


def _state_folder(user: str) -> Path:
    """Return the folder for the catalogs and locks of repositories on S3, which all runs of this user share."""
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base).absolute() / "pitr"
    try:
        return Path(pwd.getpwnam(user).pw_dir, ".local/state/pitr")
    except KeyError:
        raise UsageError(f"there is no user {user}", "Name another one with --run-as.") from None


def _create_state_folder(folder: Path, user: str | None) -> None:
    """Create the folder, which systemd expects to exist. For a folder of a repository, it exists already."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if user is not None and made:
        for path in made:
            shutil.chown(path, user)


def _warn_of_logout(common: Common, folder: UnitFolder) -> None:
    if folder.manager is not None and "--user" in folder.manager:
        user = pwd.getpwuid(os.geteuid()).pw_name
        if not lingers(user):
            common.out.notify(
                f"the timer runs only while {user} is logged in. To run it always: loginctl enable-linger {user}"
            )


def _show(common: Common, policy: str | None, done: Scheduled) -> None:
    if common.out.json:
        common.out.document({"policy": policy, **asdict(done)})
        return
    would = done.dry_run
    for verb, names in (
        ("Would write" if would else "Wrote", done.written),
        ("Unchanged", done.unchanged),
        ("Would remove" if would else "Removed", done.removed),
        ("Would run" if would else "Ran", done.commands),
    ):
        for name in names:
            common.out.show(f"{verb}: {name}")
    if not (done.written or done.unchanged or done.removed):
        common.out.show("Nothing is installed.")
