# SPDX-License-Identifier: GPL-2.0-or-later
"""Points of the repository through the gateway, with curl."""

from __future__ import annotations

import email.policy
import shutil
import subprocess
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import pytest

from pitr.gateway import openapi
from pitr.repository import Repository, names
from tests.support.gateway import CUT_OFF, Gateway, running
from tests.support.independent import apply_rbd, apply_sparse, run
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.points import flip_bit
from tests.support.points_over_http import Points

MiB = 1 << 20


def test_lists_are_what_the_commands_print(gateway: Gateway, pitr: Pitr, points: Points) -> None:
    assert gateway.get("/points").json == pitr.json("list")
    vm = points.vm
    assert gateway.get(f"/points?vm={vm.name}").json == gateway.get(f"/points?vm={vm.id}").json
    assert len(gateway.get(f"/points?vm={vm.id}").json["points"]) == 3
    assert gateway.get("/points?vm=nosuch", status=404).error["type"] == "NoSuchVM"
    for number in range(3):
        shown = gateway.get(f"/points/{points.id(number)[:8]}").json
        assert shown == pitr.json("show", points.id(number)) and len(shown["chain"]) == number + 1
    assert gateway.get("/points/nosuch-point", status=404).error["type"] == "NoSuchPoint"
    assert gateway.get("/points/abc", status=404)


@pytest.mark.parametrize("disk", ["d0", "d1"])
def test_each_point_comes_out_in_all_formats(
    gateway: Gateway, pitr: Pitr, points: Points, tmp_path: Path, disk: str
) -> None:
    for number in range(3):
        expected = points.oracle(number, disk)
        raw = gateway.get(points.path(number, disk) + "?format=raw")
        assert raw.body == expected.read_bytes()
        assert raw.headers["content-length"] == str(expected.stat().st_size)
        for compress in ("none", "zstd"):
            stream = tmp_path / f"{number}-{compress}"
            stream.write_bytes(gateway.get(f"{points.path(number, disk)}?compress={compress}").body)
            restored = tmp_path / f"{stream.name}.raw"
            pitr("restore", "--from", stream, "--to-file", restored)
            assert_same(restored, expected)
    for version in ("rbd-diff", "rbd-diff-v2"):
        applied = bytearray()
        for number, since in ((0, ""), (2, f"&since={points.id(0)[:8]}"), (1, f"&since={points.id(2)}")):
            query = f"?format={version}{since}"
            apply_rbd(gateway.get(points.path(number, disk) + query).body, applied)
            assert applied == points.oracle(number, disk).read_bytes()
    applied = bytearray(points.oracle(2, disk).read_bytes())
    backwards = gateway.get(f"{points.path(0, disk)}?since={points.id(2)}")
    meta, _ = apply_sparse(backwards.body, applied)
    assert meta["incremental"] and applied == points.oracle(0, disk).read_bytes()
    assert len(backwards.body) < 2 * MiB


def test_the_description_has_every_key_of_the_documents(gateway: Gateway, points: Points) -> None:
    schemas = openapi.document()["components"]["schemas"]
    shown = gateway.get(f"/points/{points.id(0)[:8]}").json
    for name, document in (
        ("PointAndChain", shown),
        ("Point", shown["point"]),
        ("Disk", shown["point"]["disks"][0]),
    ):
        assert set(schemas[name]["properties"]) == set(document), name


#: (the range in the request, its start, its end); None: outside the disk.
RANGES: list[tuple[str, tuple[int, int] | None]] = [
    ("0-0", (0, 1)),
    ("0-", (0, 3 * MiB + 512)),
    ("511-1024", (511, 1025)),
    ("-1", (3 * MiB + 511, 3 * MiB + 512)),
    ("-99999999999", (0, 3 * MiB + 512)),
    ("1048000-1114112", (1048000, 1114113)),
    ("3146239-3146239", (3 * MiB + 511, 3 * MiB + 512)),
    ("3146000-99999999", (3146000, 3 * MiB + 512)),
    ("3146240-", None),
    ("99999999999999999999-", None),
    ("-0", None),
]


@pytest.mark.parametrize(("asked", "expected"), RANGES)
def test_ranges_of_raw_disks(
    gateway: Gateway, points: Points, asked: str, expected: tuple[int, int] | None
) -> None:
    whole = points.oracle(1, "d1").read_bytes()
    path = points.path(1, "d1") + "?format=raw"
    if expected is None:
        answer = gateway.get(path, "-H", f"Range: bytes={asked}", status=416)
        assert answer.headers["content-range"] == f"bytes */{len(whole)}"
        assert answer.error["type"] == "OutsideOfDisk"
        return
    start, end = expected
    answer = gateway.get(path, "-H", f"Range: bytes={asked}", status=206)
    assert answer.body == whole[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,x", "bytes=5-1", "bytes=-", "lines=0-1", "bytes=a-b", "0-1"])
def test_ranges_that_are_none_get_the_whole_disk(gateway: Gateway, points: Points, asked: str) -> None:
    answer = gateway.get(points.path(0, "d1") + "?format=raw", "-H", f"Range: {asked}")
    assert answer.body == points.oracle(0, "d1").read_bytes()


def test_several_ranges_come_as_one_multipart_answer(gateway: Gateway, points: Points) -> None:
    whole = points.oracle(1, "d1").read_bytes()
    path = points.path(1, "d1") + "?format=raw"
    asked = [(0, 512), (MiB - 3, 2 * MiB + 7), (len(whole) - 5, len(whole))]
    header = ",".join(f"{start}-{end - 1}" for start, end in asked)
    answer = gateway.get(path, "-H", f"Range: bytes={header}, 99999999999-", status=206)
    assert answer.headers["content-length"] == str(len(answer.body))
    # The standard library's parser reads the body as any client would.
    message = BytesParser(EmailMessage, policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.body
    )
    assert message.get_content_type() == "multipart/byteranges" and not message.defects
    parts = list(message.iter_parts())
    ends = [part["content-range"] for part in parts]
    assert ends == [f"bytes {start}-{end - 1}/{len(whole)}" for start, end in asked]
    assert {part.get_content_type() for part in parts} == {"application/octet-stream"}
    boundary = str(message.get_boundary()).encode()
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.body.split(b"\r\n--" + boundary)[1:-1]]
    assert bodies == [whole[start:end] for start, end in asked]
    # Some ranges outside: the others come; one is left: no multipart.
    one = gateway.get(path, "-H", "Range: bytes=1-2,99999999999-", status=206)
    assert one.body == whole[1:3] and one.headers["content-range"] == f"bytes 1-2/{len(whole)}"
    refused = gateway.get(path, "-H", "Range: bytes=" + ",".join(["0-0"] * 65), status=416)
    assert "too many" in refused.error["message"]


def test_a_download_that_was_cut_off_is_taken_up_again(
    gateway: Gateway, points: Points, tmp_path: Path
) -> None:
    path = points.path(2, "d0") + "?format=raw"
    expected = points.oracle(2, "d0")
    head = gateway.get(path, "--head")
    etag = head.headers["etag"]
    assert head.headers["content-length"] == str(expected.stat().st_size)
    assert head.headers["accept-ranges"] == "bytes"
    assert etag != gateway.get(points.path(1, "d0") + "?format=raw", "--head").headers["etag"]
    assert etag != gateway.get(points.path(2, "d1") + "?format=raw", "--head").headers["etag"]
    image = tmp_path / "image"
    image.write_bytes(expected.read_bytes()[: 7 * MiB + 5])
    assert gateway.get(path, "-C", "-", "-o", image, "-H", f"If-Range: {etag}", status=206)
    assert_same(image, expected)
    # A part of a different disk cannot be completed.
    answer = gateway.get(path, "-r", "0-1", "-H", 'If-Range: "another"')
    assert answer.body == expected.read_bytes()
    assert gateway.get(path, "-H", f"If-None-Match: {etag}", status=304).body == b""
    assert gateway.get(path, "-H", 'If-None-Match: "another"', "--head")


def test_head_of_a_stream_opens_nothing(gateway: Gateway, points: Points) -> None:
    answer = gateway.get(points.path(0, "d0") + "?compress=zstd", "--head")
    assert answer.headers["content-type"] == "application/zstd"
    assert f"{points.vm.disks[0].id}.sparse.zst" in answer.headers["content-disposition"]


def test_damage_breaks_the_answer_off_or_is_an_error(pitr: Pitr, points: Points, tmp_path: Path) -> None:
    """Damaged data is never sent. The data before it was already sent, and the end is missing."""
    copy = tmp_path / "repository"
    shutil.copytree(pitr.repository, copy)
    with Repository.open(copy) as repository:
        backup = repository.record_of(points.id(0))
        stream = backup.streams[0]
        blob = copy / names.blob(stream.disk_id, stream.stream_id)
        # The last data is in the fifth window of 8 MiB.
        flip_bit(blob, blob.stat().st_size - 4000)
    expected = points.oracle(0, stream.name).read_bytes()
    environment = {**pitr.environment, "PITR_REPO": str(copy)}
    with running(environment, tmp_path / "run") as gateway:
        path = points.path(0, stream.name)
        broken = gateway.curl(path + "?format=raw")
        assert broken.code == CUT_OFF and broken.status == 200
        assert len(broken.body) < len(expected) and expected.startswith(broken.body)
        sparse = gateway.curl(path)
        assert sparse.code == CUT_OFF and b"stop 0" not in sparse.body
        part = tmp_path / "part"
        part.write_bytes(sparse.body)
        run(pitr, "restore", "--from", part, "--to-file", tmp_path / "out", code=1)
        error = gateway.curl(path + "?format=raw", "-r", f"{33 * MiB - 512}-{33 * MiB - 1}")
        assert error.status == 500 and error.error["type"] == "StoredDamage"
        # Undamaged data stays readable.
        good = gateway.get(path + "?format=raw", "-r", f"0-{MiB - 1}", status=206)
        assert good.body == expected[:MiB]
        assert "digest" in gateway.log or "checksum" in gateway.log


def test_points_that_are_being_removed_are_busy(gateway: Gateway, pitr: Pitr, points: Points) -> None:
    with Repository.open(pitr.repository) as repository:
        vm = repository.record_of(points.id(0)).vm
        with repository.removing_from_vm(vm):
            answer = gateway.get(points.path(0, "d0"), status=503)
            assert answer.error["type"] == "BusyError" and answer.headers["retry-after"]
    assert gateway.get(points.path(0, "d1"))


def test_while_a_point_is_read_it_is_not_removed(gateway: Gateway, pitr: Pitr, points: Points) -> None:
    with subprocess.Popen(
        gateway.command(points.path(0, "d0") + "?format=raw", "--limit-rate", "4M"), stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None and client.stdout.read(65536)
        busy = pitr("prune", "--vm", points.vm.name, "--keep-last", "1", code=5)
        assert "another pitr works on" in busy.complaint
        client.kill()
