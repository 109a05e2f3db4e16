# SPDX-License-Identifier: GPL-2.0-or-later
"""A file takes the place of another one, also from another file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pitr.system.replace_file import move_file


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    source, target = tmp_path / "new", tmp_path / "folder" / "old"
    target.parent.mkdir()
    source.write_bytes(b"new")
    target.write_bytes(b"old content")
    rename = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if elsewhere and self.parent != to.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    move_file(source, target)
    assert target.read_bytes() == b"new" and not source.exists()
    assert [path.name for path in target.parent.iterdir()] == ["old"]
