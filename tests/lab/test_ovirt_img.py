# SPDX-License-Identifier: GPL-2.0-or-later
"""The unmodified ovirt-img against the lab."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pitr.lab import Lab
from tests.support.sdk_client import content_of

SIZE = 10487296
OVIRT_IMG = Path(sys.executable).with_name("ovirt-img")


def run_ovirt_img(folder: Path, *arguments: str) -> None:
    """Run ovirt-img with the configuration in `folder`. Raises CalledProcessError."""
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    subprocess.run([str(OVIRT_IMG), *arguments], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize(("unix_socket", "format"), [(True, "raw"), (False, "qcow2")])
def test_ovirt_img_downloads_the_data_that_it_uploaded(
    tmp_path: Path, *, unix_socket: bool, format: str
) -> None:
    with Lab(phase_lag_s=0.01, unix_socket=unix_socket) as new_lab:
        check_round_trip(new_lab, tmp_path, format)


def check_round_trip(new_lab: Lab, tmp_path: Path, format: str) -> None:
    new_lab.write_ovirt_img_config(tmp_path / "ovirt-img.conf")
    image = tmp_path / "image.raw"
    with image.open("wb") as file:
        file.write(random.Random(2).randbytes(300_000))
        file.truncate(SIZE)
    run_ovirt_img(tmp_path, "upload-disk", "-c", "lab", "-s", "data", "-f", format, str(image))
    (disk,) = new_lab.disks
    assert (disk.name, disk.size, disk.status) == ("image", SIZE, "ok")
    assert content_of(disk, tmp_path)[:SIZE] == image.read_bytes()

    copy = tmp_path / "copy.raw"
    run_ovirt_img(tmp_path, "download-disk", "-c", "lab", "-f", "raw", disk.id, str(copy))
    assert copy.read_bytes()[:SIZE] == image.read_bytes()
    assert (new_lab.open_transfers(), new_lab.locked_disks()) == ([], [])


def test_ovirt_img_fails_when_the_engine_finds_the_upload_damaged(new_lab: Lab, tmp_path: Path) -> None:
    new_lab.write_ovirt_img_config(tmp_path / "ovirt-img.conf")
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    new_lab.engine.faults.fail("upload verification")
    with pytest.raises(subprocess.CalledProcessError):
        run_ovirt_img(tmp_path, "upload-disk", "-c", "lab", "-s", "data", str(image))
    assert new_lab.disks == []


def test_the_configuration_file_is_private(new_lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "conf" / "ovirt-img.conf"
    new_lab.write_ovirt_img_config(path, section="other")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "[other]" in path.read_text()
    assert json.dumps(new_lab.password)[1:-1] in path.read_text()
