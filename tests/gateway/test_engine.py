# SPDX-License-Identifier: GPL-2.0-or-later
"""A gateway whose engine is unreachable at its start, appears later, and disappears again."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from pitr.lab import Lab
from tests.support.gateway import Gateway, running
from tests.support.pitr import Pitr, wait_until
from tests.support.points_over_http import Points
from tests.support.proxies import ByteProxy

MIB = 1 << 20


def test_it_starts_without_the_engine_and_asks_it_when_it_is_there(
    lab: Lab, pitr: Pitr, points: Points, tmp_path: Path
) -> None:
    engine = urlsplit(lab.engine_url)
    assert engine.port is not None
    disk = lab.add_disk("after a power cut", MIB)
    image = f"/images/{disk.id}"
    with socket.socket() as nobody:
        # The port is reserved, and no program listens on it.
        nobody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        environment = {**pitr.environment, "PITR_ENGINE_URL": f"https://{engine.hostname}:{port}"}
        with running(environment, tmp_path / "run") as gateway:
            assert "warning: no answer from the engine at" in gateway.log
            assert gateway.ask(gateway.bare("/health")).status == 200
            raw = gateway.get(f"{points.path(0, 'd1')}?format=raw").body
            assert raw == points.oracle(0, "d1").read_bytes()
            stream = tmp_path / "stream"
            stream.write_bytes(gateway.get(points.path(0, "d1")).body)
            _check_unreachable(gateway, image, stream)
            nobody.close()
            with ByteProxy(engine.port, port) as proxy:
                assert b"virtual-size" in gateway.get(image).body
                wait_until(lambda: lab.open_transfers() == [], "the transfer ended")
                # The engine has been reached once. When it disappears now, requests wait for it.
                proxy.refusing = True
                assert len(gateway.get("/points").json["points"]) == 3
                proxy.refusing = False
                assert gateway.get(image).status == 200


def _check_unreachable(gateway: Gateway, path: str, stream: Path) -> None:
    for answer in (gateway.get(path, status=502), gateway.put(f"{path}?new=true", stream, status=502)):
        assert answer.error["message"].startswith("no answer from the engine at")
        assert answer.error["advice"].startswith("Check the engine's URL, that the engine runs")


def test_an_engine_that_refuses_is_told_at_once(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    refused = pitr("gateway", "--port", "0", "--password-file", wrong, code=6)
    assert "refuses the login" in refused.complaint
