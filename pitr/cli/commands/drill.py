# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr drill`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pitr import times
from pitr.cli import boot_options, named_point, point_options
from pitr.cli.boot_options import (
    BootOption,
    BootTimeoutOption,
    ExpectOption,
    MemoryOption,
    ScreenshotOption,
)
from pitr.cli.display import tables
from pitr.cli.display.progress import showing
from pitr.cli.fleet_options import FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import (
    AtOption,
    Common,
    MaxWorkersOption,
    NewestGoodOption,
    OnlyVMOrPointArgument,
    PointOption,
    with_common,
)
from pitr.errors import DamageError, PitrError, UsageError
from pitr.jobs import documents, find
from pitr.jobs.facts import facts_of
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.verify import drill as drill_job
from pitr.jobs.verify.boot_drill import BootSettings, boot_drill
from pitr.model import Backup, Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, drills
from pitr.repository.drilled_boot import Boot
from pitr.repository.drills import Drill
from pitr.system.replace_file import replace_file
from pitr.system.target_path import given_path
from pitr.text import printable

_RESULTS = {True: "ok", False: "FAILED", None: "unknown"}

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--in",
        metavar="FOLDER",
        help="Folder for the temporary images. Default: TMPDIR.",
        parser=given_path("--in"),
    ),
]
DigestsOnlyOption = Annotated[
    bool, typer.Option("--digests-only", help="Create no images: read all data and compare the digests.")
]


@with_common(run="drill", moves_data=True)
def drill(
    common: Common,
    vm: OnlyVMOrPointArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    folder: FolderOption = None,
    digests_only: DigestsOnlyOption = False,
    boot: BootOption = False,
    expect: ExpectOption = None,
    memory: MemoryOption = None,
    boot_timeout: BootTimeoutOption = None,
    screenshot: ScreenshotOption = None,
    max_workers: MaxWorkersOption = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Prove that a point can be restored.

    pitr restores all disks of the point to temporary images. It compares their checksums, checks them with qemu-img,
    and looks for partition tables and file systems; e2fsck checks ext file systems. Without --at and --point, pitr
    takes the newest point, even if it is known to be damaged: a drill reads it again. The repository stores the
    result, and 'pitr list' shows it. If a check fails, pitr exits with 3.

    With --boot, pitr boots the point in qemu instead, over the disks as 'pitr serve' serves them, with the VM's
    firmware and kinds of disks, and without a network. The guest writes to a file that is removed. The proof is that
    the guest agent answers, or that the serial console matches --expect. A screen that has settled without a panic
    or a prompt for rescue leaves pitr unsure: it exits with 1. Add --digests-only to read all data first.

    Examples: pitr drill web1; pitr drill 1c2d3e4f; pitr drill web1 --at 2020-06-30T22:00 --in /var/tmp;
    pitr drill web1 --boot; pitr drill web1 --boot --expect 'web1 login:' --screenshot web1.png;
    pitr drill web1 --scheduler tls://backup:8786
    """
    job = _Job.of(
        digests_only,
        folder,
        _Boot(boot, expect, memory, boot_timeout, screenshot),
        common.workers(max_workers),
    )
    unnamed = at is None and point is None
    given = point_options.exactly_one("a drill", "now" if unnamed else at, point, newest_good=newest_good)
    fleet = FleetOptions(scheduler, tls)
    fleet.check()
    if boot and scheduler is not None:
        raise UsageError("--boot does not go with --scheduler", "Boot the point on this machine.")
    with common.repository() as repository:
        vm, by_id = named_point.vm_or_point(repository, vm, None if unnamed and not newest_good else given)
        asked = by_id or given
        # A drill is a check: it reads a damaged point again, unless you ask for a good one.
        wanted = GoodPoint((), check="drill", refuse=False)
        chosen = asked.find_good(repository, vm, wanted, common.out.notify)
        point_options.tell(common.out, chosen)
        point_options.warn(common.out, chosen, ())
        backup = chosen.backup
        common.run.about(backup)
        streams = find.some_streams_of(backup, ())
        with showing(common.out, f"drill {printable(backup.vm.name)}") as progress:
            result = _on_fleet(common, repository, fleet, backup, job, progress) or job.drill(
                repository, backup, streams, common.out.notify, progress
            )
        stored = _store(common, repository, result)
        common.run.detail = _verdict(result)
        facts = facts_of(repository, backup)
    written = job.write_screenshot(result.boot)
    if common.out.json:
        document = _document(result)
        if result.boot is not None:
            document["boot"] = documents.boot(result.boot, written or stored)
        common.out.document({"point": documents.point(backup, facts), "drill": document})
    else:
        _show(common, backup, result)
    if not result.ok:
        raise typer.Exit(PitrError.exit_code if result.is_unsure else DamageError.exit_code)


def _on_fleet(
    common: Common,
    repository: Repository,
    fleet: FleetOptions,
    backup: Backup,
    job: _Job,
    progress: Progress | None,
) -> Drill | None:
    """Return the result of a worker, in a folder of its machine; None without one."""
    if fleet.scheduler is None:
        return None
    from pitr.fleet.tasks import TrialRestore  # noqa: PLC0415 - most commands need no fleet

    trial = TrialRestore(backup.backup_id, job.folder, job.digests_only, job.workers)
    if job.digests_only:
        from pitr.fleet.points import drill_on  # noqa: PLC0415

        with fleet.watched(common, repository, job.workers, progress) as watched:
            return drill_on(watched, repository, trial) if watched is not None else None
    done: Drill | None = fleet.done(common, repository, trial, progress)
    return done


@dataclass(frozen=True, slots=True)
class _Boot:
    """The options about booting, as they were given."""

    boot: bool
    expect: str | None
    memory: str | None
    timeout: str | None
    screenshot: str | None

    def check(self) -> None:
        given = {
            "--expect": self.expect,
            "--memory": self.memory,
            "--boot-timeout": self.timeout,
            "--screenshot": self.screenshot,
        }
        for option, value in given.items():
            if value is not None and not self.boot:
                raise UsageError(f"{option} goes with --boot", "Add --boot, to boot the point in qemu.")


@dataclass(frozen=True, slots=True)
class _Job:
    """A checked drill. `settings` is None if it does not boot the point."""

    digests_only: bool
    folder: Path | None
    workers: int
    settings: BootSettings | None
    screenshot: Path | None

    @classmethod
    def of(cls, digests_only: bool, folder: Path | None, boot: _Boot, workers: int) -> _Job:
        """Check the options. Raises UsageError."""
        boot.check()
        if folder is not None and digests_only and not boot.boot:
            raise UsageError("--in and --digests-only exclude each other")
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"folder {folder} does not exist", "Create it, or name another folder with --in."
            )
        settings = None
        if boot.boot:
            settings = BootSettings(
                boot_options.expected(boot.expect, boot.timeout),
                boot_options.memory(boot.memory),
                folder,
                workers if digests_only else None,
            )
        return cls(digests_only, folder, workers, settings, boot_options.screenshot(boot.screenshot))

    def drill(
        self,
        repository: Repository,
        backup: Backup,
        streams: Sequence[Stream],
        notify: Notify,
        progress: Progress | None,
    ) -> Drill:
        if self.settings is not None:
            return boot_drill(repository, backup, streams, self.settings, notify, progress)
        return drill_job.drill(
            repository,
            backup,
            streams,
            folder=self.folder,
            digests_only=self.digests_only,
            workers=self.workers,
            progress=progress,
        )

    def write_screenshot(self, boot: Boot | None) -> str | None:
        """Write the picture to the file that was named, and return its path."""
        if self.screenshot is None or boot is None or boot.screenshot is None:
            return None
        replace_file(self.screenshot, boot.screenshot, 0o644)
        return str(self.screenshot)


def _store(common: Common, repository: Repository, result: Drill) -> str | None:
    """Keep the result in the repository, and return its object's name; a read-only repository is no failure."""
    try:
        return drills.add(repository.store, result)
    except PitrError as error:
        common.out.notify(f"cannot store the result of the drill: {error.message}")
        return None


def _document(result: Drill) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "time": times.to_text(result.time),
        "image": result.image,
        "duration_s": result.duration_ms / 1000,
        "disks": [{**asdict(disk), "ok": disk.ok} for disk in result.disks],
    }


def _verdict(result: Drill) -> str:
    """Return the result in capitals. Without a known file system nothing proves that the disks are of use."""
    if not result.ok:
        return "UNSURE" if result.is_unsure else "FAILED"
    if result.boot is not None:
        return "BOOTED"
    found = {finding.what for disk in result.disks for finding in disk.findings if finding.ok}
    return "PROVEN" if found & {"partitions", "content"} else "RESTORED, BUT NOTHING WAS RECOGNIZED"


def _show(common: Common, backup: Backup, result: Drill) -> None:
    common.out.show(
        tables.table(
            ("Disk", "Check", "Result", "Found"),
            (
                (disk.name, finding.what, _RESULTS[finding.ok], finding.message)
                for disk in result.disks
                for finding in disk.findings
            ),
            least={"Disk": ("cut", 12), "Found": ("fold", 24)},
        ),
        f"{_verdict(result)}: VM {printable(backup.vm.name)} at "
        f"{times.for_people(backup.point)}, in {times.duration(result.duration_ms / 1000)}.",
    )
