# SPDX-License-Identifier: GPL-2.0-or-later
"""The first site is lost: the second one alone restores disks, files and VMs, and becomes the first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pitr.lab import Lab
from pitr.repository.location import Location, text
from tests.support import s3
from tests.support.guest_images import make_image
from tests.support.lab import MiB, assert_same, oracle_of
from tests.support.pitr import Pitr


@pytest.fixture(params=["folder", "s3"])
def second(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return tmp_path / "second" if request.param == "folder" else s3.place()


def _host(pitr: Pitr, location: Location, state: Path) -> Pitr:
    """A machine that knows nothing of the first site."""
    return pitr.with_environment(
        PITR_REPO=text(location),
        XDG_STATE_HOME=str(state),
        AWS_ENDPOINT_URL_S3=s3.server(),
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_REGION="us-east-1",
    )


def test_the_second_site_alone_restores_a_disk_and_a_file(second: Location, tmp_path: Path) -> None:
    make_image("ext4", tmp_path)
    image = tmp_path / "image0"
    first = Pitr({"PITR_REPO": str(tmp_path / "first"), "TZ": "UTC", "COLUMNS": "200"})
    first("init")
    for day in ("01", "02"):
        first("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", f"2026-11-{day}")
    here = _host(first, tmp_path / "first", tmp_path / "state")
    document = here.json("replicate", tmp_path / "first", text(second))
    assert document["copied"]["points"] == 2 and document["behind"] == 0 and document["repaired"] == []
    listed = first.json("list")["points"]
    # The outcome of the run is kept by the source.
    assert first.json("history", "--last", "1")["runs"][0]["command"] == "replicate"
    shutil.rmtree(tmp_path / "first")

    there = _host(first, second, tmp_path / "other-state")
    assert there.json("list")["points"] == listed
    there("restore", "web", "--at", "2026-11-02", "--to-file", tmp_path / "out.raw")
    assert_same(tmp_path / "out.raw", image)
    there("files", "cp", "web", "/etc/hosts", tmp_path / "hosts", "--at", "now")
    assert (tmp_path / "hosts").stat().st_size == 20
    assert there.json("verify")["ok"] and there.json("catalog", "check")["ok"]

    # It is rebuilt elsewhere, and goes on as a repository of its own.
    there("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-03")
    document = there.json("replicate", text(second), tmp_path / "rebuilt")
    assert document["copied"]["points"] == 3
    rebuilt = _host(first, tmp_path / "rebuilt", tmp_path / "state")
    assert rebuilt.json("list")["points"] == there.json("list")["points"]
    assert rebuilt.json("verify")["ok"]


def test_two_copies_in_buckets_share_no_state_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * MiB)
    source, target = s3.place(), s3.place()
    first = _host(Pitr({"TZ": "UTC"}), source, tmp_path / "state")
    first("init")
    for vm in ("web", "db"):
        first("import", "raw", tmp_path / "image", "--vm", vm, "--disk", "sys", "--time", "2026-11-01")
    first("replicate", source.url, target.url, "--vm", "db")
    other = first.with_environment(PITR_REPO=target.url)
    assert len(first.json("list")["points"]) == 2
    assert len(other.json("list")["points"]) == 1
    assert other.json("verify")["ok"] and first.json("verify")["ok"]
    assert len(list((tmp_path / "state" / "pitr").iterdir())) == 2


def test_a_vm_comes_back_from_the_second_site_and_is_backed_up_there(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = lab.add_vm("web", nics=["nic1"])
    vm.add_disk("system", 4 * MiB, bootable=True)
    vm.start()
    pitr.backup("web")
    with vm.disks[0].guest() as guest:
        guest.write(MiB, b"B" * 70000)
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        pitr.backup("web", "--incremental")
    second = tmp_path / "second"
    assert pitr.json("replicate", pitr.repository, second)["copied"]["points"] == 2
    shutil.rmtree(pitr.repository)
    there = pitr.with_environment(PITR_REPO=str(second))
    document = there.json("restore", "web", "--at", "now", "--as-new-vm", "web-new")
    new = lab.vm("web-new")
    new.disks[0].copy_content(tmp_path / "copy")
    assert_same(tmp_path / "copy", oracle[vm.disks[0].id])
    assert document["vm_id"] == new.id
    # The engine still tracks the changes: the chain goes on.
    assert there.backup("web", "--incremental")["kind"] == "incremental"
    assert there.json("verify")["ok"]
