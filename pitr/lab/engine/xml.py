# SPDX-License-Identifier: GPL-2.0-or-later
"""Build and read XML elements."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from datetime import datetime

from pitr.lab.engine.clock import in_engine_format
from pitr.lab.engine.refusals import Refusal

Value = str | int | bool | datetime | None


def element(tag: str, children: Iterable[ET.Element | None] = (), **attributes: str | None) -> ET.Element:
    """Return an element with its children; omit children and attributes that are None."""
    made = ET.Element(tag, {name: value for name, value in attributes.items() if value is not None})
    made.extend([child for child in children if child is not None])
    return made


def leaf(tag: str, value: Value) -> ET.Element | None:
    """Return an element with a text, None without a value: for the SDK, an empty number or date is an error."""
    if value is None:
        return None
    made = ET.Element(tag)
    if isinstance(value, bool):
        made.text = str(value).lower()
    elif isinstance(value, datetime):
        made.text = in_engine_format(value)
    else:
        made.text = str(value)
    return made


def leaves(**values: Value) -> list[ET.Element | None]:
    """Return one element for each value, in order."""
    return [leaf(tag, value) for tag, value in values.items()]


def document(root: ET.Element) -> bytes:
    declaration = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
    body: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=False)
    return declaration + body


def parse(body: bytes) -> ET.Element:
    """Parse a request's body and return its root. Raises Refusal (400)."""
    try:
        return ET.fromstring(body)  # noqa: S314 - the lab's own clients sent it
    except ET.ParseError as error:
        raise Refusal(400, f"Request syntactically incorrect: {error}", "Invalid request") from None


def text(parent: ET.Element, path: str) -> str | None:
    """Return the text at `path`, None if the element is missing or empty."""
    return parent.findtext(path) or None


def number(parent: ET.Element, path: str) -> int | None:
    """Return the whole number at `path`. Raises Refusal (400)."""
    found = text(parent, path)
    try:
        return None if found is None else int(found)
    except ValueError:
        raise Refusal(400, f"{path}: {found!r} is not a number", "Invalid value") from None


def truth(value: str | None) -> bool | None:
    return None if value is None else value.lower() in {"true", "1"}


def reference(parent: ET.Element, path: str) -> str | None:
    """Return the id at `path`, or the name if it has no id."""
    found = parent.find(path)
    return None if found is None else found.get("id") or text(found, "name")
