# SPDX-License-Identifier: GPL-2.0-or-later
"""What was typed, found in the repository: VMs, points in time, disks, and names for their files."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pitr import times
from pitr.errors import NoSuchDisk, NoSuchPoint, NoSuchVM, UsageError
from pitr.jobs import asked_time
from pitr.jobs.asked_time import AskedTime
from pitr.jobs.file_names import file_names, safe
from pitr.jobs.find import only_vm, point_at, point_named, streams_of, vm_named
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository
from tests.support.points import FIRST_POINT, VM, backup_of, disk_id, fake_stream

pytestmark = pytest.mark.usefixtures("quick_disk")

_HOUR = timedelta(hours=1)
_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def points(repository: Repository) -> list[Backup]:
    """Three points of one VM, twelve hours apart, and one of another VM in between."""
    backups = [
        backup_of(
            [fake_stream(0, name="system"), fake_stream(1, name="data")], point=FIRST_POINT + hours * _HOUR
        )
        for hours in (0, 12, 24)
    ]
    other = backup_of([fake_stream()], vm=VMName("other-vm", "db"), point=FIRST_POINT + _HOUR)
    for backup in (*backups[::-1], other):
        repository.commit(Record(backup, None))
    return backups


def test_before_the_first_point_there_is_none_and_the_first_one_is_named(
    repository: Repository, points: list[Backup]
) -> None:
    with pytest.raises(NoSuchPoint, match="at or before") as raised:
        point_at(repository.catalog, VM, AskedTime.moment(points[0].point - _MOMENT))
    assert times.to_text(points[0].point) in raised.value.advice
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(
    ("after_first", "chosen", "age_s"),
    [
        (timedelta(), 0, 0),
        (_MOMENT, 0, 1e-6),
        (12 * _HOUR - _MOMENT, 0, 12 * 3600 - 1e-6),
        (12 * _HOUR, 1, 0),
        (13 * _HOUR, 1, 3600),
        (1000 * _HOUR, 2, 976 * 3600),
    ],
)
def test_the_newest_point_at_or_before_a_time_is_chosen(
    repository: Repository, points: list[Backup], after_first: timedelta, chosen: int, age_s: float
) -> None:
    choice = point_at(repository.catalog, VM, AskedTime.moment(FIRST_POINT + after_first))
    assert choice.backup == points[chosen]
    assert choice.age_s == pytest.approx(age_s)
    assert choice.next_point == (points[chosen + 1].point if chosen < 2 else None)


def test_a_vm_without_points_has_none(repository: Repository, points: list[Backup]) -> None:
    del points
    with pytest.raises(NoSuchPoint, match="no point of VM ghost"):
        point_at(repository.catalog, VMName("no-such-vm", "ghost"), AskedTime.moment(FIRST_POINT))


@pytest.mark.parametrize("time", ["0001-01-01T00:00Z", "9999-12-31T23:59:59Z"])
def test_the_ends_of_the_calendar_are_times_too(
    repository: Repository, points: list[Backup], time: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time as clock

    monkeypatch.setenv("TZ", "America/New_York")
    clock.tzset()
    try:
        if time.startswith("0001"):
            with pytest.raises(NoSuchPoint):
                point_at(repository.catalog, VM, asked_time.parse(time))
        else:
            assert point_at(repository.catalog, VM, asked_time.parse(time)).backup == points[2]
    finally:
        monkeypatch.undo()
        clock.tzset()


def test_points_of_one_time_are_ordered_by_lineage(repository: Repository) -> None:
    full = backup_of([fake_stream()], backup_id="ffff-full")
    incremental = backup_of(
        [fake_stream(parent=full.streams[0].stream_id)],
        backup_id="0000-incremental",
        parent_id=full.backup_id,
    )
    for backup in (incremental, full):
        repository.commit(Record(backup, None))
    assert point_at(repository.catalog, VM, AskedTime.moment(FIRST_POINT)).backup == incremental


def test_a_point_is_named_by_its_id_or_enough_of_it(repository: Repository) -> None:
    backups = [
        backup_of([fake_stream()], backup_id=backup_id, point=FIRST_POINT + number * _HOUR)
        for number, backup_id in enumerate(["abcd1111", "abcd2222", "abcd2222-longer", "xyz"])
    ]
    for backup in backups:
        repository.commit(Record(backup, None))
    catalog = repository.catalog
    assert point_named(catalog, "abcd1").backup == backups[0]
    assert point_named(catalog, "abcd1").next_point == backups[1].point
    assert point_named(catalog, "abcd2222").backup == backups[1]  # exact, although another one begins with it
    assert point_named(catalog, "xyz").backup == backups[3]
    with pytest.raises(UsageError, match="several points") as raised:
        point_named(catalog, "abc")
    assert all(backup.backup_id in raised.value.advice for backup in backups[:3])
    for name in ("ab", "", "%", "____", "ABCD1", "abcd1111 ", "nothing", "x'y\0z"):
        with pytest.raises(NoSuchPoint):
            point_named(catalog, name)
    with pytest.raises(NoSuchPoint, match="of VM db"):
        point_named(catalog, "abcd1", VMName("other-vm", "db"))


def test_who_asks_for_a_vm_by_the_name_that_it_once_had_is_told_its_new_one(repository: Repository) -> None:
    for hours, vm in ((0, VMName("id-1", "db")), (1, VMName("id-1", "db-old")), (2, VMName("id-2", "web"))):
        repository.commit(Record(backup_of([fake_stream()], vm=vm, point=FIRST_POINT + hours * _HOUR), None))
    with pytest.raises(NoSuchVM) as missing:
        vm_named(repository.catalog, "db")
    assert missing.value.advice == "VMs that previously had this name: db-old (id-1)."
    # Then another VM gets the name: the points of before are not of that one.
    new = VMName("id-3", "db")
    repository.commit(Record(backup_of([fake_stream()], vm=new, point=FIRST_POINT + 3 * _HOUR), None))
    assert vm_named(repository.catalog, "db") == new
    with pytest.raises(NoSuchPoint) as before:
        point_at(repository.catalog, new, AskedTime.moment(FIRST_POINT))
    assert before.value.advice.endswith("VMs that previously had this name: db-old (id-1).")


def test_a_vm_is_named_by_its_id_or_its_name(repository: Repository) -> None:
    for vm in (VMName("id-1", "web"), VMName("id-2", "db"), VMName("id-3", "db"), VMName("id-4", "id-1")):
        repository.commit(Record(backup_of([fake_stream()], vm=vm), None))
    catalog = repository.catalog
    assert vm_named(catalog, "web").id == "id-1"
    assert vm_named(catalog, "id-3").name == "db"
    assert vm_named(catalog, "id-1").name == "web"  # an id counts before a name
    with pytest.raises(UsageError, match="several VMs") as raised:
        vm_named(catalog, "db")
    assert "id-2, id-3" in raised.value.advice
    with pytest.raises(NoSuchVM) as missing:
        vm_named(catalog, "mail")
    assert "web" in missing.value.advice
    with pytest.raises(UsageError) as several:
        only_vm(catalog)
    assert "web (id-1)" in several.value.advice


def test_the_only_vm_needs_no_name(repository: Repository) -> None:
    with pytest.raises(NoSuchVM):
        only_vm(repository.catalog)
    repository.commit(Record(backup_of([fake_stream()]), None))
    assert only_vm(repository.catalog) == VM


def test_disks_are_named_by_id_or_name() -> None:
    backup = backup_of([fake_stream(0, name="a"), fake_stream(1, name="b"), fake_stream(2, name="b")])
    one, two, three = backup.streams
    assert streams_of(backup, []) == [one, two, three]
    assert streams_of(backup, ["a", disk_id(0), disk_id(2)]) == [one, three]
    with pytest.raises(UsageError, match="several disks") as raised:
        streams_of(backup, ["b"])
    assert f"{disk_id(1)}, {disk_id(2)}" in raised.value.advice
    with pytest.raises(NoSuchDisk) as missing:
        streams_of(backup, ["c"])
    assert f"a ({disk_id(0)})" in missing.value.advice


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web_Disk1", "web_Disk1"),
        ("../../etc/passwd", "etc_passwd"),
        ("/", ""),
        ("..", ""),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("a\0b\nc\x1b[31m", "a_b_c_31m"),
        ("disk one (2)", "disk_one_2"),
        ("x" * 300, "x" * 100),
        ("名前", ""),
    ],
)
def test_a_disk_s_name_becomes_no_path(name: str, expected: str) -> None:
    assert safe(name) == expected


def test_file_names_never_clash() -> None:
    names = ["data", "DATA", "system", "", "data-" + disk_id(0), "data/" + disk_id(1), "日本"]
    streams = [fake_stream(number, name=name) for number, name in enumerate(names)]
    found = file_names(streams, ".qcow2")
    assert set(found) == {stream.disk_id for stream in streams}
    assert len({name.casefold() for name in found.values()}) == len(streams)
    assert all("/" not in name and name[0] not in ".-" and name.endswith(".qcow2") for name in found.values())
    assert file_names(streams[2:4], ".raw") == {disk_id(2): "system.raw", disk_id(3): f"{disk_id(3)}.raw"}
    twins = [replace(stream, name="same") for stream in streams[:2]]
    assert file_names(twins, "") == {disk_id(0): f"same-{disk_id(0)}", disk_id(1): f"same-{disk_id(1)}"}
