# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema files: `schema/` of the source tree, shipped inside of the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path


@cache
def read(name: str) -> str:
    """The text of one schema file: catalog.sql, index.sql, record.schema.json or repository.schema.json."""
    shipped = files("pitr") / "schema" / name
    if shipped.is_file():
        return shipped.read_text("utf-8")
    # A source tree that runs in place (an editable install) has them beside the package.
    return (Path(__file__).parents[2] / "schema" / name).read_text("utf-8")
