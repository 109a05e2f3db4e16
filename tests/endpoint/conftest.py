# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.lab.host.host import Host


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a path short enough for unix sockets, which pytest's may not be."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A real ovirt-imageio daemon with TLS, and a unix socket for clients on this machine."""
    with short_folder() as folder, Host(folder) as running:
        yield running


@pytest.fixture(scope="session")
def remote_host() -> Iterator[Host]:
    """A real ovirt-imageio daemon with TLS and without a unix socket: every client is a remote one."""
    with short_folder() as folder, Host(folder, unix_socket=False) as running:
        yield running


@pytest.fixture(scope="session")
def plain_host() -> Iterator[Host]:
    """A real ovirt-imageio daemon without TLS, for a proxy that reads along."""
    with short_folder() as folder, Host(folder, tls=False, unix_socket=False) as running:
        yield running
