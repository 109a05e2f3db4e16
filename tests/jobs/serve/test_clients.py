# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of other projects read a served point."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pitr.errors import BusyError, NbdError
from pitr.extents import Extent
from pitr.nbd.client import Client, parse_url
from pitr.nbd.protocol import OPTION_LIST
from pitr.repository import Repository
from pitr.system.process import run
from tests.support.pitr import wait_until
from tests.support.points import Writer, applied, disk
from tests.support.serving import CHAIN, CHAIN_SIZE, MIB, RawClient, read, served, store_chain

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_nbdcopy_copies_a_chain(repository: Repository, tmp_path: Path) -> None:
    backup, content = store_chain(repository)
    with served(repository, backup) as (one,):
        run(["nbdcopy", one.uri, str(tmp_path / "copy")])
        run(["nbdcopy", "--synchronous", "--request-size=8192", one.uri, str(tmp_path / "slow")])
    assert (tmp_path / "copy").read_bytes() == content
    assert (tmp_path / "slow").read_bytes() == content


def test_nbdinfo_tells_what_there_is(repository: Repository) -> None:
    backup, _ = store_chain(repository)
    with served(repository, backup) as (one,):
        told = json.loads(run(["nbdinfo", "--json", one.uri]))
    assert told["protocol"] == "newstyle-fixed" and told["structured"]
    (export,) = told["exports"]
    assert export["export-name"] == "disk0"
    assert export["description"] == "disk disk0 of VM web at 2020-06-30T01:00:00Z"
    assert export["export-size"] == CHAIN_SIZE
    assert export["contexts"] == ["base:allocation"]
    wanted = {
        "is_read_only": True,
        "can_multi_conn": True,
        "can_df": True,
        "can_cache": True,
        "can_trim": False,
        "can_zero": False,
        "block_size_minimum": 1,
        "block_size_maximum": 32 * MIB,
    }
    assert {key: export[key] for key in wanted} == wanted


def test_zero_ranges_stay_holes(repository: Repository) -> None:
    backup, content = store_chain(repository)
    with served(repository, backup) as (one,):
        qemu = json.loads(run(["qemu-img", "map", "--output=json", "-f", "raw", one.uri]))
        libnbd = json.loads(run(["nbdinfo", "--map", "--json", one.uri]))
        with Client(*parse_url(one.uri)) as client:
            ours = list(client.extents())
    assert [Extent(row["offset"], row["length"], row["type"] == 3) for row in libnbd] == ours
    assert [Extent(row["start"], row["length"], row["zero"]) for row in qemu] == ours
    assert sum(length for _, length, zero in ours if zero) >= 2 * MIB
    assert all(zero == (not any(content[start : start + length])) for start, length, zero in ours)


@pytest.mark.parametrize("size", [1, 511, 512, 4097, 65537, MIB - 1, MIB + 1, 3 * MIB + 12345])
def test_a_disk_of_any_size_is_served_to_its_last_byte(
    repository: Repository, size: int, tmp_path: Path
) -> None:
    text = f"{size // 2}:A {size - size // 2}:B".removeprefix("0:A ")
    backup, content = store_chain(repository, [text])
    with served(repository, backup) as (one,):
        assert read(one.uri, size - 1, 1) == content[-1:]
        run(["nbdcopy", one.uri, str(tmp_path / "copy")])
        (tmp_path / "known").write_bytes(content)
        # qemu rounds sizes of raw images up to a multiple of 512.
        if size % 512 == 0:
            run(["qemu-img", "compare", "-f", "raw", "-F", "raw", one.uri, str(tmp_path / "known")])
        converted = tmp_path / "converted"
        run(["qemu-img", "convert", "-f", "raw", "-O", "raw", one.uri, str(converted)])
    assert (tmp_path / "copy").read_bytes() == content
    assert converted.read_bytes()[:size] == content


def test_a_disk_without_bytes_is_served(repository: Repository, tmp_path: Path) -> None:
    backup, _ = store_chain(repository, [""])
    with served(repository, backup) as (one,):
        assert run(["nbdinfo", "--size", one.uri]).strip() == "0"
        run(["nbdcopy", one.uri, str(tmp_path / "copy")])
    assert (tmp_path / "copy").read_bytes() == b""


def test_a_disk_that_grew_and_shrank_is_served_as_it_was_then(repository: Repository) -> None:
    texts = ("1m:A", "512k:- 64k:B", "576k:- 1m:0 64k:C")
    writer = Writer(repository)
    content = bytearray()
    for number, text in enumerate(texts):
        content = applied(content, text) if number else disk(text)[0]
        backup = writer.add(text)
        with served(repository, backup) as (one,):
            assert read(one.uri, 0, len(content)) == content


def test_qemu_reads_and_does_not_write(repository: Repository) -> None:
    backup, _ = store_chain(repository)
    with served(repository, backup) as (one,):
        run(["qemu-io", "-r", "-f", "raw", "-c", "read -P 0x48 10486784 512", one.uri])
        written = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write 0 512", one.uri],
            capture_output=True,
            text=True,
            check=False,
        )
        assert written.returncode != 0 and "Permission denied" in written.stderr


def test_each_disk_has_an_export_of_its_name_and_of_its_id(repository: Repository) -> None:
    backup = Writer(repository).add("64k:A", "64k:B")
    with served(repository, backup) as disks:
        assert [one.export for one in disks] == ["disk0", "disk1"]
        listed = json.loads(run(["nbdinfo", "--list", "--json", disks[0].uri]))
        assert [export["export-name"] for export in listed["exports"]] == ["disk0", "disk1"]
        for one, letter in zip(disks, (b"A", b"B"), strict=True):
            by_id = one.uri.replace(f"/{one.export}?", f"/{one.disk_id}?")
            assert by_id != one.uri
            for uri in (one.uri, by_id):
                assert read(uri, 0, 65536) == letter * 65536
        for wrong in ("disk2", ""):
            with pytest.raises(NbdError, match="no export of this name"):
                read(disks[0].uri.replace("/disk0?", f"/{wrong}?"), 0, 1)


def test_a_disk_that_is_alone_is_the_default_export(repository: Repository) -> None:
    backup, content = store_chain(repository)
    with served(repository, backup) as (one,):
        assert read(one.uri.replace("/disk0?", "/?"), 0, MIB) == content[:MIB]
        with RawClient(one.uri) as client:
            # Each export is listed once.
            assert len(client.option(OPTION_LIST)) == 2


def test_many_clients_read_at_once(repository: Repository) -> None:
    backup, content = store_chain(repository)

    def reader(number: int) -> bool:
        with Client(*parse_url(one.uri)) as client:
            for turn in range(40):
                offset = (number * 977 + turn * 262_139) % (CHAIN_SIZE - 300_000)
                data = bytearray(300_000)
                client.read_into(offset, memoryview(data))
                if data != content[offset : offset + 300_000]:
                    return False
        return True

    # With a cache of three frames, the clients evict each other's frames.
    with served(repository, backup, cache_bytes=3 * MIB) as (one,), ThreadPoolExecutor(12) as pool:
        assert all(pool.map(reader, range(12)))


def test_clients_that_are_killed_leave_nothing_behind(repository: Repository, tmp_path: Path) -> None:
    backup, content = store_chain(repository)

    def threads() -> int:
        return sum(thread.name == "nbd-client" for thread in threading.enumerate())

    with served(repository, backup) as (one,):
        for _ in range(10):
            # No program reads this pipe: the copy stops with its replies in flight.
            with subprocess.Popen(["nbdcopy", one.uri, "-"], stdout=subprocess.PIPE) as copy:
                assert copy.stdout is not None and copy.stdout.read(1) == content[:1]
                assert threads() > 0
                copy.kill()
        wait_until(lambda: threads() == 0, "the threads of clients that have gone end")
        assert read(one.uri, 0, len(content)) == content


def test_points_stay_while_they_are_served(repository: Repository) -> None:
    backup, _ = store_chain(repository, CHAIN[:1])
    with served(repository, backup):
        other = Repository.open(repository.path)
        with (
            other,
            pytest.raises(BusyError, match="another pitr works on"),
            other.removing_from_vm(backup.vm),
        ):
            pass
