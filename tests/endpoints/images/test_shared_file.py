# SPDX-License-Identifier: GPL-2.0-or-later
"""One new image file that several machines write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pitr.endpoints.images import shared_file
from pitr.endpoints.images.shared_file import SharedFilePart, SharedFileSink
from pitr.errors import PitrError, UsageError

_SIZE = 1 << 20


def test_parts_write_one_file_which_gets_its_name_at_the_end(tmp_path: Path) -> None:
    sink = SharedFileSink(tmp_path / "disk.raw", _SIZE)
    file = sink.shared()
    for number in range(2):
        part = SharedFilePart(file)
        with part.open_writer() as writer:
            writer.write(number * 4096, memoryview(bytes([number + 1]) * 4096))
        part.flush()
    assert not (tmp_path / "disk.raw").exists()
    sink.flush()
    expected = b"\1" * 4096 + b"\2" * 4096
    assert (tmp_path / "disk.raw").read_bytes() == expected.ljust(_SIZE, b"\0")


def test_a_machine_that_may_still_write_keeps_the_file_from_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_file, "_PATIENCE_S", 0)
    sink = SharedFileSink(tmp_path / "disk.raw", _SIZE)
    lost = SharedFilePart(sink.shared())
    with pytest.raises(PitrError, match="may still be writing"):
        sink.flush()
    assert not (tmp_path / "disk.raw").exists()
    lost.abort()
    sink.flush()
    assert (tmp_path / "disk.raw").exists()


def test_a_machine_without_the_file_or_with_another_one_is_refused(tmp_path: Path) -> None:
    sink = SharedFileSink(tmp_path / "disk.raw", _SIZE)
    file = sink.shared()
    (tmp_path / "link").symlink_to(file.path)
    for other in (
        replace(file, path=str(tmp_path / "none")),
        replace(file, inode=file.inode + 1),
        replace(file, size=_SIZE + 1),
        replace(file, path=str(tmp_path / "link")),
        replace(file, path=str(tmp_path)),
    ):
        with pytest.raises(UsageError, match="cannot write"):
            SharedFilePart(other)
    sink.abort()
    assert not list(tmp_path.glob("*partial"))
