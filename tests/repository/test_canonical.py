# SPDX-License-Identifier: GPL-2.0-or-later
"""Stored documents and records: they round-trip, and a change of any byte is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.model import Kind, Record, VMName
from pitr.repository import canonical, record
from tests.support.points import FIRST_POINT, VM, backup_of, fake_stream

_SCHEMA = "record.schema.json"


def _record() -> Record:
    full = fake_stream(0)
    return Record(backup_of([full, fake_stream(1, name="dätä \x1b[2J\n/../\0")]), "<ovf>\r\n\tü</ovf>")


_STORED = record.encode(_record())


def _signed(document: dict[str, Any]) -> bytes:
    """Return any document in stored form with a valid digest, as an attacker could write it."""
    document.pop("digest", None)
    return canonical.encode(document)


def _changed(**changes: Any) -> bytes:
    return _signed({**orjson.loads(_STORED), **changes})


def test_a_record_round_trips() -> None:
    written = _record()
    assert record.decode(record.encode(written)) == written
    incremental = backup_of([fake_stream(0, parent="older-stream"), fake_stream(1)], parent_id="older-backup")
    assert record.decode(record.encode(Record(incremental, None))) == Record(incremental, None)


def test_any_program_can_read_a_record_as_json() -> None:
    document = json.loads(_STORED)
    assert document["point"] == "2020-06-29T22:00:00Z"
    assert document["configuration"] == {"type": "ovf", "data": "<ovf>\r\n\tü</ovf>"}
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
        {"format": 2},
        {"format": 1.0},
        {"backup_id": "../../etc"},
        {"backup_id": ""},
        {"backup_id": "a" * 129},
        {"backup_id": 5},
        {"vm": {"id": "a/b", "name": "x"}},
        {"vm": {"id": "a", "name": "x", "more": 1}},
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
        {"configuration": {"type": "libvirt", "data": ""}},
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
        {"settings": {}},
    ],
)
def test_an_impossible_stream_is_refused(changes: dict[str, Any]) -> None:
    disk = {**orjson.loads(_STORED)["disks"][0], **changes}
    with pytest.raises(FormatError):
        record.decode(_changed(disks=[disk]))


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
            record.decode(record.encode(Record(backup_of(streams), None)))


@pytest.mark.parametrize("vm_name", ["", "a" * 4096, "\0", "\x7f\u202e", "名前"])
def test_names_are_stored_unchanged(vm_name: str) -> None:
    written = Record(backup_of([fake_stream()], vm=VMName(VM.id, vm_name)), None)
    assert record.decode(record.encode(written)).backup.vm.name == vm_name


def test_a_synthetic_stream_has_no_parent() -> None:
    synthetic = replace(fake_stream(), kind=Kind.SYNTHETIC)
    written = Record(replace(backup_of([synthetic]), kind=Kind.SYNTHETIC), None)
    assert record.decode(record.encode(written)) == written


@given(
    st.integers(0, 999_999),
    st.integers(0, 10**9),
    st.text(max_size=50).filter(lambda text: text.isprintable()),
    st.text(st.characters(codec="utf-8"), max_size=200) | st.none(),
)
def test_any_record_round_trips(
    microseconds: int, seconds: int, name: str, configuration: str | None
) -> None:
    point = FIRST_POINT + timedelta(seconds=seconds, microseconds=microseconds)
    written = Record(backup_of([fake_stream(name=name)], point=point), configuration)
    assert record.decode(record.encode(written)) == written
