# SPDX-License-Identifier: GPL-2.0-or-later
"""Connect to one engine: the login, one SDK connection for each thread, and the function for every SDK call."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import ovirtsdk4
import pycurl

from pitr.ovirt.engine import faults, sso
from pitr.ovirt.engine.config import EngineConfig
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.proxy import proxy_for
from pitr.system.retry import FIRST_PAUSE_S, retrying

T = TypeVar("T")

#: Seconds that an interrupt waits for the answer to a request that changes the engine.
_LAST_ANSWER_S = 15.0


class Engine:
    """A connection to one engine; a context manager that any number of threads can use.

    Entering it logs in, so that a wrong password, URL or CA is reported before any work starts. `poll_interval_s`
    is the longest pause between two polls while pitr waits. `retry_pause_s` is the pause before the first retry.
    `request_timeout_s` limits one request. `token` is the login of another connection, which logs out itself.
    `close()` logs out and never raises.

    Raises LoginError, EngineError.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        log: logging.Logger | None = None,
        poll_interval_s: float = 2.0,
        request_timeout_s: float = 120.0,
        retry_pause_s: float = FIRST_PAUSE_S,
        token: str | None = None,
    ) -> None:
        self.config = config
        self.log = log or logging.getLogger("pitr.ovirt.engine")
        self.poll_interval_s = poll_interval_s
        self.where = urlsplit(config.url).netloc
        self._request_timeout_s = request_timeout_s
        self._retry_pause_s = retry_pause_s
        self._login = _Login(config, token)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._reached = False
        self._version: str | None = None

    def __enter__(self) -> Self:
        try:
            self.log.debug("the engine at %s has version %s", self.where, self.version)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def version(self) -> str:
        """The engine's version. The first access logs in."""
        if self._version is None:
            info = self.call("logging in", lambda system: system.get()).product_info
            version = None if info is None else info.version
            self._version = str((version and version.full_version) or (info and info.name) or "unknown")
        return self._version

    def token(self) -> str:
        """Return the token of the login, for a connection of another process. Raises LoginError, EngineError."""
        return self._login.token(refused=None)

    def call(self, what: str, operation: Callable[[Any], T], *, idempotent: bool = True) -> T:
        """Return `operation(system_service)`; `what` names it in error messages ("reading VM x").

        After a lost or late answer or a 5xx, pitr retries up to five times with growing pauses, if the operation is
        `idempotent` or if nothing reached the engine. The operation must only make SDK calls, because it may run
        several times. An expired login is renewed once for each call. If the operation is not `idempotent`, an
        interrupt waits a while for the engine's answer, so that the caller can find and undo the result.

        Raises EngineFault (an EngineError), LoginError.
        """

        def transient(error: Exception) -> bool:
            if not isinstance(error, EngineFault) or not error.transient:
                return False
            # A refused connection is final on the first call (a wrong URL); later it can be a restart of the engine.
            return self._reached if error.unsent else idempotent

        once = self._call_once if idempotent else self._call_to_its_end
        return retrying(
            lambda: once(what, operation),
            transient=transient,
            first_pause_s=self._retry_pause_s,
            on_retry=lambda error, pause: self.log.info("%s; retrying in %.1f s", error, pause),
        )

    def _call_once(self, what: str, operation: Callable[[Any], T]) -> T:
        connection = self._connection(what)
        connection.forget_status()
        started = time.monotonic()
        try:
            result = operation(connection.system_service())
        except Exception as error:
            if not _is_from_sdk(error):
                self._discard(connection)
                raise
            if connection.last_status is None:
                self._discard(connection)
            else:
                self._reached = True
            raise faults.from_sdk(
                error,
                what=what,
                where=self.where,
                status=connection.last_status,
                proxy=proxy_for(self.config.url),
            ) from error
        except BaseException:
            # The interrupted request still runs in the SDK's curl handle; its answer would go to another call.
            self._discard(connection)
            raise
        self._reached = True
        self.log.debug("%s: done in %.3f s", what, time.monotonic() - started)
        return result

    def _call_to_its_end(self, what: str, operation: Callable[[Any], T]) -> T:
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(self._call_once(what, operation))
            except BaseException as error:  # noqa: BLE001 - `outcome.result()` raises it again
                outcome.set_exception(error)
            finally:
                self._discard(getattr(self._local, "connection", None))

        try:
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(run,), name="pitr-engine-call", daemon=True).start()
            return outcome.result()
        except BaseException:
            # The engine would carry out an aborted request after the cleanup has searched for its result.
            wait([outcome], timeout=_LAST_ANSWER_S)
            raise

    def _connection(self, what: str) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            try:
                connection = _Connection(self.config, self._login, self._request_timeout_s)
            except ovirtsdk4.Error as error:
                raise faults.from_sdk(error, what=what, where=self.where, status=None) from error
            self._local.connection = connection
            with self._lock:
                self._connections.add(connection)
        return connection

    def _discard(self, connection: _Connection | None) -> None:
        self._local.connection = None
        if connection is None:
            return
        with self._lock:
            self._connections.discard(connection)
        connection.shut()

    def close(self) -> None:
        """Log out and close all connections, also those of other threads. Never raises; can be called again."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            connection.shut()
        problem = self._login.end()
        if problem:
            self.log.debug("logging out of %s: %s", self.where, problem)


class _Login:
    """The token that all threads share. The first thread that finds it expired renews it."""

    def __init__(self, config: EngineConfig, lent: str | None) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._token = lent
        self._lent = lent

    def token(self, refused: str | None) -> str:
        """Return a token other than `refused`; log in if necessary. Raises LoginError, EngineError."""
        with self._lock:
            if self._token is None or self._token == refused:
                self._token = None
                self._token = sso.login(self._config)
            return self._token

    def end(self) -> str | None:
        """Log out. Return None, or why that failed."""
        with self._lock:
            token, self._token = self._token, None
        return None if token is None or token == self._lent else sso.logout(self._config, token)


class _Connection(ovirtsdk4.Connection):  # type: ignore[misc]
    """The SDK's connection with a shared login. It keeps the last HTTP status and closes without errors."""

    def __init__(self, config: EngineConfig, login: _Login, timeout_s: float) -> None:
        super().__init__(
            url=config.url,
            username=config.username,
            password=config.password,
            ca_file=None if config.cafile is None else str(config.cafile),
            insecure=not config.secure,
            timeout=max(1, round(timeout_s)),
        )
        self._login = login
        self.last_status: int | None = None
        self.closed = False

    def forget_status(self) -> None:
        self.last_status = None

    def _get_access_token(self) -> str:
        return self._login.token(refused=self._sso_token)

    def wait(self, context: Any, failed_auth: bool = False) -> Any:
        response = super().wait(context, failed_auth)
        self.last_status = response.code
        return response

    def shut(self) -> None:
        """Close the connection without logging out, because other connections use the token."""
        self.closed = True
        # libcurl refuses while another thread sends a request.
        with suppress(pycurl.error, ovirtsdk4.Error):
            self.close(logout=False)


def _is_from_sdk(error: Exception) -> bool:
    # The SDK's XML reader raises plain Exception; invalid headers and numbers raise TypeError and ValueError.
    return (
        isinstance(error, (ovirtsdk4.Error, pycurl.error, TypeError, ValueError)) or type(error) is Exception
    )
