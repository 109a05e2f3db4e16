# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor finds what is broken, says what to do, and leaves nothing on the engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab
from tests.support.pitr import Pitr


def _statuses(document: Any) -> dict[str, str]:
    return {check["name"]: check["status"] for check in document["checks"]}


def test_a_sound_installation(lab: Lab, pitr: Pitr) -> None:
    lab.add_vm("web")
    document = pitr.json("doctor")
    assert document["ok"]
    assert set(_statuses(document).values()) <= {"ok", "warning"}
    assert _statuses(document)["data path"] == _statuses(document)["imageio"] == "ok"
    assert lab.disks == []
    lab.engine.forget_requests()
    text = pitr("doctor", "--no-probe")
    assert "All checks passed" in text.stdout and "web" not in text.stderr
    assert not [
        request for request in lab.engine.requests if request.method == "POST" and "/api/" in request.path
    ]


@pytest.mark.parametrize(
    ("changes", "name", "advice"),
    [
        ({"PITR_REPO": "/nonexistent"}, "repository", "pitr init"),
        ({"PITR_CAFILE": "/etc/ssl/certs/ca-certificates.crt"}, "certificate", "--cafile"),
        ({"PITR_ENGINE_URL": "https://localhost:1"}, "login", "Check the engine's URL"),
        ({"PITR_PASSWORD_FILE": "/dev/null"}, "engine", "--password-file"),
        ({"PITR_USERNAME": "nobody@internal"}, "login", "password"),
    ],
)
def test_what_is_broken_is_named_with_what_to_do(
    lab: Lab, pitr: Pitr, changes: dict[str, str], name: str, advice: str
) -> None:
    if not Path(changes.get("PITR_CAFILE", "/")).exists():
        pytest.skip("this machine has no CA certificates")
    document = pitr.with_environment(**changes).json("doctor", code=1)
    (broken,) = [check for check in document["checks"] if check["name"] == name]
    assert not document["ok"] and broken["status"] == "failed" and advice in broken["advice"]


def test_a_storage_domain_that_is_not_there_is_not_passed_over(pitr: Pitr) -> None:
    document = pitr.json("doctor", "--storage-domain", "nosuch", code=1)
    (broken,) = [check for check in document["checks"] if check["status"] == "failed"]
    assert "'nosuch'" in broken["message"]
    # Other tests of this lab have added domains.
    assert broken["advice"].startswith("There are: data")


def test_another_clock_and_a_user_who_sees_nothing_are_warnings(lab: Lab, pitr: Pitr) -> None:
    lab.clock.set("2020-06-29T22:00:00+02:00")
    document = pitr.json("doctor", "--no-probe")
    assert document["ok"]
    assert _statuses(document) | {"clock": "warning", "VMs": "warning"} == _statuses(document)


def test_a_probe_that_fails_leaves_nothing(lab: Lab, pitr: Pitr) -> None:
    lab.engine.faults.fail("upload verification")
    document = pitr.json("doctor", code=1)
    assert _statuses(document)["data path"] == "failed"
    assert lab.disks == []


def test_a_host_that_only_the_proxy_reaches(lab: Lab, pitr: Pitr, monkeypatch: pytest.MonkeyPatch) -> None:
    from pitr.ovirt.engine import Transfer

    given = vars(Transfer)["transfer_url"]
    assert isinstance(given, property)
    url = given.fget
    assert url is not None
    nowhere = property(lambda self: re.sub(r":\d+/", ":1/", url(self)))
    monkeypatch.setattr(Transfer, "transfer_url", nowhere)
    document = pitr.json("doctor")
    assert _statuses(document)["imageio"] == "warning"
    assert _statuses(document)["data path"] == "ok"
