# SPDX-License-Identifier: GPL-2.0-or-later
"""Drills that boot a point: a Debian that comes up, guests of one sector that do not, and damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.lab import Lab
from tests.support import debian_guest
from tests.support.lab import MiB
from tests.support.pitr import Pitr

_PNG = b"\x89PNG\r\n\x1a\n"


def _disk(folder: Path, content: bytes) -> Path:
    image = folder / "disk.raw"
    image.write_bytes(content.ljust(MiB, b"\0"))
    return image


def _back_up(lab: Lab, pitr: Pitr, image: Path) -> str:
    vm = lab.add_vm("web")
    vm.add_disk("data", MiB)
    vm.add_disk("system", image.stat().st_size, content=image, bootable=True)
    pitr.backup("web")
    return vm.disks[1].id


@pytest.mark.skipif(
    bool(debian_guest.missing()), reason=f"not installed: {', '.join(debian_guest.missing())}"
)
def test_a_debian_is_proven_by_its_agent(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _back_up(lab, pitr, debian_guest.build(tmp_path))
    picture = tmp_path / "web.png"
    document = pitr.json("drill", "web", "--boot", "--screenshot", picture)["drill"]
    assert document["ok"]
    assert document["boot"] == {
        "result": "passed",
        "evidence": "guest-agent",
        "seconds": document["boot"]["seconds"],
        "screenshot": str(picture),
    }
    assert document["boot"]["seconds"] > 0
    assert picture.read_bytes().startswith(_PNG)
