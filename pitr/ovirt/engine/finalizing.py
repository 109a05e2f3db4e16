# SPDX-License-Identifier: GPL-2.0-or-later
"""Finalize a backup or a transfer on the engine, or end it early after an error."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from pitr.errors import EngineError

_log = logging.getLogger(__name__)


class Finalizing(ABC):
    """A context manager for a backup or transfer: entering starts it, leaving finalizes it.

    After an error, also in starting, it ends it early instead. If that fails, the error gets a note.
    """

    def __enter__(self) -> Self:
        self._prepare()
        try:
            self._start()
        except BaseException as error:
            self._abandon(error)
            raise
        _log.info("started %s", self._name)
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
        _log.info("ended %s", self._name)

    @abstractmethod
    def end_early(self) -> bool:
        """End it in any state and return whether it was open. Raises EngineError."""

    @property
    @abstractmethod
    def _name(self) -> str:
        """The name for messages."""

    @abstractmethod
    def _prepare(self) -> None:
        """Read the state of the engine before it starts."""

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
            error.add_note(f"cannot end {self._name}: {problem}")
        else:
            _log.info("ended %s early", self._name)
