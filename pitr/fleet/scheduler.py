# SPDX-License-Identifier: GPL-2.0-or-later
"""A Dask scheduler with pitr's rules for connections, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from pitr.errors import BusyError, UsageError
from pitr.reporting import Notify

if TYPE_CHECKING:
    from distributed.security import Security


def serve(address: str, security: Security | None, dashboard: str | None, notify: Notify) -> None:
    """Schedule the tasks of callers at this address until a signal. Raises BusyError, UsageError."""
    asyncio.run(_until_signal(address, security, dashboard, notify))


async def _until_signal(
    address: str, security: Security | None, dashboard: str | None, notify: Notify
) -> None:
    from distributed import Scheduler  # noqa: PLC0415 - an extra

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, ended.set)
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    scheduler: Scheduler = Scheduler(
        host=host.strip("[]"),
        port=int(port),
        protocol=scheme,
        security=security,
        dashboard=dashboard is not None,
        # Dask always serves its state and its health over HTTP, without a password.
        dashboard_address=dashboard or "127.0.0.1:0",
    )
    try:
        await scheduler
    except (OSError, RuntimeError) as error:
        # Dask tells of its own port with a RuntimeError.
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        places = address if dashboard is None else f"{address} or {dashboard}"
        raise BusyError(f"cannot listen at {places}: {cause.strerror or cause}") from error
    except ValueError as error:
        raise UsageError(f"cannot listen at {address}: {error}") from error
    try:
        if dashboard is not None:
            # Dask takes another port if this one is in use.
            port = scheduler.services["dashboard"].port
            notify(f"dashboard: http://{dashboard.rpartition(':')[0]}:{port}/status")
        notify(f"scheduling at {scheduler.address}; workers: 'pitr worker {scheduler.address}'")
        await ended.wait()
    finally:
        await scheduler.close()
