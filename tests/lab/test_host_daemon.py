# SPDX-License-Identifier: GPL-2.0-or-later
"""The real ovirt-imageio daemon: certificates, sockets, tickets."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ovirt_imageio.client import ImageioClient

from pitr.errors import LabError
from pitr.lab.host import Host
from tests.support.lab_host import MIB, open_client


@pytest.fixture
def ticket(new_host: Host) -> str:
    new_host.create_volume("disk", 256 * MIB, "raw")
    url = new_host.serve_volume("disk", read_only=False)
    new_host.add_ticket("one", nbd_url=url, size=256 * MIB, ops=["read"], transfer_id="transfer")
    return "one"


def test_only_clients_that_trust_the_authority_connect(new_host: Host, ticket: str) -> None:
    url = f"{new_host.images_url}/{ticket}"
    with ImageioClient(url, cafile=str(new_host.cafile)) as client:
        assert client.size() == 256 * MIB
    with pytest.raises(ssl.SSLCertVerificationError):
        ImageioClient(url)
    by_address = url.replace("localhost", "127.0.0.1")
    with ImageioClient(by_address, cafile=str(new_host.cafile)) as client:
        assert client.size() == 256 * MIB


def test_the_certificate_passes_strict_checks(new_host: Host, ticket: str) -> None:
    context = ssl.create_default_context(cafile=str(new_host.cafile))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = urlsplit(new_host.images_url)
    connection = http.client.HTTPSConnection(server.hostname or "", server.port, context=context)
    connection.request("OPTIONS", f"{server.path}/{ticket}")
    assert connection.getresponse().status == 200
    connection.close()
    assert new_host.private_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("unix_socket", [True, False])
def test_the_unix_socket_is_offered_only_when_wanted(folder: Path, unix_socket: bool) -> None:
    with Host(folder, unix_socket=unix_socket) as new_host:
        new_host.create_volume("disk", MIB, "raw")
        new_host.add_ticket(
            "one", nbd_url=new_host.serve_volume("disk", read_only=True), size=MIB, ops=["read"]
        )
        context = ssl.create_default_context(cafile=str(new_host.cafile))
        server = urlsplit(new_host.images_url)
        connection = http.client.HTTPSConnection(server.hostname or "", server.port, context=context)
        connection.request("OPTIONS", f"{server.path}/one")
        assert (b"unix_socket" in connection.getresponse().read()) == unix_socket
        connection.close()


def test_without_tls_the_url_says_so(folder: Path) -> None:
    with Host(folder, tls=False, unix_socket=False) as new_host:
        new_host.create_volume("disk", MIB, "raw")
        assert new_host.images_url.startswith("http://localhost:")
        with open_client(new_host, new_host.serve_volume("disk", read_only=True), MIB) as client:
            assert client.size() == MIB


def test_a_ticket_shows_the_transferred_bytes(new_host: Host, ticket: str) -> None:
    with ImageioClient(f"{new_host.images_url}/{ticket}", cafile=str(new_host.cafile)) as client:
        client.read(0, bytearray(1000))
    found = new_host.ticket(ticket)
    assert found is not None
    assert (found["transferred"], found["active"], found["transfer_id"]) == (1000, False, "transfer")
    assert new_host.remove_ticket(ticket)
    assert new_host.ticket(ticket) is None
    assert new_host.remove_ticket(ticket)


def test_a_ticket_in_use_is_removed_once_its_operations_end(new_host: Host, ticket: str) -> None:
    context = ssl.create_default_context(cafile=str(new_host.cafile))
    server = urlsplit(new_host.images_url)
    connection = http.client.HTTPSConnection(server.hostname or "", server.port, context=context)
    # The client does not read the download, so the operation cannot end.
    connection.request("GET", f"{server.path}/{ticket}")
    response = connection.getresponse()
    found = new_host.ticket(ticket)
    assert found is not None
    assert found["active"]
    assert not new_host.remove_ticket(ticket)
    response.close()
    connection.close()
    for _ in range(20):
        if new_host.remove_ticket(ticket):
            break
    assert new_host.ticket(ticket) is None


def test_a_restarted_daemon_has_the_same_port_and_no_tickets(new_host: Host, ticket: str) -> None:
    url = new_host.images_url
    new_host.restart_daemon()
    assert new_host.images_url == url
    assert new_host.ticket(ticket) is None
    with open_client(new_host, new_host._served["disk"].url, 256 * MIB) as client:
        assert client.size() == 256 * MIB


def test_a_wrong_ticket_is_an_error(new_host: Host) -> None:
    with pytest.raises(LabError, match="refused"):
        new_host.add_ticket("one", nbd_url="unknown:nothing", size=MIB, ops=["read"])
