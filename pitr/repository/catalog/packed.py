# SPDX-License-Identifier: GPL-2.0-or-later
"""The compact form of ids, digests, times and kinds in the catalog.

A UUID takes 16 bytes instead of 36, a digest 32 instead of 64, a time 8 instead of 27. Ids that are no UUIDs stay text.
The views of schema/catalog.sql show the same values as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from pitr.errors import RepositoryError
from pitr.model import Kind

P = ParamSpec("P")
T = TypeVar("T")

Packed = bytes | str

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000
#: Kinds are stored as their positions here.
_KINDS = (Kind.FULL, Kind.INCREMENTAL, Kind.SYNTHETIC)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}


def refusing_damage(read: Callable[P, T]) -> Callable[P, T]:
    """Let a function that reads stored values raise RepositoryError where a changed byte made one impossible."""

    @wraps(read)
    def checked(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return read(*arguments, **options)
        except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
            raise RepositoryError(
                f"the catalog cannot be used: {error}",
                "Run 'pitr catalog rebuild' to rebuild it from the records.",
            ) from error

    return checked


def packed_id(text: str) -> Packed:
    """Return the stored form of an id."""
    return bytes.fromhex(text.replace("-", "")) if _UUID.fullmatch(text) else text


def packed_or_none(text: str | None) -> Packed | None:
    """Return the stored form of an id, or None for None."""
    return None if text is None else packed_id(text)


@refusing_damage
def id_text(stored: Packed) -> str:
    """Return a stored id as text. Raises RepositoryError for a damaged value."""
    if isinstance(stored, str):
        return stored
    if len(stored) != 16:
        raise ValueError("an id of another length than a UUID")
    text = stored.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def text_or_none(stored: Packed | None) -> str | None:
    """Return a stored id as text, or None for None."""
    return None if stored is None else id_text(stored)


def packed_digest(text: str) -> Packed:
    """Return the stored form of a digest in hex."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else text


@refusing_damage
def digest_text(stored: Packed) -> str:
    """Return a stored digest in hex."""
    return stored if isinstance(stored, str) else stored.hex()


def packed_time(time: datetime) -> int:
    """Return the microseconds from 0001-01-01 UTC to a time."""
    since = time - _FIRST
    return since.days * _DAY + since.seconds * 1_000_000 + since.microseconds


@refusing_damage
def time_of(stored: int) -> datetime:
    """Return a stored time. Raises RepositoryError for a damaged value."""
    return _FIRST + timedelta(microseconds=stored)


@refusing_damage
def sortable_time(stored: int) -> str:
    """Return a stored time as `times.to_sortable` does."""
    days, rest = divmod(stored, _DAY)
    seconds, fraction = divmod(rest, 1_000_000)
    minutes, second = divmod(seconds, 60)
    return f"{_day(days)}T{minutes // 60:02}:{minutes % 60:02}:{second:02}.{fraction:06}Z"


@cache
def _day(days: int) -> str:
    return (_FIRST + timedelta(days)).date().isoformat()


def packed_kind(kind: Kind) -> int:
    """Return the stored form of a kind."""
    return _CODES[kind]


@refusing_damage
def kind_of(stored: int) -> Kind:
    """Return a stored kind. Raises RepositoryError for a damaged value."""
    if not isinstance(stored, int) or not 0 <= stored < len(_KINDS):
        raise ValueError(f"no kind: {stored!r}")
    return _KINDS[stored]
