# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON documents that scripts depend on, key by key, and the exit codes that go with them."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.lab import MiB, assert_adds_up, make_vm
from tests.support.pitr import Pitr, ended

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
POINT = {
    "backup_id": str,
    "vm": {"id": str, "name": str},
    "kind": ("full", "incremental", "synthetic"),
    "reason": (str, None),
    "point": TIME,
    "lo": TIME,
    "parent_id": (str, None),
    "checkpoint_id": (str, None),
    "from_checkpoint_id": (str, None),
    "mode": ("live", "cold", "hybrid"),
    "consistency": str,
    "disks": [
        {
            "disk_id": str,
            "name": str,
            "stream_id": str,
            "kind": ("full", "incremental"),
            "size": int,
            "data_bytes": int,
            "zero_bytes": int,
            "stored_bytes": int,
            "extents": int,
        }
    ],
    "stored_bytes": int,
    "duration_s": float,
}
RESTORED = {
    "disk_id": str,
    "target": (str, None),
    "size": int,
    "bytes_written": int,
    "bytes_zeroed": int,
    "bytes_skipped": int,
    "bytes_read": int,
    "frames_read": int,
    "streams": int,
    "duration_s": float,
}
DAMAGE = {
    "backup_id": (str, None),
    "disk_id": (str, None),
    "stream_id": (str, None),
    "kind": ("missing", "corrupt", "truncated", "inconsistent"),
    "what": ("blob", "index", "record", "frame", "parent"),
    "start": (int, None),
    "length": (int, None),
    "points_lost": [str],
    "message": str,
}


def assert_shape(found: Any, shape: Any, at: str = "document") -> None:
    """`found` has all keys of `shape`, of the right types; more keys are no harm."""
    if isinstance(shape, dict):
        assert isinstance(found, dict), at
        for key, inner in shape.items():
            assert key in found, f"{at}.{key}"
            assert_shape(found[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(found, list), at
        for number, item in enumerate(found):
            assert_shape(item, shape[0], f"{at}[{number}]")
    elif isinstance(shape, tuple):
        fits = [s for s in shape if s is found or s == found or (isinstance(s, type) and type(found) is s)]
        assert fits, f"{at}: {found!r}"
    elif isinstance(shape, re.Pattern):
        assert shape.fullmatch(found), f"{at}: {found!r}"
        datetime.fromisoformat(found)
    else:
        accepted = (int, float) if shape is float else (shape,)
        assert type(found) in accepted, f"{at}: {found!r}"


def _sharing_nothing(disks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The disks of a point as 'pitr show' describes them."""
    return [{**disk, "shared": []} for disk in disks]


def test_every_document(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 4 * MiB, 10487296, formats=("cow", "raw"))
    again = pitr.with_environment(PITR_REPO=str(tmp_path / "another"))
    made = again.json("init")
    assert_shape(made, {"repository": {"id": str, "path": str, "format": int}})
    assert made["repository"]["path"] == str(tmp_path / "another")
    assert pitr.json("list") == {"points": []}

    with vm.disks[0].guest() as guest:
        guest.write(0, b"J" * MiB)
    first = pitr.json("backup", vm.name, "--full")
    assert_shape(first, {"backups": [POINT], "failed": []})
    with vm.disks[0].guest() as guest:
        guest.zero(0, 64 << 10, unmap=True)
    second = pitr.json("backup", vm.name)
    full, incremental = first["backups"][0], second["backups"][0]
    assert full["reason"] and incremental["reason"] is None
    assert incremental["from_checkpoint_id"] == full["checkpoint_id"] != incremental["checkpoint_id"]
    assert incremental["parent_id"] == full["backup_id"]
    for point in (full, incremental):
        assert_shape(point, POINT)
        assert point["stored_bytes"] == sum(disk["stored_bytes"] for disk in point["disks"])
        for disk in point["disks"]:
            if disk["kind"] == "full":
                assert disk["data_bytes"] + disk["zero_bytes"] == disk["size"]

    assert pitr.json("list") == {"points": [incremental, full]}
    assert pitr.json("list", vm.id)["points"] == [incremental, full]
    shown = pitr.json("show", incremental["backup_id"][:8])
    full_shown, shown_too = (
        {**each, "disks": _sharing_nothing(each["disks"])} for each in (full, incremental)
    )
    assert shown == {"point": shown_too, "chain": [full_shown, shown_too], "damage": []}
    extents = pitr.json("extents", incremental["backup_id"], "--disk", "d0")
    assert_shape(
        extents,
        {
            "disk_id": str,
            "size": int,
            "extents": [{"start": int, "length": int, "zero": bool, "backup_id": (str, None)}],
        },
    )
    assert extents["extents"][0] == {
        "start": 0,
        "length": 64 << 10,
        "zero": True,
        "backup_id": incremental["backup_id"],
    }

    restore = ("restore", "--point", incremental["backup_id"])
    answer = {
        "point": POINT,
        "age_s": float,
        "next_point": (str, None),
        "vm_id": (str, None),
        "disks": [RESTORED],
    }
    planned = pitr.json(*restore, "--to-file", tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    to_files = pitr.json(*restore, "--to-file", tmp_path / "out")
    to_disks = pitr.json(*restore)
    for document in (planned, to_files, to_disks):
        assert_shape(document, answer)
        assert [disk["disk_id"] for disk in document["disks"]] == [d["disk_id"] for d in incremental["disks"]]
        for disk in document["disks"]:
            assert_adds_up(disk)
        # One full of 1 MiB, of which the newer zeroes hide 64 KiB: one frame.
        assert document["disks"][0]["frames_read"] == 1
        assert document["disks"][0]["bytes_written"] == MiB - (64 << 10)
        assert document["disks"][0]["streams"] == 1
    for plan, done in zip(planned["disks"], to_files["disks"], strict=True):
        assert {**plan, "duration_s": 0} == {**done, "duration_s": 0}

    for level in ("--quick", "--full"):
        verified = pitr.json("verify", level)
        assert_shape(
            verified,
            {
                "ok": bool,
                "level": str,
                "checked": {"points": int, "streams": int, "frames": int, "bytes": int},
                "damage": [DAMAGE],
            },
        )
        assert verified["ok"] and verified["level"] == level[2:] and verified["checked"]["streams"] == 4
    for command in ("check", "rebuild"):
        assert pitr.json("catalog", command) == {"ok": True, "points": 2, "streams": 4, "differences": []}
    for other in ("ATTACH '{}' AS other", "VACUUM INTO '{}'"):
        refused = pitr("catalog", "query", other.format(pitr.repository.parent / "other"), code=2)
        assert "the query failed" in refused.complaint and not (pitr.repository.parent / "other").exists()
    assert pitr.json("catalog", "query", "SELECT count(*) AS n FROM point") == {"rows": [{"n": 2}]}
    ready = pitr.json("catalog", "query")["queries"]
    for each in ready:
        assert_shape(each, {"name": str, "title": str, "description": str, "values": list})
        pitr("catalog", "query", each["name"])
    [row] = pitr.json("catalog", "query", "points-per-vm")["rows"]
    assert row["points"] == 2
    old = ("catalog", "query", "vms_without_a_backup")
    assert pitr.json(*old)["rows"] == [] and len(pitr.json(*old, "--set", "days=-1")["rows"]) == 1
    assert "growth_per_day" in pitr("catalog", "query").stdout
    assert "ready-made" in pitr("catalog", "query", "growth", code=2).complaint
    assert "days" in pitr(*old, "--set", "age=1", code=2).complaint
    pitr("catalog", "query", "SELECT 1 AS one", "--set", "days=1", code=2)

    stream = full["disks"][0]
    blob = pitr.repository / "blobs" / stream["disk_id"] / f"{stream['stream_id']}.sparse.zst"
    blob.unlink()
    verified = pitr.json("verify", code=3)
    assert_shape(verified, {"ok": (False,), "damage": [DAMAGE]})
    assert verified["damage"][0]["points_lost"] == [full["backup_id"], incremental["backup_id"]]


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("backup", "nobody"), 4, "NoSuchVM"),
        (("list", "nobody"), 4, "NoSuchVM"),
        (("show", "ffffffff"), 4, "NoSuchPoint"),
        (("extents", "ffffffff"), 4, "NoSuchPoint"),
        (("restore", "--point", "ffffffff"), 4, "NoSuchPoint"),
        (("restore", "--at", "2020-06-30T22:00"), 4, None),
        (("restore",), 2, "UsageError"),
        (("restore", "--at", "2020-06-30", "--point", "ffffffff"), 2, "UsageError"),
        (("restore", "--at", "soon"), 2, "UsageError"),
        (("backup",), 2, "UsageError"),
        (("backup", "--full", "--incremental", "vm"), 2, "UsageError"),
        (("verify", "--quick", "--full"), 2, "UsageError"),
        (("no-such-command",), 2, "UsageError"),
        (("list", "--no-such-option"), 2, "UsageError"),
        (("show",), 2, "UsageError"),
        (("catalog", "query", "DROP TABLE point"), 2, "UsageError"),
        (("init",), 1, "RepositoryError"),
    ],
)
def test_failures_are_documents_too(
    pitr: Pitr, arguments: tuple[str, ...], code: int, kind: str | None
) -> None:
    failed = pitr("--output", "json", *arguments, code=code)
    assert failed.error["message"] and (kind is None or failed.error["type"] == kind)
    assert failed.complaint
    # Without JSON nothing is on standard output.
    assert pitr(*arguments, code=code).stdout == ""


def test_a_repository_that_is_not_there(pitr: Pitr, tmp_path: Path) -> None:
    lost = pitr.with_environment(PITR_REPO=str(tmp_path / "nowhere"))
    for arguments in (("list",), ("verify",), ("backup", "vm"), ("restore", "--at", "now")):
        assert lost(*arguments, "-o", "json", code=1).error["advice"]
    assert not (tmp_path / "nowhere").exists()


def test_several_vms_must_be_told_apart(lab: Lab, pitr: Pitr) -> None:
    vms = [make_vm(lab, MiB) for _ in range(2)]
    for vm in vms:
        pitr.backup(vm.name)
    error = pitr("restore", "--at", "now", "-o", "json", code=2).error
    assert all(vm.name in error["message"] + error["advice"] for vm in vms)
    # backup and verify mean all of them.
    assert len(pitr.json("backup", "--incremental")["backups"]) == 2
    assert pitr.json("verify")["checked"]["points"] == 4


def test_progress_is_lines_of_json_on_standard_error_of_the_program(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, 32 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"K" * 32 * MiB)
    with pitr.process("backup", vm.name, "--output", "json") as process:
        result = ended(process)
    assert result.code == 0
    assert result.json["backups"][0]["disks"][0]["data_bytes"] == 32 * MiB
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        assert_shape(
            line,
            {"progress": {"what": str, "phase": str, "done": int, "total": int, "elapsed_s": float}},
        )
    assert lines[-1]["progress"]["phase"] == "finishing"
