# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest can write anything to its disk: pitr answers or reports one clear error, and writes only into DEST."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.errors import FileSystemError, PitrError
from pitr.guest import lvm, partitions
from pitr.guest.filesystem import EntryKind, FileSystem, VolumeFile
from pitr.guest.filesystem import base as filesystem_base
from pitr.guest.filesystem.limits import EndlessError, bounded_memory, bounded_step
from pitr.guest.filesystem.volume import DiskRange
from pitr.jobs.files.compare import compare_files
from pitr.jobs.files.copy_out import CopiedFiles, copy_files
from pitr.jobs.files.list import list_files
from pitr.jobs.files.volumes import GuestVolume, Place
from tests.support.guest_images import MAKERS, RECOGNIZED, MiB, below, make_tree, opened, run
from tests.support.points import fake_stream

SOAK = bool(os.environ.get("PITR_SOAK"))
often = settings(
    max_examples=1000 if SOAK else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def place_of(file_system: FileSystem) -> Place:
    volume = GuestVolume(fake_stream(), "0", file_system.volume.size, file_system.kind, file_system.volume)
    volume.file_system = file_system
    return Place(volume, "/", file_system.root())


def cage(tmp_path: Path, number: object) -> tuple[Path, Callable[[], None]]:
    """Return a destination, and a check that nothing around it has changed."""
    around = tmp_path / f"around {number}"
    target = around / "a" / "b" / "target"
    target.mkdir(parents=True)
    (around / "witness").write_bytes(b"untouched")

    def check() -> None:
        outside = {path for path in below(around) if not path.is_relative_to(target)}
        assert outside == {around / "a", around / "a/b", around / "witness"}
        assert (around / "witness").read_bytes() == b"untouched"
        for path in below(target):
            mode = path.lstat().st_mode
            assert path.is_symlink() or path.is_dir() or path.is_file(), path
            assert path.is_symlink() or not mode & 0o6000, path

    return target, check


def copied(image: bytes, content: str, target: Path) -> CopiedFiles:
    return copy_files([place_of(opened(image, content))], f"{target}/")


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, str]]:
    """Small images with a few files, to be damaged."""
    images: dict[str, tuple[bytes, str]] = {}

    def small_ext(image: Path, files: Path) -> None:
        run("truncate", "-s", "1M", image)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-N", "64", "-d", files, image)

    def small_ext2(image: Path, files: Path) -> None:
        run("truncate", "-s", "1M", image)
        run("mke2fs", "-q", "-F", "-t", "ext2", "-N", "64", "-d", files, image)

    makers = {"ext4": small_ext, "ext2": small_ext2}
    for name in ("ext4", "ext2", "fat12", "fat16", "ntfs", "xfs", "btrfs"):
        folder = tmp_path_factory.mktemp(name)
        files = make_tree(folder / "files")
        (files / "var/log/big.log").write_bytes(random.Random(3).randbytes(70_000))
        for number in range(20, 150):
            (files / f"many/file number {number:03} with a name that is rather long.txt").unlink()
        try:
            makers.get(name, MAKERS[name])(folder / "image", files)
        except pytest.skip.Exception:
            continue
        images[name] = ((folder / "image").read_bytes(), RECOGNIZED.get(name, name))
    return images


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that a step of a test must not exceed."""
    monkeypatch.setattr(filesystem_base, "bounded_step", lambda: bounded_step(4.0))


@pytest.mark.parametrize("name", ["ext4", "ext2", "fat12", "fat16", "ntfs", "xfs", "btrfs"])
def test_changed_bytes_are_an_answer_or_an_error(
    small_images: dict[str, tuple[bytes, str]], name: str, tmp_path: Path
) -> None:
    if name not in small_images:
        pytest.skip(f"no {name} can be made here")
    image, content = small_images[name]
    # The blocks of structures hold neither zeroes nor the files' random bytes.
    blocks = [at for at in range(0, len(image), 512) if 4 < len(set(image[at : at + 512])) < 200]
    counter = 0

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(blocks),
                st.integers(0, 511),
                st.sampled_from(
                    [b"\0", b"\xff", b"\x01", b"\xff" * 4, b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff"]
                )
                | st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=12,
        )
    )
    @often
    def spoil(changes: list[tuple[int, int, bytes]]) -> None:
        nonlocal counter
        counter += 1
        places = [(block + offset, data) for block, offset, data in changes]
        target, check = cage(tmp_path, counter)
        started = time.process_time()
        with suppress(FileSystemError), bounded_memory(512 * MiB):
            result = copy_files([place_of(opened(image, content, places))], f"{target}/")
            assert all(one.reason for one in result.left_out)
            place = place_of(opened(image, content, places))
            list(list_files(place, recursive=True))
            list(compare_files(place, place_of(opened(image, content)), content=True))
        check()
        assert time.process_time() - started < 10

    spoil()


@given(st.binary(max_size=3000), st.sampled_from(["ext", "fat", "ntfs", "xfs", "btrfs"]))
@often
def test_noise_is_no_file_system(noise: bytes, content: str) -> None:
    with pytest.raises(FileSystemError, match=r"is damaged|features"):
        opened(noise.ljust(MiB, noise[:1] or b"\xff"), content).root()


@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=16)), max_size=6))
@often
def test_spoiled_partition_tables_and_labels_end(changes: list[tuple[int, bytes]]) -> None:
    head = bytearray(8192)
    head[510:512] = b"\x55\xaa"
    head[512:520] = b"EFI PART"
    head[1024 + 24 : 1024 + 32] = b"LVM2 001"
    for at, data in changes:
        head[at : at + len(data)] = data
    disk = bytes(head).ljust(MiB, b"\0")

    def read(at: int, length: int) -> bytes:
        assert at >= 0 and at + length <= len(disk)
        return disk[at : at + length]

    for part in partitions.look_at(read, len(disk)).parts:
        assert part.start + part.length <= len(disk)
    with suppress(Exception), bounded_step(4.0):
        lvm.read_physical_volume(VolumeFile([DiskRange(len(disk), read, 0)]))


def _ext4(tmp_path: Path, commands: str, files: Callable[[Path], object]) -> bytes:
    folder = tmp_path / "hostile files"
    folder.mkdir()
    files(folder)
    image, script = tmp_path / "hostile.ext4", tmp_path / "commands"
    run("truncate", "-s", "4M", image)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d", folder, image)
    script.write_text(commands)
    run("debugfs", "-w", "-f", script, image)
    return image.read_bytes()


def test_names_that_lead_elsewhere_are_left_out(tmp_path: Path) -> None:
    names = {
        b"AAAAAAAAAA": b"../witness",
        b"BBBBBBBBBB": b"/tmp/evil1",
        b"CCCCCCCCCC": b"nul\0inside",
        b"DD": b"..",
        b"E": b".",
    }

    def files(folder: Path) -> None:
        for name in names:
            (folder / name.decode()).write_bytes(b"evil")
        (folder / "good").write_bytes(b"good")

    image = _ext4(tmp_path, "", files)
    for name, hostile in names.items():
        assert image.count(name) >= 1 or len(name) < 10
        entry = bytes([len(name), 1]) + name
        assert entry in image
        image = image.replace(entry, bytes([len(name), 1]) + hostile)
    target, check = cage(tmp_path, 0)
    result = copied(image, "ext", target)
    check()
    assert {path.name for path in target.iterdir()} == {"good", "lost+found"}
    # Every folder has "." and "..": there is nothing to report.
    assert {one.path for one in result.left_out} == {"/../witness", "//tmp/evil1", "/nul\0inside"}
    assert all(one.failed for one in result.left_out)


def test_a_link_and_a_folder_of_one_name(tmp_path: Path) -> None:
    """Following the link would write the content of the folder outside DEST."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def files(folder: Path) -> None:
        (folder / "aaaa").symlink_to(elsewhere)
        (folder / "bbbb").mkdir()
        (folder / "bbbb" / "file").write_bytes(b"evil")
        (folder / "link").symlink_to("/etc/passwd")

    image = _ext4(tmp_path, "", files)
    image = image.replace(b"\x04\x02bbbb", b"\x04\x02aaaa")
    target, check = cage(tmp_path, 0)
    result = copied(image, "ext", target)
    check()
    assert list(elsewhere.iterdir()) == []
    assert (target / "aaaa").is_dir() and not (target / "aaaa").is_symlink()
    assert (target / "aaaa/file").read_bytes() == b"evil"
    assert [(one.path, one.reason) for one in result.left_out] == [("/aaaa", "it exists already")]
    assert str((target / "link").readlink()) == "/etc/passwd"


def test_folders_that_contain_themselves_end(tmp_path: Path) -> None:
    def files(folder: Path) -> None:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "file").write_bytes(b"x")
        for level in range(20):
            (folder / f"level{level}").mkdir()

    # Folders that contain each other twice on each level: a million paths to one file.
    twice = "".join(f"cd /level{n}\nln /level{n + 1} x\nln /level{n + 1} y\n" for n in range(19))
    image = _ext4(tmp_path, f"ln /a /a/b/again\n{twice}", files)
    target, check = cage(tmp_path, 0)
    result = copied(image, "ext", target)
    check()
    assert result.files == 1 and result.folders < 50
    circles = [one for one in result.left_out if "circle" in one.reason]
    assert "/a/b/again" in {one.path for one in circles} and all(one.failed for one in circles)
    place = place_of(opened(image, "ext"))
    assert len(list(list_files(place, recursive=True))) < 120
    changes = list(compare_files(place, place_of(opened(image, "ext"))))
    assert changes and {change.change for change in changes} == {"!"}


def test_claims_of_size(tmp_path: Path) -> None:
    def files(folder: Path) -> None:
        (folder / "huge").write_bytes(b"x")
        (folder / "huge folder").mkdir()
        (folder / "huge link").symlink_to("x" * 100)
        (folder / "good").write_bytes(b"good")

    commands = (
        "sif /huge size 0x3ffffffffffff\n"
        'sif "/huge folder" size 0x7fffffff0000\n'
        'sif "/huge link" size 0x7ffffffffff\n'
    )
    image = _ext4(tmp_path, commands, files)
    target, check = cage(tmp_path, 0)
    started = time.process_time()
    result = copied(image, "ext", target)
    check()
    assert time.process_time() - started < 5
    assert (target / "good").read_bytes() == b"good"
    left_out = {one.path for one in result.left_out}
    assert {"/huge folder", "/huge link"} <= left_out
    # Some destinations accept a file with a hole that large.
    assert "/huge" in left_out or (target / "huge").stat().st_blocks < 100


def test_a_step_without_end_is_ended() -> None:
    with pytest.raises(EndlessError), bounded_step(0.1):
        while True:
            pass


def test_memory_is_bounded_and_given_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounded_memory(64 * MiB):
        bytearray(256 * MiB)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_a_library_raises_is_one_clear_error(tmp_path: Path) -> None:
    file_system = opened(_ext4(tmp_path, "", lambda folder: (folder / "x").write_bytes(b"x")), "ext")
    for raised in (
        ValueError("a\nb"),
        RecursionError(),
        MemoryError(),
        AssertionError(),
        EndlessError("no end"),
    ):
        damaged = pytest.raises(FileSystemError, match="the ext file system on volume 0 is damaged")
        with damaged, file_system.guarded("a file"):
            raise raised
    with pytest.raises(PitrError, match=r"^as it is$"), file_system.guarded("a file"):
        raise PitrError("as it is")
    assert file_system.root().kind is EntryKind.FOLDER
