# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema files: `schema/` of the source tree, shipped inside the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path


@cache
def read(name: str) -> str:
    """Return the text of the schema file with this name, such as catalog.sql or record.schema.json."""
    shipped = files("pitr") / "schema" / name
    if shipped.is_file():
        return shipped.read_text("utf-8")
    # An editable install runs from the source tree, with the files beside the package.
    return (Path(__file__).parents[2] / "schema" / name).read_text("utf-8")
