# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture that a drill keeps: shown by `show`, the page of `diff` and the catalog, and sealed."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pitr.jobs.serve.catalog_site import display
from pitr.jobs.serve.catalog_site.snapshot import Snapshot
from pitr.model import Backup
from pitr.repository import Repository, drills
from pitr.repository.drilled_boot import Boot
from pitr.repository.drills import DiskFindings, Drill, Finding
from pitr.system.qemu import picture
from tests.support.pitr import Pitr
from tests.support.points import Writer
from tests.support.sealed import ALICE, SealedPlace

_PNG = picture.from_ppm(b"P6 2 1 255 " + bytes(range(6))).png()
_NOW = datetime(2020, 7, 1, 12, tzinfo=UTC)


def _drill(backup: Backup, result: str, *, minutes: int = 0, screenshot: bytes | None = _PNG) -> Drill:
    ok = {"passed": True, "failed": False, "unsure": None}[result]
    boot = Boot(result, "screen", 61_500, f"it has {result}\x1b[31m", screenshot)  # type: ignore[arg-type]
    stream = backup.streams[0]
    findings = (DiskFindings(stream.disk_id, stream.name, (Finding("boot", ok, boot.message),)),)
    return Drill(
        backup.backup_id, backup.vm.id, _NOW + timedelta(minutes=minutes), False, 62_000, findings, boot
    )


def test_show_tells_the_last_boot_and_writes_its_picture(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    backup = Writer(repository).add("64k:A")
    assert "boot" not in command.json("show", backup.backup_id)
    command("show", backup.backup_id, "--screenshot", tmp_path / "none.png", code=4)
    drills.add(repository.store, _drill(backup, "failed", minutes=-5, screenshot=None))
    name = drills.add(repository.store, _drill(backup, "unsure"))
    assert command.json("show", backup.backup_id)["boot"] == {
        "time": "2020-07-01T12:00:00Z",
        "result": "unsure",
        "evidence": "screen",
        "seconds": 61.5,
        "screenshot": name,
    }
    told = command("show", backup.backup_id, "--screenshot", tmp_path / "web.png").stdout
    assert "Last boot unsure by the screen after 1 min 2 s" in told and "\x1b" not in told
    assert (tmp_path / "web.png").read_bytes() == _PNG
    command("show", backup.backup_id, "--screenshot", tmp_path / "web.png", code=2)


def test_only_a_boot_with_a_result_counts_as_the_last_drill(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A")
    vm_id, backup_id = backup.vm.id, backup.backup_id
    for number, result in enumerate(("passed", "failed", "passed", "unsure")):
        drills.add(repository.store, _drill(backup, result, minutes=number))
        proven = drills.last_proven(repository.store, vm_id)[backup_id]
        assert (proven.ok, proven.complete) == (number != 1, number == 1)


def test_the_page_of_the_differences_shows_the_screens(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    writer = Writer(repository)
    first, second = writer.add("64k:A"), writer.add("64k:B")
    page = tmp_path / "page.html"
    options = ("--point", first.backup_id, "--point", second.backup_id, "--html", page)
    command("diff", *options)
    assert '"screens":[]' in page.read_text()
    page.unlink()
    drills.add(repository.store, _drill(second, "passed"))
    command("diff", *options)
    assert b64encode(_PNG).decode() in page.read_text()


def test_the_catalog_shows_the_screens(repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A")
    drills.add(repository.store, _drill(backup, "failed"))
    snapshot = Snapshot(repository.location, tmp_path / "copy.db")
    with closing(sqlite3.connect(snapshot.path)) as copy:
        assert copy.execute("SELECT boot, evidence FROM drill").fetchall() == [("failed", "screen")]
        assert copy.execute("SELECT backup_id, picture FROM screen").fetchall() == [(backup.backup_id, _PNG)]
    cell = display.render_cell(_PNG, "picture")
    assert cell is not None and b64encode(_PNG).decode() in cell
    assert display.render_cell(b"\0", "picture") is None


def test_a_sealed_repository_seals_the_picture(sealed: SealedPlace) -> None:
    sealed.use(ALICE)
    with Repository.open(sealed.path) as repository:
        backup = repository.catalog.points(repository.catalog.vms()[0].id)[0]
        name = drills.add(repository.store, _drill(backup, "passed"))
        last = drills.last_boot(repository.store, backup.vm.id, backup.backup_id)
        assert last is not None and last.boot.screenshot == _PNG
    assert b64encode(_PNG) not in (sealed.path / name).read_bytes()
    sealed.use()
    with Repository.open(sealed.path) as repository:
        last = drills.last_boot(repository.store, backup.vm.id, backup.backup_id)
        assert last is not None and last.boot.result == "passed" and last.boot.screenshot is None
