# SPDX-License-Identifier: GPL-2.0-or-later
"""Drills that boot a point: a Debian that comes up or has lost its boot loader, and guests of one sector."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.boot import screen, watch
from pitr.lab import Lab
from pitr.model import Backup
from pitr.repository import Repository, drills
from tests.support import debian_guest, tiny_guests
from tests.support.lab import MiB
from tests.support.pitr import Pitr, ended, wait_until
from tests.support.points import disk_id
from tests.support.points_of_images import store_states

_PNG = b"\x89PNG\r\n\x1a\n"
_LOST = debian_guest.missing()
_debian = pytest.mark.skipif(bool(_LOST), reason=f"not installed: {', '.join(_LOST)}")
pytestmark = pytest.mark.skipif(
    bool(debian_guest.missing_qemu()), reason=f"not installed: {', '.join(debian_guest.missing_qemu())}"
)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return debian_guest.build(tmp_path_factory.mktemp("debian"))


def _back_up(lab: Lab, pitr: Pitr, image: Path) -> None:
    vm = lab.add_vm("web")
    vm.add_disk("data", MiB)
    vm.add_disk("system", image.stat().st_size, content=image, bootable=True)
    pitr.backup("web")


def _findings(document: Any, name: str) -> dict[str, Any]:
    (disk,) = [disk for disk in document["drill"]["disks"] if disk["name"] == name]
    return {finding["what"]: finding for finding in disk["findings"]}


def _store(repository: Repository, disk: bytes, configuration: str | None = None) -> Backup:
    (backup,) = store_states(repository, [[disk.ljust(MiB, b"\0")]], configuration)
    return backup


@_debian
def test_a_debian_is_proven_by_its_agent(lab: Lab, pitr: Pitr, debian: Path, tmp_path: Path) -> None:
    _back_up(lab, pitr, debian)
    picture = tmp_path / "web.png"
    document = pitr.json("drill", "web", "--boot", "--screenshot", picture)
    drill = document["drill"]
    assert drill["ok"] and not drill["image"]
    assert {**drill["boot"], "seconds": 0} == {
        "result": "passed",
        "evidence": "guest-agent",
        "seconds": 0,
        "screenshot": str(picture),
    }
    assert drill["boot"]["seconds"] > 0 and picture.read_bytes().startswith(_PNG)
    assert _findings(document, "system")["boot"]["ok"] is True
    assert "boot" not in _findings(document, "data")
    (point,) = pitr.json("list", "web")["points"]
    assert point["proven"] == {"time": drill["time"], "ok": True}
    with Repository.open(pitr.repository) as repository:
        found = drills.last_boot(repository.store, point["vm"]["id"], point["backup_id"])
    assert found is not None and found.boot.screenshot == picture.read_bytes()


@_debian
def test_a_debian_without_its_boot_loader_has_failed(
    lab: Lab, pitr: Pitr, debian: Path, tmp_path: Path
) -> None:
    image = tmp_path / "broken.raw"
    shutil.copyfile(debian, image)
    with image.open("r+b") as file:
        file.seek(MiB)
        file.write(bytes(512))
    _back_up(lab, pitr, image)
    document = pitr.json("drill", "web", "--boot", code=3)
    assert not document["drill"]["ok"]
    boot = document["drill"]["boot"]
    assert (boot["result"], boot["evidence"]) == ("failed", "screen")
    assert "Missing operating system" in _findings(document, "system")["boot"]["message"]
    # Without --screenshot, the picture is in the repository only.
    assert (pitr.repository / boot["screenshot"]).is_file()
    assert pitr.json("list", "web")["points"][0]["proven"]["ok"] is False


def test_the_console_proves_what_you_expect(command: Pitr, repository: Repository) -> None:
    _store(repository, tiny_guests.saying("booting\r\n\x1b[1mweb\x1b[0m login: "))
    document = command.json("drill", "--boot", "--expect", "^web login: $")
    boot = document["drill"]["boot"]
    assert (boot["result"], boot["evidence"]) == ("passed", "console")
    assert document["drill"]["ok"]
    # A boot does not read all data, so it is no proof of that.
    assert command.json("status")["vms"][0]["proven_at"] is None
    assert "BOOTED" in command("drill", "--boot", "--expect", "login", "--digests-only").stdout
    assert command.json("status")["vms"][0]["proven_at"] is not None


def test_a_console_without_what_you_expect_has_failed(command: Pitr, repository: Repository) -> None:
    _store(repository, tiny_guests.saying("something else"))
    document = command.json("drill", "--boot", "--expect", "login:", "--boot-timeout", "1s", code=3)
    boot = document["drill"]["boot"]
    assert (boot["result"], boot["evidence"]) == ("failed", "console")
    assert "did not match" in _findings(document, "disk0")["boot"]["message"]


def test_a_screen_without_a_failure_leaves_pitr_unsure(
    command: Pitr, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "_SETTLED_S", 1.0)
    _store(repository, tiny_guests.showing("web login: "))
    document = command.json("drill", "--boot", code=1)
    boot = document["drill"]["boot"]
    assert (boot["result"], boot["evidence"]) == ("unsure", "screen")
    assert not document["drill"]["ok"]
    finding = _findings(document, "disk0")["boot"]
    assert finding["ok"] is None
    # It is neither a proof nor a failure of the point, but people can look at it.
    assert command.json("list")["points"][0]["proven"] is None
    with Repository.open(repository.path) as again:
        assert drills.read(again.store, boot["screenshot"]).is_unsure


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (tiny_guests.showing("[    2.0] Kernel panic - not syncing: VFS"), "Kernel panic"),
        (tiny_guests.saying("Kernel panic - not syncing: VFS"), "Kernel panic"),
        (tiny_guests.saying("again", then=tiny_guests.RESTART), "restarted"),
        (tiny_guests.showing("ALERT!  No root.\r\n(initramfs) "), "(initramfs)"),
    ],
    ids=["panic on the screen", "panic on the console", "restarts", "rescue"],
)
def test_a_guest_that_does_not_come_up_has_failed(
    command: Pitr,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    disk: bytes,
    message: str,
) -> None:
    monkeypatch.setattr(watch, "_RESCUE_S", 2.0)
    _store(repository, disk)
    document = command.json("drill", "--boot", code=3)
    assert document["drill"]["boot"]["result"] == "failed"
    assert message in _findings(document, "disk0")["boot"]["message"]


def test_uefi_of_the_configuration_starts(command: Pitr, repository: Repository) -> None:
    if not any(firmware.is_file() for firmware in debian_guest.UEFI):
        pytest.skip("not installed: ovmf")
    _store(repository, b"\1" * MiB, tiny_guests.ovf(f"{disk_id(0)} SATA boot", bios="3"))
    command("drill", "--boot", "--expect", "BdsDxe: failed to load .*QEMU HARDDISK.*Sata")


def test_damage_that_the_guest_reads_fails_the_drill(command: Pitr, repository: Repository) -> None:
    guest = tiny_guests.saying("marker", first=tiny_guests.READ_BEHIND_1_MIB)
    backup = _store(repository, guest.ljust(MiB, b"\0") + random.Random(1).randbytes(3 * MiB))
    (blob,) = (repository.path / "blobs" / backup.streams[0].disk_id).glob("*.zst")
    stored = bytearray(blob.read_bytes())
    # In the frame of the second MiB: the first frame has little more than the boot sector.
    stored[MiB // 2] ^= 1
    blob.write_bytes(stored)
    document = command.json("drill", "--boot", "--expect", "marker", code=3)
    assert document["drill"]["boot"]["result"] == "passed" and not document["drill"]["ok"]
    assert _findings(document, "disk0")["digests"]["ok"] is False
    assert command.json("list")["points"][0]["damaged"]


def test_nothing_is_written_but_the_drill(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    _store(repository, tiny_guests.saying("marker"))
    before = {path: path.stat().st_mtime_ns for path in (repository.path / "blobs").rglob("*")}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command("drill", "--boot", "--expect", "marker", "--in", scratch)
    assert not list(scratch.iterdir())
    assert {path: path.stat().st_mtime_ns for path in (repository.path / "blobs").rglob("*")} == before
    assert len(list((repository.path / "drills").rglob("*-booted.json"))) == 1


def test_a_signal_ends_it_and_leaves_nothing(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    _store(repository, tiny_guests.showing("hello"))
    scratch = tmp_path / "t"
    scratch.mkdir()
    with command.with_environment(TMPDIR=str(scratch)).process(
        "drill", "--boot", "--expect", "never"
    ) as process:
        wait_until(lambda: list(scratch.rglob("qemu.log")), "the start of qemu")
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 128 + signal.SIGTERM
    assert not list(scratch.iterdir())
    assert not list(repository.path.glob("drills/*/*/*"))


def test_usage(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    for options in (
        ["--expect", "x"],
        ["--boot", "--expect", "("],
        ["--boot", "--expect", ""],
        ["--boot", "--memory", "1"],
        ["--boot", "--memory", "900t"],
        ["--boot", "--boot-timeout", "0"],
        ["--boot", "--boot-timeout", "soon"],
        ["--boot", "--screenshot", tmp_path],
        ["--boot", "--screenshot", repository.path / "repository.json"],
        ["--boot", "--screenshot", tmp_path / "no" / "x.png"],
    ):
        command("drill", *options, code=2)
