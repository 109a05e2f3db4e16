# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as virtnbdbackup streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pitr.copier.streamed import Passing
from pitr.endpoints.streams.one_way import pass_records
from pitr.formats.virtnbdbackup import Meta, VirtnbdbackupReader


class VirtnbdbackupSource:
    """A virtnbdbackup stream, read once from a binary file object. The caller closes the file object.

    A full stream leaves out ranges that were never written: they pass as zero. Raises FormatError.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._reader = VirtnbdbackupReader(stream)

    @property
    def meta(self) -> Meta:
        return self._reader.meta

    @property
    def size(self) -> int:
        return self.meta.size

    @property
    def whole(self) -> bool:
        return not self.meta.incremental

    def passing(self) -> Iterator[Passing]:
        yield from pass_records(self._reader, self.size if self.whole else None)
