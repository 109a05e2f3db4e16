# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens in the demo, from the first backup to the proof."""

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
    """Tell the whole story; `say` gets each line of it. Everything is in a temporary folder and goes with it.

    `keep`: a new folder that gets the repository, the restored disks and the copies of what the VM held, and stays.
    `columns`: the width of the reader's terminal. A proof that fails is in the report; a command that fails raises
    ProgramFailed. Raises ProgramMissing when qemu or e2fsprogs is not installed, UsageError when `keep` exists.
    """
    require("qemu-img", "qemu-nbd", "qemu-storage-daemon")
    program("mke2fs")
    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(f"{keep} exists already", "Name a folder that does not exist.") from None
    started = time.monotonic()
    with lab_folder(keep, close=_nothing) as folder, Lab() as lab, _closing_undisturbed():
        # What this machine's configuration says about a real engine has nothing to do with the demo.
        variables = {"PITR_CONFIG": os.devnull, "PITR_REPO": "repo", **lab.environment()}
        if columns is not None:
            variables["COLUMNS"] = str(columns)
        story = _Story(lab, folder.absolute(), Shell(folder.absolute(), variables, say))
        story.tell()
        if keep is not None:
            say(f"\nKept in {keep}: the repository, the restored disks, and in moments/ what the VM held.")
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

    def tell(self) -> None:
        self._say("# A local oVirt is up: a simulated engine before a real imageio daemon and real qemu.")
        guest_folder = self._folder / "guest"
        guest_folder.mkdir()
        server = WebServer(self._lab, _VM, guest_folder)
        self._say(
            f"# VM {_VM} runs: disk 'system' with ext4 and real files, disk 'database' with random pages."
        )
        self._shell.introduce()
        self._shell.pitr("init")
        self._back_up_three_times(server)
        self._say(f"\n# 23:15, the disaster: something overwrites both disks of {_VM}.")
        server.overwrite_everything()
        broken = self._copy("broken", server.system)
        self._prove("After the disaster the VM's file system is broken", not _is_clean(broken))
        self._restore_evening(server)
        self._restore_morning()
        self._step("verify", ("verify",), server)
        left = [*self._lab.open_transfers(), *self._lab.open_backups(), *self._lab.locked_disks()]
        self._prove("Nothing is left open or locked on the engine", not left)

    def _back_up_three_times(self, server: WebServer) -> None:
        self._moment(_FIRST, server, "the first backup, with all data")
        self._step("full backup", ("backup", _VM, "--full"), server)
        server.deploy(2, uploads=12 * MIB, remove="idlelib")
        server.write_pages(0, 300)
        server.compact_database(8 * MIB, 4 * MIB)
        self._moment(_MORNING, server, "release 2 is online, the database was written to and compacted")
        self._step("incremental", ("backup", "--incremental"), server)
        server.deploy(3, uploads=6 * MIB, remove="tkinter")
        server.write_pages(200, 300)
        server.compact_database(24 * MIB, 8 * MIB)
        self._moment(_EVENING, server, "release 3 is online, and more of the same")
        self._step("incremental", ("backup", "--incremental"), server)
        self._shell.pitr("list")

    def _restore_evening(self, server: WebServer) -> None:
        known = {disk.id for disk in self._lab.disks}
        self._step("restore", ("restore", "--at", _EVENING), server, uploads=True)
        self._say(
            "\n# The proof: the new disks, read back from the host, and copies made at 22:00 of what the VM held."
        )
        new = [disk for disk in self._lab.disks if disk.id not in known]
        for disk in server.disks:
            found = [made for made in new if made.name.startswith(disk.name)]
            if len(found) != 1:
                raise LabError(f"the restore made {len(found)} new disks for disk {disk.name}")
            restored = self._copy("restored", found[0], name=disk.name)
            self._prove_identical(disk.name, restored, "raw", _EVENING)
        system = self._folder / "restored/system.raw"
        clean = self._succeeds("e2fsck", "-fn", self._relative(system), found=program("e2fsck"))
        self._prove("The restored file system is clean", clean)
        page = run_program([program("debugfs"), "-R", f"cat {WELCOME}", str(system)])
        self._say(f"\n$ debugfs -R 'cat {WELCOME}' {self._relative(system)}\n{page.rstrip()}")
        self._prove("A file of the restored disk says what it said at 22:00: release 3", page == welcome(3))
        document = self._shell.query("show", self._newest_point())
        chain: Any = document["chain"]
        self.replayed_bytes = sum(disk["data_bytes"] for point in chain for disk in point["disks"])

    def _restore_morning(self) -> None:
        self._say("\n# Any other moment, to files: at noon the newest point was that of 10:00.")
        self._shell.pitr("restore", _VM, "--at", _NOON, "--to-file", "noon/", "--format", "qcow2")
        for name in ("system", "database"):
            self._prove_identical(name, self._folder / f"noon/{name}.qcow2", "qcow2", _MORNING)

    def _moment(self, moment: str, server: WebServer, what: str) -> None:
        """Set the engine's clock, and keep copies of what the VM's disks hold now."""
        self._lab.clock.set(datetime.fromisoformat(moment).astimezone(), frozen=True)
        for disk in server.disks:
            self._copy(_folder_of(moment), disk)
        self._say(f"\n# {moment.replace('T', ' ')}: {what}.")

    def _step(
        self, name: str, arguments: tuple[str, ...], server: WebServer, *, uploads: bool = False
    ) -> None:
        """Run a command of pitr, and note what it moved."""
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
        """Copy what a disk holds now, past pitr, to a sparse raw file."""
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
        # The comparison takes a longer image for the same when the rest of it is zero.
        identical = identical and _size(image) == truth.stat().st_size
        self._prove(f"Disk {name} is byte for byte what the VM held at {then}", identical)

    def _succeeds(self, name: str, *arguments: str, found: str | None = None) -> bool:
        try:
            self._shell.run(name, *arguments, program=(found or name,))
        except ProgramFailed as failure:
            self._say(failure.message)
            return False
        return True

    def _prove(self, what: str, ok: bool) -> None:
        self.proofs.append(Proof(what, ok))
        if not ok:
            self._say(f"# NOT PROVED: {what}.")

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folder))


def _size(image: Path) -> int:
    """The size of the disk in an image, in bytes."""
    return int(orjson.loads(run_program(["qemu-img", "info", "--output=json", str(image)]))["virtual-size"])


def _is_clean(image: Path) -> bool:
    try:
        check_ext4(image)
    except ProgramFailed:
        return False
    return True


def _folder_of(moment: str) -> str:
    # qemu takes what is before a colon for a protocol.
    return f"moments/{moment.replace(':', '')}"


@contextmanager
def _closing_undisturbed() -> Iterator[None]:
    """When something ends the story early, further signals do not disturb the lab's end."""
    try:
        yield
    except BaseException:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        raise


def _nothing() -> None:
    """The folder alone has nothing to close."""
