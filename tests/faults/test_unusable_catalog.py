# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command that reads works on a read-only or full repository whose catalog is missing, stale or damaged."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB, assert_same, make_vm, nothing_open, oracle_of
from tests.support.pitr import Pitr, Result

_CAN_MOUNT = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not _CAN_MOUNT, reason="needs the right to mount")

#: Mount the repository $1 as $2, read-only or on a file system without a free byte, then run the rest.
_MOUNT = {
    "read-only": 'mount --bind "$1" "$2" && mount -o remount,ro,bind "$2" "$2"',
    "full": 'mount -t tmpfs -o size=8m tmpfs "$2" && cp -a "$1/." "$2" && ! cat /dev/zero > "$2/filler" 2>&-',
}


def _stale(pitr: Pitr, catalog: Path, before: bytes) -> None:
    catalog.write_bytes(before)


def _missing(pitr: Pitr, catalog: Path, before: bytes) -> None:
    catalog.unlink()


def _garbage(pitr: Pitr, catalog: Path, before: bytes) -> None:
    catalog.write_bytes(b"garbage" * 1000)


def _torn(pitr: Pitr, catalog: Path, before: bytes) -> None:
    """The header is whole, and the pages are not."""
    content = catalog.read_bytes()
    catalog.write_bytes(content[:200] + b"\xa5" * (len(content) - 200))


_STATES = {"stale": _stale, "missing": _missing, "garbage": _garbage, "torn": _torn}


#: Runs the commands of its standard input, one after the other, and prints how each ended.
_RUNNER = """
import json, sys
from dataclasses import asdict
from tests.support.pitr import Pitr, Result
pitr = Pitr({})
print(json.dumps([asdict(pitr.run(*command)) for command in json.load(sys.stdin)]))
"""
_UNSHARED: tuple[str | Path, ...] = ("unshare", "-m", "sh", "-c")
_PROGRAM = (sys.executable, "-c", _RUNNER)
_ROOT = Path(__file__).parents[2]


class Mounted:
    """The repository on a mount that cannot be written."""

    def __init__(self, pitr: Pitr, folder: Path, how: str) -> None:
        self._pitr = pitr
        self._mount = folder / "mount"
        self._mount.mkdir()
        self._how = how

    def __call__(self, *commands: Sequence[str | Path], code: int = 0) -> list[Result]:
        """Run pitr commands in one process with the mount; each must exit with `code`."""
        script = f'{_MOUNT[self._how]} && shift 2 && exec "$@"'
        done = subprocess.run(
            [*_UNSHARED, script, "sh", self._pitr.repository, self._mount, *_PROGRAM],
            input=json.dumps([[str(word) for word in command] for command in commands]),
            env={**os.environ, **self._pitr.environment, "PITR_REPO": str(self._mount)},
            cwd=_ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        results = [Result(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]
        for result in results:
            assert result.code == code, result
            assert "defect" not in result.stderr and "thread" not in result.stderr, result
        return results


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    return make_vm(lab, MiB, MiB)


@pytest.fixture
def stored(lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path) -> tuple[bytes, list[Any], dict[str, Path]]:
    """Two points; the catalog's bytes before the second; and what the disks held at the second."""
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * 300_000)
    first = pitr.backup(vm.name)
    catalog = (pitr.repository / "catalog.db").read_bytes()
    with vm.disks[0].guest() as guest:
        guest.write(100_000, random.Random(3).randbytes(100_000))
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        second = pitr.backup(vm.name)
    return catalog, [first, second], dict(oracle)


@pytest.mark.parametrize("state", _STATES)
@pytest.mark.parametrize("how", _MOUNT)
def test_every_command_that_reads_works(
    lab: Lab, pitr: Pitr, vm: LabVM, stored: Any, tmp_path: Path, how: str, state: str
) -> None:
    before, (first, second), oracle = stored
    listed = pitr.json("list")
    shown = pitr.json("show", second["backup_id"])
    _STATES[state](pitr, pitr.repository / "catalog.db", before)
    run = Mounted(pitr, tmp_path, how)
    target, exported = tmp_path / "restored", tmp_path / "exported.raw"
    at = [vm.name, "--at", "now"]
    documents = run(
        ["list", "-o", "json"],
        ["show", second["backup_id"], "-o", "json"],
        ["verify", "-o", "json"],
        ["verify", "--quick", vm.name, "-o", "json"],
        ["restore", *at, "--to-file", f"{target}/", "-o", "json"],
        ["drill", vm.name, "--in", str(tmp_path), "-o", "json"],
        ["catalog", "query", "SELECT count(*) AS points FROM point", "-o", "json"],
    )
    texts = [result.json for result in documents]
    assert texts[:2] == [listed, shown]
    assert texts[6] == {"rows": [{"points": 2}]}
    assert texts[2]["ok"] is texts[3]["ok"] is texts[5]["drill"]["ok"] is True
    assert texts[4]["point"]["backup_id"] == second["backup_id"]
    for disk in texts[4]["disks"]:
        assert_same(Path(disk["target"]), oracle[disk["disk_id"]])
    assert "cannot store the result of the drill" in documents[5].stderr
    run(
        ["restore", *at, "--to-new-disks"],
        ["export", *at, "--disk", "d0", "--format", "raw", "--to", str(exported)],
        [
            "serve",
            *at,
            "--disk",
            "d0",
            "--socket",
            str(tmp_path / "nbd"),
            "--run",
            f"qemu-img convert -O raw $NBD_URI {tmp_path}/served.raw",
        ],
        ["files", "ls", *at, "--disk", "d0"],
        ["diff", "--point", first["backup_id"], "--point", second["backup_id"], "--exact"],
        ["extents", second["backup_id"], "--disk", "d0"],
    )
    assert nothing_open(lab)
    for copy in (exported, tmp_path / "served.raw"):
        assert_same(copy, oracle[vm.disks[0].id])


@pytest.mark.parametrize("how", _MOUNT)
def test_damage_is_reported_and_the_notice_says_that_it_is_not_recorded(
    pitr: Pitr, stored: Any, tmp_path: Path, how: str
) -> None:
    _, (_, second), _ = stored
    disk = second["disks"][0]
    blob = pitr.repository / "blobs" / disk["disk_id"] / f"{disk['stream_id']}.sparse.zst"
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    run = Mounted(pitr, tmp_path, how)
    commands = (["verify"], ["restore", "--point", second["backup_id"], "--to-file", f"{tmp_path}/x/"])
    for result in run(*commands, code=3):
        assert "damage could not be recorded" in result.stderr
    assert not (pitr.repository / "checks").exists()
    assert pitr.json("list")["points"][0]["damaged"] is False
