# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo from the first backup to the checks of the restored disks."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pitr.errors import LabError, ProgramFailed, UsageError
from pitr.lab import Lab, LabDisk
from pitr.lab.demo.guest import WELCOME, WebServer, welcome
from pitr.lab.demo.report import Proof, Report, Step
from pitr.lab.demo.shell import Say, Shell
from pitr.lab.folder import lab_folder
from pitr.lab.host.filesystem import check_ext4, program
from pitr.system.process import require
from pitr.system.process import run as run_program
from pitr.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

_VM = "web1"
_FIRST = "2020-06-29T22:00"
_MORNING = "2020-06-30T10:00"
_NOON = "2020-06-30T12:00"
_EVENING = "2020-06-30T22:00"


def run(say: Say, *, keep: Path | None = None, columns: int | None = None) -> Report:
    """Run the demo; `say` shows each line of it. All files are in a temporary folder that is removed at the end.

    `keep`: a new folder for the repository, the restored disks and the copies of the VM's disks; it is not removed.
    `columns`: the width of the user's terminal. The report contains failed checks; a failed command raises
    ProgramFailed. Raises ProgramMissing when qemu or e2fsprogs is not installed, UsageError when `keep` exists.
    """
    require("qemu-img", "qemu-nbd", "qemu-storage-daemon")
    program("mke2fs")
    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(f"{keep} exists already", "Choose a folder that does not exist yet.") from None
    started = time.monotonic()
    with lab_folder(keep, close=_nothing) as folder, Lab() as lab, _closing_undisturbed():
        # Ignore this machine's configuration of a real engine.
        variables = {"PITR_CONFIG": os.devnull, "PITR_REPO": "repo", **lab.environment()}
        if columns is not None:
            variables["COLUMNS"] = str(columns)
        story = _Story(lab, folder.absolute(), Shell(folder.absolute(), variables, say))
        story.run()
        if keep is not None:
            say(
                f"\n{keep} contains the repository, the restored disks, and copies of the VM's disks (in moments/)."
            )
        return Report(
            tuple(story.steps), tuple(story.proofs), story.replayed_bytes, time.monotonic() - started
        )


class _Story:
    def __init__(self, lab: Lab, folder: Path, shell: Shell) -> None:
        self._lab = lab
        self._folder = folder
        self._shell = shell
        self._say = shell.say
        self.steps: list[Step] = []
        self.proofs: list[Proof] = []
        self.replayed_bytes = 0

    def run(self) -> None:
        self._say(
            "# This demo backs up a VM three times, overwrites its disks, restores them and compares every byte.\n"
            "# It runs on a local oVirt on this machine: a simulated engine, a real ovirt-imageio and a real qemu.\n"
            "# Lines with '#' explain the demo. Lines with '$' are commands that it runs."
        )
        guest_folder = self._folder / "guest"
        guest_folder.mkdir()
        server = WebServer(self._lab, _VM, guest_folder)
        self._say(
            f"\n# The VM {_VM} runs. It has two disks: 'system' (an ext4 file system with files) and 'database'.\n"
            "# pitr finds the repository and the engine in environment variables. First, create the repository:"
        )
        self._shell.introduce()
        self._shell.pitr("init")
        self._back_up_three_times(server)
        self._say(
            f"\n# Disaster at 23:15: random data overwrites large parts of both disks of {_VM}.\n"
            "# pitr restores the newest point to new disks:"
        )
        server.overwrite_everything()
        broken = self._copy("broken", server.system)
        self._prove("The disaster damaged the VM's file system", not _is_clean(broken))
        self._restore_evening(server)
        self._restore_morning()
        self._say("\n# Finally, pitr verifies all data in the repository:")
        self._step("verify", ("verify",), server)
        left = [*self._lab.open_transfers(), *self._lab.open_backups(), *self._lab.locked_disks()]
        self._prove("The engine has no open backup, open transfer or locked disk", not left)

    def _back_up_three_times(self, server: WebServer) -> None:
        self._moment(_FIRST, server, "a full backup of web1, with all its data")
        self._step("full backup", ("backup", _VM, "--full"), server)
        server.deploy(2, uploads=12 * MIB, remove="idlelib")
        server.write_pages(0, 300)
        server.compact_database(8 * MIB, 4 * MIB)
        self._moment(
            _MORNING,
            server,
            "web1 serves release 2 now, and its database has changed; this backup reads only the changes",
        )
        self._step("incremental", ("backup", "--incremental"), server)
        server.deploy(3, uploads=6 * MIB, remove="tkinter")
        server.write_pages(200, 300)
        server.compact_database(24 * MIB, 8 * MIB)
        self._moment(_EVENING, server, "web1 serves release 3 now, and its database has changed again")
        self._step("incremental", ("backup", "--incremental"), server)
        self._say("\n# The repository now has three points that you can restore to:")
        self._shell.pitr("list")

    def _restore_evening(self, server: WebServer) -> None:
        known = {disk.id for disk in self._lab.disks}
        self._step("restore", ("restore", "--at", _EVENING), server, uploads=True)
        self._say(
            "\n# Are the new disks correct? Compare them with copies of the VM's disks that the demo made at 22:00,"
            "\n# check the restored file system, and read the web page in it:"
        )
        new = [disk for disk in self._lab.disks if disk.id not in known]
        for disk in server.disks:
            matches = [created for created in new if created.name.startswith(disk.name)]
            if len(matches) != 1:
                raise LabError(f"the restore created {len(matches)} new disks for disk {disk.name}, not one")
            restored = self._copy("restored", matches[0], name=disk.name)
            self._prove_identical(disk.name, restored, "raw", _EVENING)
        system = self._folder / "restored/system.raw"
        clean = self._succeeds("e2fsck", "-fn", self._relative(system), path=program("e2fsck"))
        self._prove("The restored file system is clean", clean)
        page = run_program([program("debugfs"), "-R", f"cat {WELCOME}", str(system)])
        self._say(f"\n$ debugfs -R 'cat {WELCOME}' {self._relative(system)}\n{page.rstrip()}")
        self._prove("The restored web page is the page of 22:00 (release 3)", page == welcome(3))
        document = self._shell.query("show", self._newest_point())
        chain: Any = document["chain"]
        self.replayed_bytes = sum(disk["data_bytes"] for point in chain for disk in point["disks"])

    def _restore_morning(self) -> None:
        self._say(
            "\n# You can restore any point, also to image files. For 12:00 pitr takes the last point before it, 10:00:"
        )
        self._shell.pitr("restore", _VM, "--at", _NOON, "--to-file", "noon/", "--format", "qcow2")
        for name in ("system", "database"):
            self._prove_identical(name, self._folder / f"noon/{name}.qcow2", "qcow2", _MORNING)

    def _moment(self, moment: str, server: WebServer, what: str) -> None:
        """Set the engine's clock, and copy the VM's disks for the later checks."""
        self._lab.clock.set(datetime.fromisoformat(moment).astimezone(), frozen=True)
        for disk in server.disks:
            self._copy(_folder_of(moment), disk)
        self._say(f"\n# {moment.replace('T', ' ')}: {what}.")

    def _step(
        self, name: str, arguments: tuple[str, ...], server: WebServer, *, uploads: bool = False
    ) -> None:
        """Run a command of pitr, and record the amount of data that it moved."""
        newest = sorted((self._folder / "moments").iterdir())[-1]
        disk_bytes = sum(image.stat().st_blocks * 512 for image in newest.iterdir())
        known = {disk.id for disk in self._lab.disks}
        stored = self._stored_bytes()
        seconds = self._shell.pitr(*arguments)
        added = self._stored_bytes() - stored
        new = [disk.id for disk in self._lab.disks if disk.id not in known]
        uploaded = sum(self._lab.transferred(disk_id) for disk_id in new) if uploads else None
        command = " ".join(("pitr", *arguments))
        self.steps.append(Step(name, command, disk_bytes, added or None, uploaded, seconds))

    def _stored_bytes(self) -> int:
        streams = self._folder / "repo/streams"
        return sum(file.stat().st_size for file in streams.rglob("*") if file.is_file())

    def _newest_point(self) -> str:
        points: Any = self._shell.query("list", _VM)["points"]
        return str(points[0]["backup_id"])

    def _copy(self, moment: str, disk: LabDisk, *, name: str | None = None) -> Path:
        """Copy the current data of a disk to a sparse raw file, without pitr."""
        folder = self._folder / moment
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name or disk.name}.raw"
        disk.copy_content(path)
        return path

    def _prove_identical(self, name: str, image: Path, image_format: str, moment: str) -> None:
        truth = self._folder / _folder_of(moment) / f"{name}.raw"
        then = moment.replace("T", " ")
        identical = self._succeeds(
            *("qemu-img", "compare", "-f", image_format, "-F", "raw"),
            *(self._relative(image), self._relative(truth)),
        )
        # qemu-img calls a longer image identical if the rest of it is zero.
        identical = identical and _size(image) == truth.stat().st_size
        self._prove(f"The restored disk '{name}' is identical to the VM's disk at {then}", identical)

    def _succeeds(self, name: str, *arguments: str, path: str | None = None) -> bool:
        try:
            self._shell.run(name, *arguments, program=(path or name,))
        except ProgramFailed as failure:
            self._say(failure.message)
            return False
        return True

    def _prove(self, what: str, ok: bool) -> None:
        self.proofs.append(Proof(what, ok))
        if not ok:
            self._say(f"# CHECK FAILED: {what}.")

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folder))


def _size(image: Path) -> int:
    """Return the size in bytes of the disk in an image file."""
    return int(orjson.loads(run_program(["qemu-img", "info", "--output=json", str(image)]))["virtual-size"])


def _is_clean(image: Path) -> bool:
    try:
        check_ext4(image)
    except ProgramFailed:
        return False
    return True


def _folder_of(moment: str) -> str:
    # qemu takes the text before a colon as a protocol.
    return f"moments/{moment.replace(':', '')}"


@contextmanager
def _closing_undisturbed() -> Iterator[None]:
    """After an error or interrupt, ignore further signals while the lab shuts down."""
    try:
        yield
    except BaseException:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        raise


def _nothing() -> None:
    """Close nothing: a folder needs no cleanup."""
