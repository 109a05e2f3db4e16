# SPDX-License-Identifier: GPL-2.0-or-later
"""A sink that discards all data. Reading a point compares its digests already."""

from __future__ import annotations

from pitr.system.closing import Closes


class DiscardingSink(Closes):
    """Discards all data; it is its own writer."""

    max_writers = 64
    reads_zero = True

    def open_writer(self) -> DiscardingSink:
        return self

    def write(self, offset: int, data: memoryview) -> None:
        pass

    def zero(self, offset: int, length: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass
