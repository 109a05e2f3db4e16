# SPDX-License-Identifier: GPL-2.0-or-later
"""A writable past state: an overlay over a served point, for file systems and for whole machines."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pitr.copier import copy
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.errors import ProgramFailed, UsageError
from pitr.jobs.serve.overlays import make_overlays, overlay_paths
from pitr.lab.host.filesystem import check_ext4, make_ext4, program
from pitr.model import Backup, Record
from pitr.repository import Repository
from pitr.system.process import run
from tests.jobs.serve.test_command import AT_THE_END, serving_process
from tests.support.pitr import Pitr
from tests.support.points import DISK_ID, FIRST_POINT, Writer, backup_of, meta_of, new_stream, read_point
from tests.support.serving import MIB, read, served

pytestmark = pytest.mark.usefixtures("quick_disk")

_OLD, _NEW = b"what the file held then\n" * 171, b"what the guest wrote!!!\n" * 171


def store_image(repository: Repository, image: Path, hours: int = 0) -> Backup:
    """Store an image as a full backup, `hours` after the first point."""
    new = new_stream(disk_id=DISK_ID)
    with RawFileSource(image) as source:
        meta = meta_of(new, source.size)
        with repository.new_stream(new, source.size, meta, level=1) as sink:
            copy(source, sink)
            stream = sink.stream
    point = FIRST_POINT + timedelta(hours=hours)
    backup = backup_of([stream], backup_id=new.backup_id, point=point)
    repository.commit(Record(backup, None))
    return backup


def by_point(uri: str, backup: Backup) -> str:
    """The URI that only this point has."""
    return uri.replace("/system?", f"/{backup.streams[0].disk_id}%40{backup.backup_id}?")


def debugfs(image: Path, words: str) -> bytes:
    done = subprocess.run([program("debugfs"), "-R", words, str(image)], capture_output=True, check=True)
    return done.stdout


def test_a_file_system_is_written_to_and_stays_whole(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(_OLD)
    image = tmp_path / "image"
    make_ext4(image, 16 * MIB, tree)
    backup = store_image(repository, image)
    before = read_point(repository, backup, backup.streams[0])
    block = int(debugfs(image, "blocks /file").split()[0]) * 1024
    if image.read_bytes()[block : block + len(_OLD)] != _OLD:
        # The block size is the other one that mke2fs takes for small disks.
        block *= 4
    assert image.read_bytes()[block : block + len(_OLD)] == _OLD

    overlay = tmp_path / "over lay.qcow2"
    (tmp_path / "new").write_bytes(_NEW)
    with serving_process(command, "--overlay", overlay) as (process, document):
        (disk,) = document["disks"]
        assert disk["overlay"] == str(overlay)
        told = json.loads(run(["qemu-img", "info", "--output=json", str(overlay)]))
        assert (
            told["backing-filename"] == by_point(disk["uri"], backup)
            and told["backing-filename-format"] == "raw"
        )
        # Nothing is copied.
        assert told["actual-size"] < MIB and told["virtual-size"] == 16 * MIB
        write = f"write -s {tmp_path}/new {block} {len(_NEW)}"
        run(["qemu-io", "-f", "qcow2", "-c", write, str(overlay)])
        run(["qemu-img", "check", "-q", str(overlay)])
        after = tmp_path / "after"
        run(["qemu-img", "convert", "-O", "raw", str(overlay), str(after)])
        check_ext4(after)
        assert debugfs(after, "cat /file") == _NEW
        # The point is unchanged.
        assert read(disk["uri"], 0, len(before)) == before
        process.terminate()
        assert process.wait(30) == 0

    # The overlay continues where it was left: the socket has the same path.
    with serving_process(command, "--socket", f"{overlay}.socket"):
        run(["qemu-img", "convert", "-O", "raw", str(overlay), str(after)])
    assert debugfs(after, "cat /file") == _NEW

    # Over another point it would be garbage, but that point lacks the export name that the overlay asks for.
    image.write_bytes(bytes(16 * MIB))
    store_image(repository, image, hours=1)
    with (
        serving_process(command, "--socket", f"{overlay}.socket"),
        pytest.raises(ProgramFailed, match="unknown export"),
    ):
        run(["qemu-img", "convert", "-O", "raw", str(overlay), str(after)])


def test_nothing_is_written_over_and_nothing_is_left_behind(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    Writer(repository).add("64k:A", "64k:B")
    for path in (tmp_path / "file", tmp_path / "link"):
        path.symlink_to("nowhere") if path.name == "link" else path.write_text("mine")
        refused = command("serve", "--at", AT_THE_END, "--disk", "disk0", "--overlay", path, code=2)
        assert "exists already" in refused.complaint
    assert (tmp_path / "file").read_text() == "mine"
    refused = command("serve", "--at", AT_THE_END, "--overlay", tmp_path / "file", code=2)
    assert "is not a folder" in refused.complaint
    folder = tmp_path / "overlays"
    folder.mkdir()
    (folder / "disk1.qcow2").write_text("mine")
    command("serve", "--at", AT_THE_END, "--overlay", folder, "--run", "exit 0", code=2)
    assert [path.name for path in folder.iterdir()] == ["disk1.qcow2"]


def test_overlays_that_could_not_all_be_made_are_removed(repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A", "64k:B")
    with served(repository, backup) as disks:
        paths = overlay_paths(f"{tmp_path}/", backup.streams)
        broken = [disks[0], replace(disks[1], point_uri=disks[1].point_uri + "x")]
        with pytest.raises(ProgramFailed):
            make_overlays(paths, broken)
        assert not any(path.exists() for path in paths.values())
        # A file that appears between the check and the creation is not overwritten.
        paths[disks[1].disk_id].write_text("mine")
        with pytest.raises(UsageError, match="exists already"):
            make_overlays(paths, disks)
    assert [path.name for path in tmp_path.glob("*.qcow2")] == ["disk1.qcow2"]
    assert paths[disks[1].disk_id].read_text() == "mine"


def test_several_disks_get_overlays_in_a_folder(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    Writer(repository).add("64k:A", "64k:B")
    folder = tmp_path / "new" / "overlays"
    words = f"qemu-io -f qcow2 -r -c 'read -P 0x42 0 64k' {folder}/disk1.qcow2"
    result = command("serve", "--at", AT_THE_END, "--overlay", f"{folder}/", "--run", words)
    assert sorted(path.name for path in folder.iterdir()) == ["disk0.qcow2", "disk1.qcow2"]
    boot = result.stderr.splitlines()[-1]
    assert boot.startswith(
        "pitr: to boot it while this runs: qemu-system-x86_64 -accel kvm -accel tcg -m 2048 -drive file="
    )
    assert boot.count("format=qcow2,if=virtio") == 2


#: A boot sector: tells the serial port, writes itself to sector 8 by the BIOS, and switches the machine off: with
#: exit code 33 when that went well, 65 when not.
_BOOT = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc007cfb52"  # stack and segments; dl, the disk, is kept
        "be407c"  # si: the text
        "ac84c07406baf803eeebf5"  # until its 0: out of COM1
        "5abe307cb80043cd13"  # BIOS: extended write, as the packet says
        "b0107302b020"  # carry: it failed
        "baf400eef4"  # out of the port that ends qemu
    ).ljust(0x30, b"\0")
    + bytes.fromhex("10000100007c00000800000000000000")  # one sector from 0000:7c00 to sector 8
    + b"a past state, booted\r\n\0"
).ljust(510, b"\0") + b"\x55\xaa"


@pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed (qemu-system-x86)"
)
def test_a_machine_boots_from_a_past_state_and_writes_to_its_overlay(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    size = 10487296
    image.write_bytes(_BOOT + bytes(size - 512))
    store_image(repository, image)
    overlay = tmp_path / "web.qcow2"
    with serving_process(command, "--overlay", overlay) as (_, document):
        # Software emulation, because the machines that run these tests have no KVM.
        words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none"]
        words += ["-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        words += ["-drive", f"file={overlay},format=qcow2,if=virtio"]
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        assert b"a past state, booted" in done.stdout, done
        assert done.returncode == 33, done
        after = tmp_path / "after"
        run(["qemu-img", "convert", "-O", "raw", str(overlay), str(after)])
        assert read(document["disks"][0]["uri"], 8 * 512, 512) == bytes(512)
    assert after.read_bytes()[: 9 * 512] == _BOOT + bytes(7 * 512) + _BOOT
