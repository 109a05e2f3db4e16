# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON objects that carry a digest of themselves, in one canonical form: no byte can change unnoticed.

Canonical: UTF-8, keys sorted, no white space, no fractions. `digest` is the BLAKE3 of the canonical form without
it. A stored object must be its own canonical form, byte for byte.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from blake3 import blake3

from pitr.errors import FormatError
from pitr.repository import schema

#: Records hold the VM's configuration, which has no fixed bound; nothing sensible is larger.
MAX_SIZE = 64 << 20


def encode(document: dict[str, Any]) -> bytes:
    """The stored form of a document without its digest."""
    digest = blake3(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**document, "digest": digest}, option=orjson.OPT_SORT_KEYS)


def decode(stored: bytes, schema_name: str) -> dict[str, Any]:
    """Read a stored document, checked against its digest and its schema. Raises FormatError."""
    try:
        document = orjson.loads(stored)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise FormatError("not a JSON object")
    try:
        canonical = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        # What is nested deeper than this can be read, but not written.
        raise FormatError(f"not a document that could have been written: {error}") from None
    if canonical != stored or _has_fraction(document):
        raise FormatError("not in the form in which it was written")
    digest = document.pop("digest", None)
    if blake3(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest() != digest:
        raise FormatError("its digest does not match")
    document["digest"] = digest
    _validate(document, schema_name)
    return document


def _has_fraction(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_fraction, value.values()))
    if isinstance(value, list):
        return any(map(_has_fraction, value))
    return isinstance(value, float)


def _validate(document: dict[str, Any], schema_name: str) -> None:
    import fastjsonschema  # noqa: PLC0415 - listing points must not wait for it

    try:
        _validator(schema_name)(document)
    except fastjsonschema.JsonSchemaValueException as refused:
        reason = refused.message
        # To compile a check that says what is wrong takes three times as long: that is done for what is wrong only.
        try:
            _validator(schema_name, detailed=True)(document)
        except fastjsonschema.JsonSchemaValueException as error:
            reason = error.message
        raise FormatError(f"not as {schema_name} describes: {reason[:500]}") from None


@cache
def _validator(schema_name: str, *, detailed: bool = False) -> Any:
    import fastjsonschema  # noqa: PLC0415

    return fastjsonschema.compile(orjson.loads(schema.read(schema_name)), detailed_exceptions=detailed)
