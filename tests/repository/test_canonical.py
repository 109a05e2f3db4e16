# SPDX-License-Identifier: GPL-2.0-or-later
"""Stored documents and records: they round-trip, and a change of any byte is noticed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.model import Backup, Cause, DiskSettings, Kind, LeftOut, Part, StoredObject, VMName
from pitr.repository import canonical, record
from tests.support.points import FIRST_POINT, VM, backup_of, disk_id, fake_stream

_SCHEMA = "record.schema.json"


def _backup() -> Backup:
    full = fake_stream(0)
    return replace(
        backup_of([full, fake_stream(1, name="dätä \x1b[2J\n/../\0")]),
        configuration=StoredObject(12345, "ef" * 32),
    )


_STORED = record.encode(_backup())
_PRIVATE = orjson.loads(_STORED)["private"]


def _signed(document: dict[str, Any]) -> bytes:
    """Return any document in stored form with a valid digest, as an attacker could write it."""
    document.pop("digest", None)
    return canonical.encode(document)


def _changed(**changes: Any) -> bytes:
    return _signed({**orjson.loads(_STORED), **changes})


def test_a_record_round_trips() -> None:
    written = _backup()
    assert record.decode(record.encode(written)) == written
    incremental = backup_of([fake_stream(0, parent="older-stream"), fake_stream(1)], parent_id="older-backup")
    assert record.decode(record.encode(incremental)) == incremental


def test_a_record_of_parts_round_trips() -> None:
    own = StoredObject(500, "12" * 32)
    parts = (Part(disk_id(0), "own", 4096, own), Part(disk_id(7), "other", 8192, StoredObject(9, "34" * 32)))
    synthetic = replace(fake_stream(), kind=Kind.SYNTHETIC, index_copy=StoredObject(8192, "cd" * 32))
    with_blob = replace(synthetic, stream_id="own", blob=own, parts=parts)
    without = replace(
        fake_stream(1), kind=Kind.SYNTHETIC, blob=None, parts=parts[1:], index_copy=with_blob.index
    )
    written = replace(backup_of([with_blob, without]), kind=Kind.SYNTHETIC, stands_for="older")
    assert record.decode(record.encode(written)) == written
    document = json.loads(record.encode(written))
    assert "blob" in document["disks"][0] and "blob" not in document["disks"][1]


def test_all_that_describes_the_vm_is_in_one_object() -> None:
    """The rest stays readable in a sealed repository."""
    marked = replace(
        fake_stream(name="NAME"), reason="REASON", note="NOTE", settings=DiskSettings("SETTINGS")
    )
    left_out = (LeftOut("left", "NAME", "REASON", Cause.MISSING),)
    backup = replace(backup_of([marked], vm=VMName(VM.id, "NAME")), reason="REASON", left_out=left_out)
    document = json.loads(record.encode(backup))
    private = json.dumps(document.pop("private"))
    assert all(word in private for word in ("NAME", "REASON", "NOTE", "SETTINGS"))
    assert not re.search("NAME|REASON|NOTE|SETTINGS", json.dumps(document))


def test_any_program_can_read_a_record_as_json() -> None:
    document = json.loads(_STORED)
    assert document["point"] == "2020-06-29T22:00:00Z"
    assert document["configuration"] == {"type": "ovf", "size": 12345, "digest": "ef" * 32}
    digest = document.pop("digest")
    again = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert digest == blake3(again).hexdigest()


def test_a_flipped_bit_anywhere_in_a_record_is_found() -> None:
    for position in range(len(_STORED)):
        for bit in range(8):
            stored = bytearray(_STORED)
            stored[position] ^= 1 << bit
            with pytest.raises(FormatError):
                record.decode(bytes(stored))


@pytest.mark.parametrize(
    "stored",
    [
        _STORED + b"\n",
        b" " + _STORED,
        _STORED.replace(b",", b", ", 1),
        b"\xef\xbb\xbf" + _STORED,
        json.dumps(json.loads(_STORED), indent=1).encode(),
        _STORED[:-1],
        _STORED[:-1] + b',"digest":"x"}',
        _STORED.replace(b'"kind":"full"', b'"kind":"full","kind":"full"', 1),
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b'{"digest":null}',
        b"\xff",
        b'{"a":NaN}',
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":"\\ud800"}',
    ],
)
def test_a_document_that_is_not_canonical_is_refused(stored: bytes) -> None:
    with pytest.raises(FormatError):
        record.decode(stored)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"format": 3},
        {"format": 2.0},
        {"backup_id": "../../etc"},
        {"backup_id": ""},
        {"backup_id": "a" * 101},
        {"backup_id": 5},
        {"vm_id": "a/b"},
        {"private": None},
        {"private": {}},
        {"private": {**_PRIVATE, "vm_name": 1}},
        {"private": {**_PRIVATE, "more": 1}},
        {"private": {**_PRIVATE, "disks": _PRIVATE["disks"][1:]}},
        {"private": {**_PRIVATE, "left_out": []}},
        {"stands_for": "other"},
        {"kind": "partial"},
        {"kind": "incremental"},
        {"parent_id": "some-backup"},
        {"point": "yesterday"},
        {"point": "2020-06-29T22:00:00"},
        {"point": "0001-01-01T00:00:00+14:00"},
        {"point": 1},
        {"lo": "2020-06-29T22:00:01Z"},
        {"mode": "warm"},
        {"disks": None},
        {"disks": [1]},
        {"disks": [{}]},
        {"duration_ms": -1},
        {"duration_ms": 1.5},
        {"duration_ms": True},
        {"configuration": "ovf"},
        {"configuration": {"type": "libvirt", "size": 1, "digest": "ef" * 32}},
        {"configuration": {"type": "ovf", "size": 1}},
        {"something": "new"},
    ],
)
def test_an_impossible_record_with_a_valid_digest_is_refused(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(FormatError):
        record.decode(_changed(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 1048576.0},
        {"size": (1 << 60) + 1},
        {"size": (1 << 64) - 1},
        {"frame_size": 0},
        {"frame_size": 1 << 30},
        {"disk_id": "../x"},
        {"stream_id": ".hidden"},
        {"parent_stream_id": "some-stream"},
        {"kind": "incremental"},
        {"blob": {"size": 1, "digest": "short"}},
        {"blob": {"size": 1, "digest": "AB" * 32}},
        {"blob": None},
        {"changes": "tracked"},
        {"parts": []},
        {"parts": [{}]},
        {"settings": {}},
    ],
)
def test_an_impossible_stream_is_refused(changes: dict[str, Any]) -> None:
    first, *others = orjson.loads(_STORED)["disks"]
    with pytest.raises(FormatError):
        record.decode(_changed(disks=[{**first, **changes}, *others]))


def test_a_stream_without_a_blob_has_its_index_twice() -> None:
    document = orjson.loads(_STORED)
    del document["disks"][0]["blob"]
    with pytest.raises(FormatError, match="has no blob"):
        record.decode(_signed(document))
    document["disks"][0]["index_copy"] = document["disks"][0]["index"]
    assert record.decode(_signed(document)).streams[0].blob is None


def test_the_error_names_the_invalid_key_of_a_record() -> None:
    with pytest.raises(
        FormatError, match=r"data\.mode must be one of \['live', 'cold', 'hybrid', 'imported'\]"
    ):
        record.decode(_changed(mode="warm"))
    with pytest.raises(FormatError, match=r"data must contain \['mode'\]"):
        record.decode(_signed({key: value for key, value in orjson.loads(_STORED).items() if key != "mode"}))


def test_a_record_with_a_disk_or_stream_twice_is_refused() -> None:
    one, two = fake_stream(0), fake_stream(1)
    for streams in ([one, replace(two, disk_id=one.disk_id)], [one, replace(two, stream_id=one.stream_id)]):
        with pytest.raises(FormatError, match="twice"):
            record.decode(record.encode(backup_of(streams)))


@pytest.mark.parametrize("vm_name", ["", "a" * 4096, "\0", "\x7f\u202e", "名前"])
def test_names_are_stored_unchanged(vm_name: str) -> None:
    written = backup_of([fake_stream()], vm=VMName(VM.id, vm_name))
    assert record.decode(record.encode(written)).vm.name == vm_name


def test_a_synthetic_stream_has_no_parent() -> None:
    synthetic = replace(fake_stream(), kind=Kind.SYNTHETIC)
    written = replace(backup_of([synthetic]), kind=Kind.SYNTHETIC)
    assert record.decode(record.encode(written)) == written


@given(
    st.integers(0, 999_999),
    st.integers(0, 10**9),
    st.text(max_size=50).filter(lambda text: text.isprintable()),
    st.text(st.characters(codec="utf-8"), max_size=200) | st.none(),
    st.sampled_from([None, "tracked", "compared"]),
)
def test_any_record_round_trips(
    microseconds: int, seconds: int, name: str, note: str | None, changes: str | None
) -> None:
    point = FIRST_POINT + timedelta(seconds=seconds, microseconds=microseconds)
    stream = replace(fake_stream(name=name, parent="older"), note=note, changes=changes)
    written = backup_of([stream], point=point, parent_id="older")
    assert record.decode(record.encode(written)) == written
