# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the rows of a VM, a backup and a stream are in the catalog's tables."""

from __future__ import annotations

#: The numbers of the points of a VM begin with the VM's number.
_BITS = 32


def points_of(vm: int) -> tuple[int, int]:
    """Return the first and the last number that points of a VM can have."""
    return vm << _BITS, ((vm + 1) << _BITS) - 1


def text_of(column: str) -> str:
    """Return the expression for an id as text, exactly as in schema/catalog.sql, so that SQLite uses its index."""
    stored = f"hex({column})"
    return (
        f"iif(typeof({column}) = 'blob', lower(substr({stored}, 1, 8) || '-' || substr({stored}, 9, 4) || '-' || "
        f"substr({stored}, 13, 4) || '-' || substr({stored}, 17, 4) || '-' || substr({stored}, 21)), {column})"
    )
