# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON objects with their own digest, in one canonical form, so that a change of any byte is detected.

Canonical form: UTF-8, sorted keys, no white space, no fractions. `digest` is the BLAKE3 of the canonical form without
this key. A stored object must equal its canonical form, byte for byte.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import orjson
from blake3 import blake3

from pitr.errors import FormatError
from pitr.repository import schema

#: The largest document in bytes.
MAX_SIZE = 64 << 20
#: A fraction, or a piece of a string that looks like one. In canonical form nothing else is between these characters.
_FRACTION = re.compile(rb"[:,[]-?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)[]},]")


def encode(document: dict[str, Any]) -> bytes:
    """Return the stored form of a document, with its digest added."""
    digest = blake3(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**document, "digest": digest}, option=orjson.OPT_SORT_KEYS)


def decode(stored: bytes, schema_name: str) -> dict[str, Any]:
    """Return a stored document after checking its form, digest and schema. Raises FormatError."""
    document = parse(stored)
    validate(document, schema_name)
    return document


def parse(stored: bytes) -> dict[str, Any]:
    """Return a stored document after checking its form and digest. Raises FormatError."""
    try:
        document = orjson.loads(stored)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError("not a JSON object")
    try:
        canonical = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        # The library reads deeper nested documents than it writes.
        raise FormatError(f"not a document that pitr writes: {error}") from None
    if canonical != stored or (_FRACTION.search(stored) and _has_fraction(document)):
        raise FormatError("not in canonical form")
    digest = document.pop("digest", None)
    if blake3(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest() != digest:
        raise FormatError("its digest does not match")
    document["digest"] = digest
    return document


def _has_fraction(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_fraction, value.values()))
    if isinstance(value, list):
        return any(map(_has_fraction, value))
    return isinstance(value, float)


def validate(document: dict[str, Any], schema_name: str) -> None:
    """Check a document against its schema. Raises FormatError."""
    import fastjsonschema  # noqa: PLC0415 - a list of points must not wait for it

    try:
        _validator(schema_name)(document)
    except fastjsonschema.JsonSchemaValueException as refused:
        reason = refused.message
        # A validator with detailed messages takes three times as long to compile, so only invalid documents use it.
        try:
            _validator(schema_name, detailed=True)(document)
        except fastjsonschema.JsonSchemaValueException as error:
            reason = error.message
        raise FormatError(f"not valid against {schema_name}: {reason[:500]}") from None


def warm_up() -> None:
    """Compile what checks the documents of each backup: for a process that others are copied from."""
    for name in ("repository.schema.json", "record.schema.json"):
        _validator(name)


@cache
def _validator(schema_name: str, *, detailed: bool = False) -> Any:
    import fastjsonschema  # noqa: PLC0415

    return fastjsonschema.compile(orjson.loads(schema.read(schema_name)), detailed_exceptions=detailed)
