# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of VMs: which need a person, and why; the worst first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr import times
from pitr.lab import Lab
from pitr.model import Backup, Cause, LeftOut, Record, VMName
from pitr.repository import Repository, findings, names, retired
from pitr.repository.damage import Damage
from pitr.repository.drills import DiskFindings, Drill, Finding, add
from tests.jobs.status.histories import GiB, Night, store
from tests.repository.test_virtual_full import STORY, chain_of, stand_in
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr
from tests.support.points import VM, Writer, backup_of, fake_stream, record_path

pytestmark = pytest.mark.usefixtures("quick_disk")

DB = VMName("vm-db", "db1")
WEB = VMName("vm-web", "web1")
QUIET = [Night(0.6 * GiB)] * 9
KEYS = {
    "vm",
    "state",
    "reasons",
    "newest_good",
    "age_s",
    "points",
    "chain_length",
    "proven_at",
    "damaged_points",
    "incomplete_points",
    "unusual",
}


def vms(command: Pitr, *arguments: str, code: int = 0) -> dict[str, Any]:
    document = command.json("status", *arguments, code=code)
    assert set(document) == {"ok", "vms"}
    assert document["ok"] is (code == 0)
    return {vm["vm"]["name"]: vm for vm in document["vms"]}


def hours_ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


def harm(repository: Repository, backup: Backup) -> None:
    """Store the finding that the blob of a point is damaged."""
    stream = backup.streams[0]
    damage = Damage(backup.backup_id, stream.disk_id, stream.stream_id, "corrupt", "blob", "it is damaged")
    findings.add(repository.store, backup.vm.id, "verify", [damage], {})


def commit(repository: Repository, backup: Backup) -> Backup:
    repository.commit(Record(backup, None))
    return backup


def drilled(repository: Repository, backup: Backup, *, ok: bool, time: datetime) -> None:
    disks = (DiskFindings("d", "d", (Finding("digests", ok, ""),)),)
    add(repository.store, Drill(backup.backup_id, backup.vm.id, time, True, 1, disks))


# States.


def test_a_fresh_verified_vm_is_well(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    writer.add("64k:A")
    last = writer.add("64k:B")
    never = vms(command)["web"]
    assert set(never) == KEYS
    assert (never["state"], never["reasons"], never["proven_at"]) == ("ok", [], None)
    command("verify")
    (vm,) = vms(command, "--max-age", "99y").values()
    assert (vm["state"], vm["reasons"]) == ("ok", [])
    assert vm["vm"] == {"id": VM.id, "name": VM.name}
    assert vm["newest_good"] == command.json("list")["points"][0]
    assert vm["age_s"] == pytest.approx((times.now() - last.point).total_seconds(), abs=60)
    assert (vm["points"], vm["chain_length"]) == (2, 2)
    assert datetime.now(UTC) - times.from_text(vm["proven_at"]) < timedelta(minutes=1)
    assert vm["damaged_points"] == vm["incomplete_points"] == vm["unusual"] == []
    assert "All is well." in command("status").stdout


def test_a_damaged_newest_chain_is_critical(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB)
    harm(repository, made[8])
    vm = vms(command, code=1)["web1"]
    assert vm["state"] == "critical"
    assert vm["newest_good"]["backup_id"] == made[7].backup_id
    assert vm["damaged_points"] == [made[9].backup_id, made[8].backup_id]
    assert "newest chain is damaged" in vm["reasons"][0] and "2020-01-08" in vm["reasons"][0]
    assert vm["chain_length"] == len(command.json("show", "web1")["chain"]) == 10


def test_where_nothing_is_whole_there_is_no_newest_good_point(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB)
    harm(repository, made[0])
    vm = vms(command, code=1)["web1"]
    assert (vm["state"], vm["newest_good"], vm["age_s"]) == ("critical", None, None)
    assert vm["reasons"] == ["no point is whole: all 10 points are damaged"]
    assert len(vm["damaged_points"]) == 10
    shown = command("status", code=1).stdout
    assert "CRITICAL" in shown and " none " in shown


def test_damaged_older_points_are_a_warning(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB, full_every=5)
    harm(repository, made[3])
    vm = vms(command, code=1)["web1"]
    assert (vm["state"], vm["reasons"]) == ("warning", ["2 older points are damaged"])
    assert vm["newest_good"]["backup_id"] == made[-1].backup_id


def test_a_damaged_chain_longer_than_what_is_read_at_once(repository: Repository, command: Pitr) -> None:
    made = store(repository, [Night(0.6 * GiB)] * 99, vm=WEB)
    assert vms(command)["web1"]["chain_length"] == 100
    harm(repository, made[2])
    vm = vms(command, code=1)["web1"]
    assert vm["newest_good"]["backup_id"] == made[1].backup_id
    assert len(vm["damaged_points"]) == 98


def test_a_point_that_stands_for_a_removed_one_is_part_of_the_chain(
    repository: Repository, command: Pitr
) -> None:
    writer, _ = chain_of(repository, *STORY)
    stand_in(repository, writer.backups[-1])
    writer.add("4k:Z 252k:-", frame_size=64 << 10)
    repository.remove(writer.backups[-2::-1])
    (vm,) = vms(command).values()
    assert vm["chain_length"] == len(command.json("show", VM.name)["chain"]) == 2


def test_an_incomplete_newest_point_is_a_warning(repository: Repository, command: Pitr) -> None:
    lacks = (LeftOut("d2", "data", "left out by --disk", Cause.CHOSEN), LeftOut("l", "lun", "no image"))
    first = commit(repository, replace(backup_of([fake_stream()]), left_out=lacks))
    vm = vms(command, code=1)["web"]
    assert vm["state"] == "warning"
    assert vm["reasons"] == ["the newest point is incomplete: it lacks disk data (d2) (left out by --disk)"]
    assert vm["incomplete_points"] == [first.backup_id]
    assert vm["newest_good"]["complete"] is False
    # What is complete again is well, and the older point is still told.
    unable = (LeftOut("l", "lun", "no image"),)
    later = backup_of([fake_stream()], point=first.point + timedelta(days=1))
    commit(repository, replace(later, left_out=unable))
    vm = vms(command)["web"]
    assert (vm["state"], vm["reasons"], vm["incomplete_points"]) == ("ok", [], [first.backup_id])


def test_an_unusual_newest_point_is_a_warning(repository: Repository, command: Pitr) -> None:
    store(repository, [*QUIET, Night(38 * GiB, ratio=0.99)], vm=WEB)
    vm = vms(command, code=1)["web1"]
    assert vm["state"] == "warning"
    assert vm["reasons"] == [
        "the newest point is unusual: changed 38 GiB, usually 0.6, and hardly compressible (0.99, usually 0.4): "
        "encryption?"
    ]
    assert {each["what"] for each in vm["unusual"]} == {"changed", "ratio"}
    assert vm["unusual"] == vm["newest_good"]["unusual"]


def test_the_age_counts_with_max_age_only(repository: Repository, command: Pitr) -> None:
    store(repository, [], vm=WEB, start=hours_ago(30))
    store(repository, [], vm=DB, start=hours_ago(2))
    assert set(vms(command)) == {"web1", "db1"}
    found = vms(command, "--max-age", "26h", code=1)
    assert [vm["state"] for vm in found.values()] == ["critical", "ok"]
    assert found["web1"]["reasons"] == ["the newest good point is 1 day 6 h old, and 1 day 2 h are allowed"]
    vms(command, "--max-age", "2d")
    assert vms(command, "--max-age", "0h", code=1)["db1"]["state"] == "critical"
    for wrong in ("26", "soon", "-1h", ""):
        assert "--max-age" in command("status", "--max-age", wrong, code=2).complaint


def test_the_age_is_that_of_the_newest_good_point(repository: Repository, command: Pitr) -> None:
    made = store(repository, [Night(GiB)] * 2, vm=WEB, start=hours_ago(49))
    harm(repository, made[2])
    (vm,) = vms(command, "--max-age", "24h", code=1).values()
    assert vm["age_s"] == pytest.approx(25 * 3600, abs=60)
    assert len(vm["reasons"]) == 2


def test_a_retired_vm_may_have_any_age(repository: Repository, command: Pitr) -> None:
    store(repository, [], vm=WEB)
    retired.add(repository.store, WEB)
    assert vms(command, "--max-age", "1h")["web1"]["state"] == "ok"
    assert "retired" in command("status", "--max-age", "1h").stdout


def test_the_last_drill_proves_the_vm_or_is_a_warning(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB)
    drilled(repository, made[5], ok=False, time=hours_ago(9))
    vm = vms(command, code=1)["web1"]
    assert (vm["state"], vm["proven_at"]) == ("warning", None)
    assert "the last drill failed, of the point of 2020-01-06" in vm["reasons"][0]
    time = hours_ago(8)
    drilled(repository, made[9], ok=True, time=time)
    vm = vms(command)["web1"]
    assert vm["proven_at"] == times.to_text(time)
    assert vm["newest_good"]["proven"] == {"time": times.to_text(time), "ok": True}
    assert "8 h ago" in command("status").stdout


# VMs and points.


def test_the_worst_comes_first_and_a_vm_can_be_named(repository: Repository, command: Pitr) -> None:
    good, attacked, lost = (VMName(name, name) for name in ("a-good", "b-attacked", "c-lost"))
    store(repository, QUIET, vm=good)
    store(repository, [*QUIET, Night(38 * GiB, 0.99)], vm=attacked)
    harm(repository, store(repository, [], vm=lost)[0])
    assert list(vms(command, code=1)) == ["c-lost", "b-attacked", "a-good"]
    rows = [line.split()[:2] for line in command("status", code=1).stdout.splitlines() if "-" in line[:30]]
    assert rows[:3] == [["CRITICAL", "c-lost"], ["WARNING", "b-attacked"], ["ok", "a-good"]]
    assert "1 critical, 1 warning, 1 ok." in command("status", code=1).stdout
    assert list(vms(command, "a-good")) == ["a-good"]
    assert list(vms(command, "b-attacked", "a-good", "a-good", code=1)) == ["b-attacked", "a-good"]
    assert "no-such" in command("status", "no-such", code=4).complaint


def test_an_empty_repository_has_no_vm(command: Pitr) -> None:
    assert command.json("status") == {"ok": True, "vms": []}
    assert "holds no points" in command("status").stdout
    assert command("status", "-o", "nagios").stdout.startswith("PITR OK: the repository holds no points")


def test_a_wrong_clock_makes_no_point_newer_than_those_based_on_it(
    repository: Repository, command: Pitr
) -> None:
    made = store(repository, [Night(GiB)] * 3, vm=WEB, start=hours_ago(80))
    ahead = replace(
        made[-1],
        backup_id="ahead",
        point=datetime.now(UTC) + timedelta(days=3),
        lo=hours_ago(1),
        parent_id=made[-1].backup_id,
        streams=(
            replace(made[-1].streams[0], stream_id="ahead", parent_stream_id=made[-1].streams[0].stream_id),
        ),
    )
    commit(repository, ahead)
    vm = vms(command)["web1"]
    assert (vm["newest_good"]["backup_id"], vm["age_s"], vm["chain_length"]) == ("ahead", 0, 5)
    # The next point has the right time again, and an earlier label.
    stream = replace(ahead.streams[0], stream_id="after", parent_stream_id="ahead")
    after = replace(
        ahead,
        backup_id="after",
        point=hours_ago(0.1),
        lo=hours_ago(0.2),
        parent_id="ahead",
        streams=(stream,),
    )
    commit(repository, after)
    vm = vms(command)["web1"]
    assert (vm["newest_good"]["backup_id"], vm["chain_length"]) == ("after", 6)
    assert vm["chain_length"] == len(command.json("show", "web1")["chain"])


def test_a_record_that_the_catalog_does_not_know_counts(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB)
    other = store(repository, [], vm=DB)[0]
    repository.close()
    # As after a crash between the record and the catalog.
    stolen = {path: path.read_bytes() for path in (record_path(repository, made[-1]),)}
    with Repository.open(repository.path) as again:
        again.remove([made[-1]])
    assert vms(command)["web1"]["points"] == 9
    for path, content in stolen.items():
        path.write_bytes(content)
    found = vms(command)
    assert found["web1"]["newest_good"]["backup_id"] == made[-1].backup_id
    assert found["db1"]["newest_good"]["backup_id"] == other.backup_id


def test_a_repository_without_a_catalog_has_a_status(repository: Repository, command: Pitr) -> None:
    store(repository, QUIET, vm=WEB)
    repository.close()
    (repository.path / "catalog.db").unlink()
    assert vms(command)["web1"]["points"] == 10
    (repository.path / "catalog.db").write_bytes(b"no catalog")
    assert vms(command)["web1"]["points"] == 10


def test_a_lost_record_is_damage_once_a_check_has_found_it(repository: Repository, command: Pitr) -> None:
    made = store(repository, QUIET, vm=WEB)
    record_path(repository, made[4]).unlink()
    command("verify", "--quick", code=3)
    vm = vms(command, code=1)["web1"]
    assert vm["state"] == "critical" and set(vm["damaged_points"]) >= {each.backup_id for each in made[4:]}


def test_names_from_the_engine_are_data(repository: Repository, command: Pitr) -> None:
    store(repository, [], vm=VMName("odd", 'a|b\x1b[31m "c"\n'))
    for form in ("text", "nagios", "openmetrics"):
        shown = command("status", "-o", form).stdout
        assert "\x1b" not in shown
    assert list(vms(command)) == ['a|b\x1b[31m "c"\n']
    assert command("status", "-o", "nagios").stdout.count("|") == 1


def test_the_status_of_a_real_vm(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, 2 * MiB)
    for number in range(2):
        with vm.disks[0].guest() as guest:
            guest.write(number * 100_000, b"A" * 100_000)
        point = pitr.backup(vm.name)
    pitr("verify", vm.name)
    (found,) = vms(pitr, "--max-age", "26h").values()
    assert (found["state"], found["reasons"]) == ("ok", [])
    assert found["newest_good"]["backup_id"] == point["backup_id"]
    assert found["proven_at"] is not None and found["age_s"] < 600
    blob = Path(pitr.repository, names.blob(point["disks"][0]["disk_id"], point["disks"][0]["stream_id"]))
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    pitr("verify", vm.name, code=3)
    (found,) = vms(pitr, code=1).values()
    assert (found["state"], found["damaged_points"]) == ("critical", [point["backup_id"]])
    assert found["newest_good"]["backup_id"] == point["parent_id"]
