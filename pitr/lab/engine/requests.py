# SPDX-License-Identifier: GPL-2.0-or-later
"""A request to the engine's API and its answer, without HTTP."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from pitr.lab.engine import xml
from pitr.lab.engine.refusals import incomplete


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request; `path` is below the API's root, without the query."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    @property
    def search(self) -> str:
        return self.query.get("search", "")

    @property
    def case_sensitive(self) -> bool:
        return self.flag("case_sensitive", default=True)

    @property
    def correlation_id(self) -> str | None:
        return self.query.get("correlation_id")

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean matrix or query parameter."""
        value = xml.truth(self.query.get(name))
        return default if value is None else value

    def document(self, tag: str) -> ET.Element:
        """Parse the body, which must be an element `tag`. Raises Refusal (400)."""
        root = xml.parse(self.body)
        if root.tag != tag:
            raise incomplete("Request", tag)
        return root


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer. `root` None means an empty body."""

    status: int
    root: ET.Element | None
    location: str | None = None
