# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine holds for a client until it is finalized: a backup, a transfer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from pitr.errors import EngineError


class Finalizing(ABC):
    """A context manager: entering it starts something on the engine, leaving it finalizes that.

    After an error, while it starts too, it is ended early instead. A failure to end becomes a note on the error.
    """

    def __enter__(self) -> Self:
        self._prepare()
        try:
            self._start()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon(error)
            return
        try:
            self._finish()
        except BaseException as failure:
            self._abandon(failure)
            raise

    @abstractmethod
    def end_early(self) -> bool:
        """End it in whatever state it is; return whether there was anything to end. Raises EngineError."""

    @property
    @abstractmethod
    def _name(self) -> str:
        """Its name in messages."""

    @abstractmethod
    def _prepare(self) -> None:
        """Read what must be known before anything is started."""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _end_after(self, error: BaseException) -> None:
        self.end_early()

    def _abandon(self, error: BaseException) -> None:
        try:
            self._end_after(error)
        except EngineError as problem:
            error.add_note(f"{self._name} could not be ended: {problem}")
