# SPDX-License-Identifier: GPL-2.0-or-later
"""Parse ovirt-imageio's lists of extents."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import orjson

from pitr.errors import FormatError
from pitr.extents import ExtentMap

Context = Literal["zero", "dirty"]


def parse_extents(body: bytes, context: Context) -> tuple[int, ExtentMap]:
    """Return the disk's size in bytes, and the extents to copy.

    Both contexts list the whole disk. In the zero context, copy all extents. In the dirty context, copy the dirty
    extents: a dirty zero extent was zeroed since the checkpoint; other extents are unchanged, whatever their zero
    flag is. Raises FormatError for an invalid body, which comes from the server.
    """
    try:
        rows = orjson.loads(body)
        start = np.fromiter((_integer(row["start"]) for row in rows), np.int64)
        length = np.fromiter((_integer(row["length"]) for row in rows), np.int64)
        zero = np.fromiter((_boolean(row["zero"]) for row in rows), np.bool_)
        if context == "dirty":
            dirty = np.fromiter((_boolean(row["dirty"]) for row in rows), np.bool_)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise FormatError(f"invalid list of {context} extents: {error!r}") from None
    if len(start) == 0:
        raise FormatError("the list of extents is empty")
    size = int(start[-1]) + int(length[-1])
    extents = ExtentMap(start, length, zero).checked(size, whole=True)
    if context == "dirty":
        extents = ExtentMap(start[dirty], length[dirty], zero[dirty])
    return size, extents.merged()


def _integer(value: Any) -> int:
    # Refuse floats, which numpy would truncate, and booleans, which are ints in Python.
    if type(value) is not int:
        raise TypeError("a start or length must be an integer")
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("a flag must be true or false")
    return value
