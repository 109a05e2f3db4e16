# SPDX-License-Identifier: GPL-2.0-or-later
"""Install and remove the units, and the line of the user's crontab. Other units and lines are left alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pitr.errors import PitrError, ProgramMissing, UsageError
from pitr.jobs.schedule.units import FAILURE_UNIT, MARK, Timing, Unit
from pitr.system.process import find_program, run

SYSTEM_FOLDER = Path("/etc/systemd/system")
#: It exists where systemd runs (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")
_CRONTAB_MARK = "# Created by 'pitr schedule install': "

RunProgram = Callable[[Sequence[str]], str]
"""Runs a program and returns its output; raises ProgramFailed."""


@dataclass(slots=True)
class Scheduled:
    """What was done, or would be: files (or a crontab's lines) and the commands that follow."""

    dry_run: bool
    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class UnitFolder:
    """The folder of the units. `manager` calls systemctl; None if systemd does not read the folder."""

    path: Path
    manager: tuple[str, ...] | None
    run_program: RunProgram = run

    def check(self) -> None:
        """Raise ProgramMissing if systemd does not run here."""
        if self.manager is not None and (find_program("systemctl") is None or not _BOOTED.is_dir()):
            raise ProgramMissing(
                "systemd does not run on this machine",
                "Use --crontab, or write the units for another machine with --in FOLDER.",
            )

    def timing(self, base_name: str) -> Timing | None:
        """Return the timing of an installed timer of pitr; None if there is none."""
        text = self._read(f"{base_name}.timer") or ""
        calendar = re.search(r"^OnCalendar=(.+)$", text, re.MULTILINE)
        delay = re.search(r"^RandomizedDelaySec=(\d+)$", text, re.MULTILINE)
        if not text.startswith(MARK) or calendar is None or delay is None:
            return None
        return Timing(calendar[1].replace("%%", "%"), int(delay[1]))

    def install(self, units: Sequence[Unit], *, dry_run: bool = False) -> Scheduled:
        """Write the units that differ, and start the timers. Raises UsageError for a unit that pitr did not create."""
        done = Scheduled(dry_run)
        for unit in units:
            self._refuse_foreign(unit.file)
        for unit in units:
            same = self._read(unit.file) == unit.text
            (done.unchanged if same else done.written).append(str(self.path / unit.file))
            if not same and not dry_run:
                self._write(unit)
        timers = [unit.file for unit in units if unit.file.endswith(".timer")]
        commands = [["daemon-reload"]] if done.written else []
        commands += [["enable", timer] for timer in timers]
        # A timer that runs already goes by its old times until it starts again.
        commands += [["restart", timer] for timer in timers]
        self._call(done, commands)
        return done

    def remove(self, base_name: str, *, dry_run: bool = False) -> Scheduled:
        """Stop the timer and remove the units that `install` wrote. Raises UsageError as `install` does."""
        done = Scheduled(dry_run)
        own = [
            name for name in (f"{base_name}.timer", f"{base_name}.service") if self._read(name) is not None
        ]
        for name in own:
            self._refuse_foreign(name)
        if own:
            with suppress(UsageError):
                self._refuse_foreign(FAILURE_UNIT)
                if self._read(FAILURE_UNIT) is not None and not self._others(own):
                    own.append(FAILURE_UNIT)
        timers = [name for name in own if name.endswith(".timer")]
        # The service is not stopped: a run that works now may finish.
        self._call(done, [["disable", "--now", timer] for timer in timers])
        for name in own:
            done.removed.append(str(self.path / name))
            if not dry_run:
                _unlink(self.path / name)
        self._call(done, [["daemon-reload"]] if own else [])
        return done

    def _others(self, own: Sequence[str]) -> bool:
        """Return whether other services of pitr are installed, which use the unit that reports a failure."""
        services = {path.name for path in self.path.glob("pitr*.service")} - {FAILURE_UNIT, *own}
        return any("OnFailure=pitr-failed@" in (self._read(name) or "") for name in services)

    def _call(self, done: Scheduled, commands: Sequence[Sequence[str]]) -> None:
        if self.manager is None:
            return
        for command in commands:
            words = [*self.manager, *command]
            done.commands.append(" ".join(words))
            if not done.dry_run:
                self.run_program(words)

    def _read(self, file: str) -> str | None:
        try:
            return (self.path / file).read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise PitrError(f"cannot read {self.path / file}: {error}") from None

    def _refuse_foreign(self, file: str) -> None:
        text = self._read(file)
        if text is not None and not text.startswith(MARK):
            raise UsageError(
                f"{self.path / file} exists, and pitr did not create it", "Move it away, then try again."
            )

    def _write(self, unit: Unit) -> None:
        path = self.path / unit.file
        new = path.with_name(f".{unit.file}.new")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new.write_text(unit.text)
            new.chmod(0o644)
            new.replace(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise PitrError(
                f"cannot write {path}: {error.strerror}",
                "Run the command as root, or write elsewhere with --in FOLDER.",
            ) from None


def unit_folder(folder: Path | None, run_program: RunProgram = run) -> UnitFolder:
    """Return the folder for units: `folder`; for None the system's folder if root runs pitr, else the user's."""
    if folder is not None:
        return UnitFolder(folder, None, run_program)
    if os.geteuid() == 0:
        return UnitFolder(SYSTEM_FOLDER, ("systemctl",), run_program)
    base = os.environ.get("XDG_CONFIG_HOME")
    home = Path(base) if base else Path("~/.config").expanduser()
    return UnitFolder(home / "systemd" / "user", ("systemctl", "--user"), run_program)


def lingers(user: str) -> bool:
    """Return whether the user's timers also run while the user is not logged in."""
    return Path("/var/lib/systemd/linger", user).exists()


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise PitrError(f"cannot remove {path}: {error.strerror}", "Run the command as root.") from None


@dataclass(frozen=True, slots=True)
class Crontab:
    """The crontab of the user who runs pitr."""

    def install(self, base_name: str, line: str, *, dry_run: bool = False) -> Scheduled:
        """Add the line, or replace the one that `install` wrote before. Raises ProgramMissing, ProgramFailed."""
        done = Scheduled(dry_run)
        lines = self._lines()
        mark = _CRONTAB_MARK + base_name
        wanted = [*_without(lines, mark), mark, line]
        if mark in lines and lines[lines.index(mark) + 1 : lines.index(mark) + 2] == [line]:
            done.unchanged.append(line)
            return done
        done.written.append(line)
        self._store(wanted, done)
        return done

    def remove(self, base_name: str, *, dry_run: bool = False) -> Scheduled:
        """Remove the line that `install` wrote. Raises ProgramMissing, ProgramFailed."""
        done = Scheduled(dry_run)
        lines = self._lines()
        mark = _CRONTAB_MARK + base_name
        if mark in lines:
            done.removed += lines[lines.index(mark) + 1 : lines.index(mark) + 2]
            self._store(_without(lines, mark), done)
        return done

    @staticmethod
    def _lines() -> list[str]:
        program = _crontab()
        done = subprocess.run([program, "-l"], capture_output=True, text=True, check=False)
        # A user without a crontab is no failure, but the exit code does not tell it from one.
        if done.returncode != 0 and "no crontab for" not in done.stderr:
            raise PitrError(f"cannot read the crontab: {done.stderr.strip() or 'crontab -l failed'}")
        return done.stdout.splitlines() if done.returncode == 0 else []

    @staticmethod
    def _store(lines: Sequence[str], done: Scheduled) -> None:
        if done.dry_run:
            return
        text = "".join(f"{line}\n" for line in lines)
        stored = subprocess.run([_crontab(), "-"], input=text, capture_output=True, text=True, check=False)
        if stored.returncode != 0:
            raise PitrError(f"cannot write the crontab: {stored.stderr.strip() or 'crontab failed'}")


def _crontab() -> str:
    program = find_program("crontab")
    if program is None:
        raise ProgramMissing("the program crontab is not installed", "On Debian: apt-get install cron")
    return program


def _without(lines: Sequence[str], mark: str) -> list[str]:
    """Return the lines without the mark and the line behind it."""
    kept: list[str] = []
    skip = False
    for line in lines:
        if skip:
            skip = False
        elif line == mark:
            skip = True
        else:
            kept.append(line)
    return kept
