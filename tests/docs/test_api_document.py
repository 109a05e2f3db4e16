# SPDX-License-Identifier: GPL-2.0-or-later
"""The program of docs/api.md runs as it is written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ovirtsdk4

from pitr.lab import Lab
from tests.support.independent import apply_sparse, unzstd
from tests.support.lab import assert_same, make_vm

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_vendors_program_backs_up_and_restores(lab: Lab, tmp_path: Path) -> None:
    program = re.search(r"runs this program -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert program is not None
    assert len(program[1].strip().splitlines()) <= 45
    vendor: dict[str, Any] = {}
    exec(compile(program[1], str(PAGE), "exec"), vendor)  # noqa: S102

    vm = make_vm(lab, 3 << 20, 2 << 20)
    for number, disk in enumerate(vm.disks):
        with disk.guest() as guest:
            guest.write(number * 65536, b"data of the guest" * 20_000)
    connection = ovirtsdk4.Connection(
        url=f"{lab.engine_url.rstrip('/')}/ovirt-engine/api"
        if not lab.engine_url.endswith("/api")
        else lab.engine_url,
        username=lab.username,
        password=lab.password,
        ca_file=str(lab.cafile),
    )
    folder = tmp_path / "tape"
    folder.mkdir()
    try:
        vendor["back_up"](connection, str(lab.cafile), vm.name, str(folder))
    finally:
        connection.close()
    for disk in vm.disks:
        oracle = tmp_path / f"{disk.id}.oracle"
        lab.disk(disk.id).copy_content(oracle)
        vendor["restore"](str(folder / disk.id), str(tmp_path / f"{disk.id}.raw"))
        assert_same(tmp_path / f"{disk.id}.raw", oracle)
        found = bytearray()
        meta, _ = apply_sparse(unzstd((folder / disk.id).read_bytes()), found)
        assert meta["disk-id"] == disk.id and found == oracle.read_bytes()
