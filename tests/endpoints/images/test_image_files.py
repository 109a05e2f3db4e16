# SPDX-License-Identifier: GPL-2.0-or-later
"""An image file gets its name when it is complete, and not before."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.endpoints.images import raw_file
from pitr.endpoints.images.partial_file import SUFFIX, PartialFile
from pitr.endpoints.images.qcow2_file import Qcow2FileSink, Qcow2FileSource
from pitr.endpoints.images.raw_file import RawFileSink, RawFileSource, RawFileWriter
from pitr.errors import PitrError, ProgramFailed, UsageError
from pitr.system.process import run
from tests.support.block_devices import loop_device

SINKS = [RawFileSink, Qcow2FileSink]
MIB = 1 << 20


@pytest.mark.parametrize("sink_type", SINKS)
def test_the_name_appears_with_the_flush(sink_type: type[RawFileSink], tmp_path: Path) -> None:
    target = tmp_path / "a: disk,name.img"
    sink = sink_type(target, MIB)
    with sink.open_writer() as writer:
        writer.write(0, memoryview(b"x" * MIB))
    assert [path.name for path in tmp_path.iterdir()] == [target.name + SUFFIX]
    sink.flush()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("sink_type", SINKS)
def test_abort_leaves_nothing(sink_type: type[RawFileSink], tmp_path: Path) -> None:
    sink = sink_type(tmp_path / "disk", MIB)
    with sink.open_writer() as writer:
        writer.write(0, memoryview(b"x" * MIB))
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sink_type", SINKS)
def test_existing_files_are_never_overwritten(sink_type: type[RawFileSink], tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="already exists"):
        sink_type(target, MIB)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("sink_type", SINKS)
def test_a_second_writer_of_the_same_file_is_refused(sink_type: type[RawFileSink], tmp_path: Path) -> None:
    first = sink_type(tmp_path / "disk", MIB)
    with pytest.raises(UsageError, match="pitr-partial"):
        sink_type(tmp_path / "disk", MIB)
    first.flush()
    assert (tmp_path / "disk").exists()


def test_a_file_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "disk")
    (tmp_path / "disk").write_bytes(b"precious")
    with pytest.raises(UsageError, match="already exists"):
        partial.commit()
    partial.abort()
    assert (tmp_path / "disk").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("sink_type", SINKS)
def test_a_folder_that_does_not_exist_is_one_clear_line(sink_type: type[RawFileSink], tmp_path: Path) -> None:
    with pytest.raises(PitrError, match=r"the folder .*nowhere does not exist"):
        sink_type(tmp_path / "nowhere" / "disk", MIB)


def test_a_raw_file_is_sparse_and_has_the_size_of_the_disk(tmp_path: Path) -> None:
    sink = RawFileSink(tmp_path / "disk", 1 << 40)
    with sink.open_writer() as writer:
        writer.write(1 << 39, memoryview(b"x" * 4096))
        writer.write(0, memoryview(b"y" * 65536))
        writer.zero(0, 65536)
    sink.flush()
    status = (tmp_path / "disk").stat()
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 <= 65536
    with RawFileSource(tmp_path / "disk") as source:
        assert source.extents().data_bytes <= 65536


def test_a_raw_disk_may_have_any_size(tmp_path: Path) -> None:
    sink = RawFileSink(tmp_path / "disk", 1000)
    with sink.open_writer() as writer:
        writer.write(990, memoryview(b"x" * 10))
    sink.flush()
    assert (tmp_path / "disk").read_bytes() == bytes(990) + b"x" * 10


def test_a_qcow2_disk_must_be_whole_sectors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 512"):
        Qcow2FileSink(tmp_path / "disk", 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_qcow2_file_is_sound_and_small(tmp_path: Path) -> None:
    sink = Qcow2FileSink(tmp_path / "disk", 1 << 40)
    with sink.open_writer() as writer:
        writer.write(1 << 39, memoryview(b"x" * 4096))
        writer.zero(0, 1 << 30)
    sink.flush()
    run(["qemu-img", "check", "-q", str(tmp_path / "disk")])
    assert (tmp_path / "disk").stat().st_blocks * 512 < 2 * MIB


def test_a_source_with_a_backing_file_reads_the_whole_chain(tmp_path: Path) -> None:
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(b"b" * MIB)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(top)])
    buffer = bytearray(MIB)
    with Qcow2FileSource(top) as source, source.open_reader() as reader:
        reader.read_ranges([(0, MIB)], memoryview(buffer))
    assert buffer == b"b" * MIB


def test_what_qemu_cannot_open_is_told_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"this is no qcow2 file" * 100)
    with pytest.raises(ProgramFailed, match="not in qcow2 format"):
        Qcow2FileSource(tmp_path / "disk")


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 8192)
    with RawFileSource(path) as source, source.open_reader() as reader:
        os.truncate(path, 4096)
        with pytest.raises(PitrError, match="shorter"):
            reader.read_ranges([(0, 8192)], memoryview(bytearray(8192)))


def test_writing_zeroes_where_the_file_system_cannot_punch_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_file, "_zeroed", lambda descriptor, offset, length: False)
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (3 * MIB))
    descriptor = os.open(path, os.O_RDWR)
    try:
        RawFileWriter(path, descriptor, 3 * MIB).zero(1000, 2 * MIB + 1)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"x" * 1000 + bytes(2 * MIB + 1) + b"x" * (MIB - 1001)


def test_a_full_file_system_is_one_clear_line() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        writer = RawFileWriter(Path("/dev/full"), descriptor, MIB)
        with pytest.raises(PitrError, match="/dev/full: No space left on device") as raised:
            writer.write(0, memoryview(b"x"))
    finally:
        os.close(descriptor)
    assert "Free some space" in raised.value.advice


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let writes beyond 1 MiB of any file fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_does_not_fit_leaves_nothing(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(PitrError, match=r"disk\.pitr-partial: File too large"):
        RawFileSink(tmp_path / "disk", MIB + 512)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def block_device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 2 MiB full of x. Without loop devices, the tests that need it are skipped."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * (2 * MIB))
    with loop_device(image) as device:
        yield device


def test_a_block_device_is_written_in_place(block_device: Path) -> None:
    sink = RawFileSink(block_device, MIB, overwrite_device=True)
    assert sink.reads_zero is False
    with sink.open_writer() as writer:
        writer.write(0, memoryview(b"a" * 4096))
        writer.zero(4096, MIB - 4096)
    sink.flush()
    sink.abort()
    with RawFileSource(block_device) as source, source.open_reader() as reader:
        assert source.size == 2 * MIB
        assert source.extents().covers(2 * MIB)
        buffer = bytearray(2 * MIB)
        reader.read_ranges([(0, 2 * MIB)], memoryview(buffer))
    assert buffer == b"a" * 4096 + bytes(MIB - 4096) + b"x" * MIB


def test_a_block_device_that_is_too_small_is_refused(block_device: Path) -> None:
    with pytest.raises(UsageError, match="has 2097152 bytes, but the disk needs 4194304"):
        RawFileSink(block_device, 4 * MIB, overwrite_device=True)


def test_no_qemu_outlives_a_pitr_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from pitr.endpoints.images.qcow2_file import Qcow2FileSink
        sink = Qcow2FileSink(Path(sys.argv[1]), 1 << 20)
        print(sink._server._process.pid, sink._server._folder.name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "disk")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    pid, folder = done.stdout.split()
    try:
        wait_for_end(int(pid))
    finally:
        for leftover in Path(folder).iterdir():
            leftover.unlink()
        Path(folder).rmdir()


def wait_for_end(pid: int) -> None:
    """Return when the process has exited."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], 60)
        assert ready, "qemu-nbd still runs"
    finally:
        os.close(descriptor)
