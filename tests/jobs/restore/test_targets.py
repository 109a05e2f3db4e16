# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets of a restore and of the other commands that write files: nothing is overwritten by accident."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.model import Backup
from pitr.repository import Repository
from tests.support.block_devices import loop_device
from tests.support.guest_images import MiB
from tests.support.pitr import Pitr
from tests.support.points_of_images import store_states

CONTENT = bytes(range(256)) * 4096
OTHER = b"other content!!!" * 65536


@pytest.fixture
def one_disk(repository: Repository) -> Backup:
    """A point of a VM with one disk of 1 MiB."""
    return store_states(repository, [[CONTENT]])[0]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 2 MiB full of x."""
    image = tmp_path / "device"
    image.write_bytes(b"x" * (2 * MiB))
    with loop_device(image) as device:
        yield device


def restore(*where: str | Path) -> tuple[str | Path, ...]:
    return ("restore", "--at", "now", "--to-file", *where)


DRY = pytest.mark.parametrize("dry", [("--dry-run",), ()], ids=["dry", "real"])


@DRY
def test_a_block_device_is_refused(
    one_disk: Backup, command: Pitr, device: Path, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(device)
    for target in (device, link):
        refused = command(*restore(target), *dry, code=2)
        assert "block device" in refused.complaint and "--overwrite-device" in refused.complaint
    assert device.read_bytes() == b"x" * (2 * MiB)


def test_a_block_device_is_overwritten_on_demand(one_disk: Backup, command: Pitr, device: Path) -> None:
    command(*restore(device), "--overwrite-device", "--dry-run")
    assert device.read_bytes() == b"x" * (2 * MiB)
    command(*restore(device), "--overwrite-device", "--verify")
    assert device.read_bytes() == CONTENT + b"x" * MiB


@DRY
def test_a_mounted_device_is_always_refused(
    one_disk: Backup, command: Pitr, device: Path, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    folder = tmp_path / "mounted here"
    folder.mkdir()
    if subprocess.run(["mount", device, folder], check=False).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        refused = command(*restore(device), "--overwrite-device", *dry, code=2)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert "in use" in refused.complaint and str(folder) in refused.complaint


@DRY
def test_a_device_that_is_open_exclusively_is_refused(
    one_disk: Backup, command: Pitr, device: Path, dry: tuple[str, ...]
) -> None:
    holder = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        refused = command(*restore(device), "--overwrite-device", *dry, code=2)
    finally:
        os.close(holder)
    assert "in use" in refused.complaint
    assert device.read_bytes() == b"x" * (2 * MiB)


@DRY
def test_a_device_that_is_too_small_is_refused(
    repository: Repository, command: Pitr, device: Path, dry: tuple[str, ...]
) -> None:
    store_states(repository, [[CONTENT * 3]])
    refused = command(*restore(device), "--overwrite-device", *dry, code=2)
    assert f"has {2 * MiB} bytes, but the disk needs {3 * MiB}" in refused.complaint
    assert device.read_bytes() == b"x" * (2 * MiB)


@DRY
def test_a_qcow2_image_does_not_go_to_a_device(
    one_disk: Backup, command: Pitr, device: Path, dry: tuple[str, ...]
) -> None:
    where = restore(device)
    assert "qcow2" not in command(*where, *dry, code=2).complaint
    refused = command(*where, "--overwrite-device", "--format", "qcow2", *dry, code=2)
    assert "raw" in refused.complaint


@DRY
@pytest.mark.parametrize("target", ["/dev/pitr-test", "/dev/pitr-test/", "/dev/", "LINK/pitr-test"])
def test_no_file_is_created_in_dev(
    one_disk: Backup, command: Pitr, tmp_path: Path, target: str, dry: tuple[str, ...]
) -> None:
    (tmp_path / "devices").symlink_to("/dev")
    path = target.replace("LINK", str(tmp_path / "devices"))
    assert "/dev" in command(*restore(path), *dry, code=2).complaint
    assert not Path("/dev/pitr-test").exists()


@DRY
@pytest.mark.parametrize("target", ["", " ", "-", "s3://bucket/disk.raw"])
def test_a_target_that_is_no_path_is_refused(
    one_disk: Backup, command: Pitr, target: str, dry: tuple[str, ...]
) -> None:
    assert "--to-file" in command(*restore(target), *dry, code=2).complaint


@DRY
@pytest.mark.parametrize(
    ("name", "image_format"),
    [
        ("disk.qcow2", "raw"),
        ("DISK.QCOW2", "raw"),
        ("disk.raw", "qcow2"),
        ("disk.vmdk", "raw"),
        ("disk.vmdk", None),
    ],
)
def test_a_suffix_of_another_format_is_refused(
    one_disk: Backup, command: Pitr, tmp_path: Path, name: str, image_format: str | None, dry: tuple[str, ...]
) -> None:
    given = ("--format", image_format) if image_format else ()
    command(*restore(tmp_path / name), *given, *dry, code=2)
    assert not (tmp_path / name).exists()


def test_the_suffix_decides_the_format(one_disk: Backup, command: Pitr, tmp_path: Path) -> None:
    command(*restore(tmp_path / "disk.qcow2"))
    assert (tmp_path / "disk.qcow2").read_bytes()[:4] == b"QFI\xfb"
    command(*restore(tmp_path / "disk.img"))
    assert (tmp_path / "disk.img").read_bytes() == CONTENT


@pytest.mark.parametrize("disks", [[CONTENT], [CONTENT, OTHER]], ids=["one", "two"])
def test_a_path_that_ends_in_a_slash_is_a_folder(
    repository: Repository, command: Pitr, tmp_path: Path, disks: list[bytes]
) -> None:
    store_states(repository, [disks])
    command(*restore(f"{tmp_path}/web1/"))
    restored = {path.name: path.read_bytes() for path in (tmp_path / "web1").iterdir()}
    assert restored == {f"disk{number}.raw": content for number, content in enumerate(disks)}


def test_two_disks_do_not_make_a_folder_with_a_suffix(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    store_states(repository, [[CONTENT, OTHER]])
    refused = command(*restore(tmp_path / "web1.qcow2"), code=2)
    assert f"{tmp_path / 'web1'}/" in refused.complaint and not (tmp_path / "web1.qcow2").exists()


def test_a_stream_goes_to_the_same_targets(
    one_disk: Backup, command: Pitr, device: Path, tmp_path: Path
) -> None:
    stream = tmp_path / "stream"
    command("export", "--at", "now", "--to", stream)
    given = ("restore", "--from", stream, "--to-file")
    for target in (device, "", "-", "/dev/pitr-test", f"{tmp_path}/s.qcow2/../link.vmdk"):
        command(*given, target, code=2)
    command(*given, f"{tmp_path}/out/")
    assert (tmp_path / "out" / "disk0.raw").read_bytes() == CONTENT
    command(*given, tmp_path / "out.qcow2")
    assert (tmp_path / "out.qcow2").read_bytes()[:4] == b"QFI\xfb"
    command(*given, device, "--overwrite-device")
    assert device.read_bytes()[:MiB] == CONTENT


@pytest.mark.parametrize("target", ["", "-", "/dev/pitr-test", "DEVICE", "FOLDER/", "FOLDER", "s3://b/x"])
def test_every_option_for_a_new_file_refuses_the_same(
    repository: Repository, command: Pitr, device: Path, tmp_path: Path, target: str
) -> None:
    """Export, the page of a diff, an overlay and copied files. A folder suits the last two, "-" the export."""
    store_states(repository, [[CONTENT], [OTHER]])
    (tmp_path / "folder").mkdir()
    path = target.replace("DEVICE", str(device)).replace("FOLDER", str(tmp_path / "folder"))
    if target != "-":
        command("export", "--at", "now", "--to", path, code=2)
        command("export", "--at", "now", "--format", "raw", "--compress", "none", "--to", path, code=2)
    command("diff", "--at", "2000-01-01", "--at", "now", "--html", path, code=2)
    if "FOLDER" not in target:
        command("serve", "--at", "now", "--overlay", path, "--run", "true", code=2)
    assert not Path("/dev/pitr-test").exists() and device.read_bytes() == b"x" * (2 * MiB)


def test_an_export_is_not_what_its_suffix_denies(one_disk: Backup, command: Pitr, tmp_path: Path) -> None:
    where = ("export", "--at", "now", "--to")
    command(*where, tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == CONTENT
    for name, given in (
        ("a.qcow2", ()),
        ("a.qcow2", ("raw",)),
        ("b.raw", ("sparse",)),
        ("b.raw", ("rbd-diff",)),
    ):
        command(*where, tmp_path / name, *(("--format", *given) if given else ()), code=2)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "address", ["gs://bucket/pitr", "host:/srv/pitr", "me@host:pitr", "b2:bucket", "", "-"]
)
def test_a_repository_on_another_machine_is_refused(
    command: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for arguments in (("init", address), ("--repo", address, "init"), ("list", "--repo", address)):
        refused = command(*arguments, code=2)
        assert len(refused.stderr.splitlines()) == 1
        assert not address or "--repo" in refused.complaint
    assert sorted(tmp_path.iterdir()) == before


def test_a_local_folder_may_contain_a_colon(
    command: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command("init", "--repo", "./a:b")
    command("list", "--repo", "a:b")
    command("list", "--repo", f"{tmp_path}/a:b")


@pytest.mark.parametrize("option", ["--cafile", "--password-file"])
def test_an_empty_file_name_is_refused(command: Pitr, option: str) -> None:
    assert f"{option} is empty" in command("backup", "web1", option, "", code=2).complaint
