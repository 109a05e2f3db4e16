# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups that are piped out, and restores that are piped in, with the local oVirt."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from pitr.lab import Lab, LabVM
from pitr.ovirt import engine
from pitr.ovirt.imageio.keep_alive import kept_alive
from tests.support.independent import apply_sparse, read_only, run, unzstd
from tests.support.lab import assert_disk_is, assert_same, make_vm, nothing_open
from tests.support.pitr import Pitr, wait_until

MiB = 1 << 20
SIZE = 12 * MiB + 512

#: Stands for a vendor's software: keeps what it gets under the stream's id, and gives it back.
PUT = "sh -c 'cat > \"$0/$1\"' {folder} {{stream_id}}"
GET = "cat {folder}/{{stream_id}}"


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    vm = make_vm(lab, SIZE)
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(1).randbytes(3 * MiB))
        guest.write(9 * MiB, b"old" * 100_000)
    return vm


def change(vm: LabVM, seed: int) -> None:
    with vm.disks[0].guest() as guest:
        guest.write(seed * 100_000, random.Random(seed).randbytes(200_000))
        guest.zero(9 * MiB + seed * 65536, 65536, unmap=False)
        guest.discard(MiB, 131072)


def oracle(lab: Lab, vm: LabVM, path: Path) -> Path:
    lab.disk(vm.disks[0].id).copy_content(path)
    return path


def stored(pitr: Pitr) -> set[str]:
    return {path.suffix for kind in ("blobs", "indexes") for path in pitr.repository.glob(f"{kind}/*/*.*")}


def assert_nothing_came_of_it(pitr: Pitr, lab: Lab) -> None:
    assert pitr.json("list")["points"] == []
    assert stored(pitr) == set()
    wait_until(lambda: nothing_open(lab), "nothing open")


@pytest.mark.parametrize("compress", ["zstd", "none"])
def test_a_chain_goes_out_through_pipes_and_comes_back_through_commands(
    pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path, compress: str
) -> None:
    tape = tmp_path / "tape"
    tape.mkdir()
    oracles = []
    disk = bytearray()
    for number in range(3):
        if number:
            change(vm, number)
        oracles.append(oracle(lab, vm, tmp_path / f"oracle{number}"))
        done = run(
            *(pitr, "backup", vm.name, "--incremental", "--disk", "d0", "--to", "-"),
            *("--compress", compress, "--output", "json"),
        )
        point = json.loads(done.stderr.splitlines()[-1])["backups"][0]
        assert point["kind"] == ("incremental" if number else "full")
        assert point["disks"][0]["external"] == compress
        assert point["stored_bytes"] == len(done.stdout)
        (tape / point["disks"][0]["stream_id"]).write_bytes(done.stdout)
        # Any reader of sparse streams can apply them one after the other.
        meta, _ = apply_sparse(unzstd(done.stdout) if compress == "zstd" else done.stdout, disk)
        assert meta["incremental"] == bool(number) and disk == oracles[-1].read_bytes()
    assert stored(pitr) == {".db"}
    points = pitr.json("list")["points"][::-1]
    assert "stored externally" in pitr("show", points[0]["backup_id"]).stdout
    assert pitr.json("verify")["ok"] and pitr.json("verify", "--full")["ok"]

    get = GET.format(folder=tape)
    for point, expected in zip(points, oracles, strict=True):
        for image_format in ("raw", "qcow2"):
            if image_format == "qcow2" and SIZE % 512:
                continue
            path = tmp_path / f"{point['backup_id']}.{image_format}"
            where = ("--point", point["backup_id"], "--to-file", path, "--format", image_format)
            assert "--get-command" in pitr("restore", *where, code=2).complaint
            restored = pitr.json("restore", *where, "--get-command", get)["disks"][0]
            assert_same(path, expected, image_format=image_format)
            parts = restored["bytes_written"] + restored["bytes_zeroed"] + restored["bytes_skipped"]
            assert parts == restored["size"]
    document = pitr.json("restore", "--point", points[2]["backup_id"], "--get-command", get)
    assert_disk_is(lab, document["disks"][0]["target"], oracles[2], tmp_path)

    # A full that is in the repository, and an incremental on it that is not.
    change(vm, 4)
    pitr.backup(vm.name, "--full")
    change(vm, 5)
    last = oracle(lab, vm, tmp_path / "last")
    put = PUT.format(folder=tape)
    point = pitr.backup(vm.name, "--incremental", "--put-command", put, "--compress", compress)
    assert point["kind"] == "incremental"
    pitr.json(
        *("restore", "--point", point["backup_id"], "--to-file", tmp_path / "last.raw"),
        *("--get-command", get),
    )
    assert_same(tmp_path / "last.raw", last)


def test_damage_of_what_commands_give_back_is_found(pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    tape.mkdir()
    point = pitr.backup(vm.name, "--put-command", PUT.format(folder=tape))
    blob = tape / point["disks"][0]["stream_id"]
    whole = blob.read_bytes()
    where = ("restore", "--point", point["backup_id"], "--to-file", tmp_path / "out")
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], b"", whole[1:]):
        blob.write_bytes(damaged)
        assert pitr(*where, "--get-command", GET.format(folder=tape), code=3).complaint
    blob.write_bytes(whole)
    failing = f"sh -c 'cat {blob}; exit 7'"
    assert "exit code 7" in pitr(*where, "--get-command", failing, code=1).complaint
    assert "nosuchprogram" in pitr(*where, "--get-command", "nosuchprogram", code=1).complaint
    assert "{nosuch}" in pitr(*where, "--get-command", "cat {nosuch}", code=2).complaint
    assert not [path.name for path in tmp_path.glob("out*")]
    assert pitr(*where, "--get-command", GET.format(folder=tape))


def test_several_disks_each_go_through_a_command_of_their_own(pitr: Pitr, lab: Lab, tmp_path: Path) -> None:
    vm = make_vm(lab, 3 * MiB, 2 * MiB, formats=("cow", "raw"))
    for number, disk in enumerate(vm.disks):
        with disk.guest() as guest:
            guest.write(number * 4096, random.Random(number).randbytes(MiB))
    oracles = {disk.id: tmp_path / disk.name for disk in vm.disks}
    for disk in vm.disks:
        lab.disk(disk.id).copy_content(oracles[disk.id])
    tape = tmp_path / "tape"
    tape.mkdir()
    assert "--disk" in run(pitr, "backup", vm.name, "--to", "-", code=2).stderr.decode()
    point = pitr.backup(vm.name, "--put-command", PUT.format(folder=tape))
    assert len(list(tape.iterdir())) == 2
    target = f"{tmp_path}/out/"
    document = pitr.json(
        "restore",
        "--point",
        point["backup_id"],
        "--to-file",
        target,
        "--get-command",
        GET.format(folder=tape),
    )
    for disk in document["disks"]:
        assert_same(Path(disk["target"]), oracles[disk["disk_id"]])


def test_one_stream_goes_straight_to_a_new_disk_or_a_file(
    pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path
) -> None:
    expected = oracle(lab, vm, tmp_path / "oracle")
    blob = tmp_path / "blob"
    full = pitr.backup(vm.name, "--disk", "d0", "--to", str(blob))
    assert full["disks"][0]["external"] == "zstd"
    verified = " ".join(pitr("verify").stdout.split())
    assert "1 stream stored externally and not read" in verified
    assert pitr.json("verify")["checked"]["elsewhere"] == 1
    bare = pitr.with_environment(PITR_REPO="")
    run(bare, "restore", "--from", "-", "--to-file", tmp_path / "out.raw", given=blob)
    assert_same(tmp_path / "out.raw", expected)
    (tmp_path / "plain").write_bytes(unzstd(blob.read_bytes()))
    before = {disk.id for disk in lab.disks}
    done = bare.json("restore", "--from", tmp_path / "plain", "--disk", "rescued")["restored"]
    (made,) = {disk.id for disk in lab.disks} - before
    assert done["target"] == made and lab.disk(made).name == "rescued"
    assert_disk_is(lab, made, expected, tmp_path)
    # What is cut off, incremental or nothing leaves nothing behind.
    change(vm, 1)
    pitr.backup(vm.name, "--incremental", "--disk", "d0", "--to", str(tmp_path / "incremental"))
    (tmp_path / "cut").write_bytes(blob.read_bytes()[:-20])
    disks = {disk.id for disk in lab.disks}
    for name, code in (("cut", 1), ("incremental", 2)):
        for where in (("--to-file", str(tmp_path / "no.raw")), ()):
            assert bare("restore", "--from", tmp_path / name, *where, code=code).complaint
    assert {disk.id for disk in lab.disks} == disks and not list(tmp_path.glob("no.raw*"))


def test_a_consumer_that_fails_commits_nothing(pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path) -> None:
    for command in ("sh -c 'exit 0'", "sh -c 'head -c 1000 > /dev/null; exit 3'"):
        assert pitr("backup", vm.name, "--put-command", command, code=1).complaint
        assert_nothing_came_of_it(pitr, lab)
    # One that takes all of it and fails at its very end.
    result = pitr("backup", vm.name, "--put-command", "sh -c 'cat > /dev/null; exit 9'", code=1)
    assert "exit code 9" in result.complaint
    assert_nothing_came_of_it(pitr, lab)
    for read in (0, 1, 100_000):
        read_only(read, pitr, "backup", vm.name, "--disk", "d0", "--to", "-")
        assert_nothing_came_of_it(pitr, lab)


def test_what_fails_after_the_last_byte_takes_the_file_back(
    pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path
) -> None:
    with mock.patch("pitr.repository.Repository.commit", side_effect=OSError("no space")):
        pitr("backup", vm.name, "--disk", "d0", "--to", tmp_path / "blob", code=1)
    assert not list(tmp_path.glob("blob*"))
    assert_nothing_came_of_it(pitr, lab)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_backup_whose_consumer_does_not_read(
    pitr: Pitr, lab: Lab, vm: LabVM, signum: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pitr", "backup", vm.name, "--disk", "d0", "--to", "-", "--compress", "none"],
        env={**os.environ, **pitr.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        # It has written, so that from here on it waits for us.
        assert process.stdout.read(1)
        process.send_signal(signum)
        complaint = process.stderr.read().decode()
        assert process.wait() == 128 + signum, complaint
    assert_nothing_came_of_it(pitr, lab)


def test_a_slow_consumer_does_not_lose_the_transfer(pitr: Pitr, lab: Lab, vm: LabVM, tmp_path: Path) -> None:
    """The engine ends a transfer that is idle for 2 s; the consumer takes nothing for 6 s."""
    tape = tmp_path / "tape"
    expected = oracle(lab, vm, tmp_path / "oracle")
    slow = f"sh -c 'sleep 6; cat > {tape}'"
    with (
        mock.patch(
            "pitr.ovirt.engine.start_download", partial(engine.start_download, inactivity_timeout_s=2)
        ),
        mock.patch("pitr.jobs.backup.one_disk.kept_alive", partial(kept_alive, interval_s=0.3)),
    ):
        point = pitr.backup(vm.name, "--put-command", slow, "--compress", "none")
    pitr.json(
        *("restore", "--point", point["backup_id"], "--to-file", tmp_path / "out.raw"),
        *("--get-command", f"cat {tape}"),
    )
    assert_same(tmp_path / "out.raw", expected)


def test_what_cannot_be_is_refused(pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    for arguments in (
        ("backup", vm.name, "--compress", "none"),
        ("backup", vm.name, "--to", "x", "--put-command", "cat"),
        ("backup", vm.name, "--to", "x", "--compress", "lz4"),
        ("backup", vm.name, "--put-command", "cat {nosuch}"),
        ("backup", vm.name, "--put-command", "'"),
        ("backup", vm.name, "--put-command", ""),
        ("restore", "--from", "x", "--at", "now"),
        ("restore", "--from", "x", "--as-new-vm", "y"),
        ("restore", "--from", "x", "--disk", "a", "--disk", "b"),
    ):
        assert pitr(*arguments, code=2).complaint
    pitr("restore", "--from", tmp_path / "missing", "--to-file", tmp_path / "out", code=1)
