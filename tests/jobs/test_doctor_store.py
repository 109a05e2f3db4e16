# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor tries out and measures the object store of a repository, and explains why it is slow."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs import doctor_store
from pitr.repository import marker
from pitr.repository.store import probe
from pitr.repository.store.probe import Speed
from tests.support import s3
from tests.support.hostile_s3 import OverwritingServer
from tests.support.s3 import host_at

GOOD = Speed(0.001, 0.002, 0.003, 0.004, 100 << 20, 200 << 20)


def _checks(document: Any) -> dict[str, Any]:
    return {check["name"]: check for check in document["checks"]}


def test_the_store_is_tried_and_measured_and_left_as_it_was(tmp_path: Path) -> None:
    location = s3.place()
    marker.create(location)
    before = s3.keys(location)
    # Without an engine, doctor fails, but it has checked the store before.
    host = host_at(location, tmp_path)
    checks = _checks(host.json("doctor", code=1))
    assert checks["object store"]["status"] == "ok"
    measured = checks["store speed"]["measured"]
    assert set(measured) == {
        *("head_s", "read_s", "write_s", "list_s"),
        *("upload_bytes_per_s", "download_bytes_per_s"),
    }
    assert min(measured.values()) > 0 and "measured" not in checks["object store"]
    assert s3.keys(location) == before
    text = host("doctor", code=1).stdout
    assert "object store: it does what a repository relies on" in text and "a request takes" in text
    skipped = _checks(host.json("doctor", "--no-probe", code=1))
    assert skipped["object store"]["status"] == "skipped" and "store speed" not in skipped


def test_a_store_that_begins_to_overwrite_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OverwritingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        location = replace(s3.place(), endpoint=f"http://127.0.0.1:{server.server_port}")
        with monkeypatch.context() as patched:
            patched.setattr(probe, "check", lambda store: None)
            marker.create(location)
        checks = _checks(host_at(location, tmp_path).json("doctor", code=1))
        assert (
            checks["object store"]["status"] == "failed" and "silently" in checks["object store"]["message"]
        )
        server.shutdown()


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", ""),
        # Measured on a radosgw 16 whose rgw_frontends lacks tcp_nodelay=1.
        ({"head_s": 0.0013, "read_s": 0.0441}, "warning", "tcp_nodelay=1"),
        ({"head_s": 0.044, "read_s": 0.045}, "ok", ""),
        ({"head_s": 0.3, "read_s": 0.32}, "warning", "closer"),
        ({"download": 5 << 20}, "warning", "network"),
    ],
)
def test_a_slow_store_is_explained(changes: dict[str, float], status: str, words: str) -> None:
    check = doctor_store.speed_check(replace(GOOD, **changes))
    assert check.status == status and words in check.advice and bool(check.advice) == (status != "ok")
