# SPDX-License-Identifier: GPL-2.0-or-later
"""What has a `close()` is a context manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closes(ABC):
    """Leaving the `with` block closes."""

    @abstractmethod
    def close(self) -> None:
        """Release what is held; harmless when done twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
