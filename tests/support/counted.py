# SPDX-License-Identifier: GPL-2.0-or-later
"""Count the requests to object stores of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import obstore
import pytest

_KINDS = {
    "put_async": "PUT",
    "get_async": "GET",
    "get_range_async": "GET",
    "head_async": "HEAD",
    "list_with_delimiter_async": "LIST",
    "delete_async": "DELETE",
}


@contextmanager
def requests() -> Iterator[list[str]]:
    """Collect the requests of the block: "GET backups/…". An upload in parts is one, and so is a list."""
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in _KINDS.items():
            patch.setattr(obstore, name, _counting(getattr(obstore, name), kind, made))
        real = obstore.list

        def listing(store: Any, prefix: str | None = None, **options: Any) -> Any:
            made.append(f"LIST {prefix}")
            return real(store, prefix=prefix, **options)

        patch.setattr(obstore, "list", listing)
        yield made


def _counting(function: Any, kind: str, made: list[str]) -> Any:
    def counted(store: Any, name: Any = None, *arguments: Any, **options: Any) -> Any:
        made.append(f"{kind} {name if name is not None else options.get('prefix')}")
        return function(store, *([name] if name is not None else []), *arguments, **options)

    return counted
