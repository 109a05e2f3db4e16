# SPDX-License-Identifier: GPL-2.0-or-later
"""Format the cells of Datasette's tables: sizes with units, times as in `pitr list`. JSON and CSV stay exact."""

from __future__ import annotations

import sys
from base64 import b64encode
from typing import Any

from datasette import handle_exception, hookimpl
from datasette.plugins import pm
from markupsafe import Markup, escape

from pitr import times
from pitr.errors import FormatError
from pitr.text import printable
from pitr.units import human_size

_SIZES = frozenset({"size", "blob_size", "index_size", "frame_size", "record_size"})
_TIMES = frozenset({"point", "lo", "first_point", "newest_point", "time"})
_PNG = b"\x89PNG\r\n\x1a\n"
_NAME = "pitr"


def register() -> None:
    """Register this module as a plugin of Datasette, once per process."""
    # With rich installed, Datasette prints all local variables for every invalid query.
    handle_exception.rich = None
    if not pm.has_plugin(_NAME):
        hookimpl(render_cell)
        pm.register(sys.modules[__name__], _NAME)


def render_cell(value: Any, column: str) -> Markup | None:
    """Return the HTML of a cell; None for Datasette's own format."""
    if isinstance(value, int | float) and (column in _SIZES or column.endswith("_bytes")):
        exact = f"{value:,.0f} bytes"
        return Markup('<span title="{}">{}</span>').format(exact, human_size(round(value)))
    if isinstance(value, bytes) and column == "picture" and value.startswith(_PNG):
        picture = Markup('<img src="data:image/png;base64,{}" alt="the screen" style="max-width: 480px">')
        return picture.format(b64encode(value).decode())
    if isinstance(value, str) and column in _TIMES:
        return _time(value)
    if isinstance(value, str) and not value.isprintable():
        return escape(printable(value))
    return None


def _time(value: str) -> Markup | None:
    try:
        time = times.from_text(value)
    except FormatError:
        return None
    return Markup('<span title="{}">{}</span>').format(value, times.for_people(time))
