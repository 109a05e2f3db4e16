# SPDX-License-Identifier: GPL-2.0-or-later
"""A batch of objects of which each is durable at once."""

from __future__ import annotations

from pitr.repository.store.base import NewObject, Store
from pitr.system.closing import Closes


class EachAtOnce(Closes):
    """A batch on a store where several objects together take no less time than one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def new(self, name: str) -> NewObject:
        return self._store.new(name)

    def create(self, name: str, data: bytes) -> None:
        self._store.create(name, data)

    def settle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: what was stored stays."""
