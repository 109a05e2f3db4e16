# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy that names its VMs, on a host that holds no identity."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pitr.lab import Lab
from tests.support.pitr import Pitr
from tests.support.policies import add_vm, configure, steps_of
from tests.support.sealed import ALICE, BOB

_POLICY = """
[policy.nightly]
vms = ["paymaster-web", "ledger-db"]
keep_last = 1
max_age = "36h"
verify_every = "1d"
drills = 1
"""


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> Pitr:
    """Run pitr on a host with the engine's login and the recipients alone."""
    config, key = tmp_path / "config.toml", tmp_path / "alice.key"
    config.touch()
    key.write_text(f"{ALICE.secret()}\n")
    folders = {"PITR_REPO": "repository", "XDG_STATE_HOME": "state"}
    host = Pitr({**lab.environment(), **{key: str(tmp_path / folder) for key, folder in folders.items()}})
    host.environment |= {"PITR_CONFIG": str(config), "COLUMNS": "400", "TZ": "UTC", "KEY": str(key)}
    host("init", "--encrypt", str(ALICE.recipient), "--encrypt", str(BOB.recipient))
    return host


def test_a_policy_of_names_works_with_the_recipients_alone(host: Pitr, lab: Lab, tmp_path: Path) -> None:
    web = add_vm(lab, "paymaster-web", disks=("system-of-paymaster", "data-of-paymaster"))
    ledger = add_vm(lab, "ledger-db")
    configure(host, _POLICY)
    lab.clock.set(datetime.now().astimezone() - timedelta(hours=3))
    host("run", "nightly", "--log-file", tmp_path / "log")
    done = host("run", "nightly", "-o", "json").json
    assert done["ok"]
    for step in ("backup", "prune", "verify"):
        assert {"ledger-db", "paymaster-web"} <= set(steps_of(done, step))
    assert {each["kind"] for each in steps_of(done, "backup").values()} == {"incremental"}
    [drill] = [each for each in done["steps"] if each["step"] == "drill"]
    assert drill["ok"] is None or drill["ok"]
    assert "no identity is given" in drill["skipped"]
    verified = [each for each in done["steps"] if each["step"] == "verify" and each["vm"]]
    assert all(each["read_bytes"] > 0 for each in verified)

    # The policy's rules hold for its VMs, which this host knows by their ids.
    assert host("status", "-o", "json").json["ok"]
    configure(host, _POLICY.replace("36h", "1h"))
    late = host("status", "-o", "json", code=1).json
    assert {each["vm"]["id"]: each["state"] for each in late["vms"]} == {
        web.id: "critical",
        ledger.id: "critical",
    }

    runs = host("history", "-o", "json").json["runs"]
    names = {step["vm"]["name"] for run in runs for step in run["steps"] if step["vm"] is not None}
    assert names == {None}
    refused = host("history", "--vm", "paymaster-web", code=1)
    assert ALICE.recipient.fingerprint in refused.stderr
    assert host("history", "--vm", web.id, "-o", "json").json["runs"]
    key = ("--identity", host.environment["KEY"])
    assert host("history", "--vm", "paymaster-web", "-o", "json", *key).json["runs"]

    secret = (b"paymaster", b"ledger-db", b"Envelope")
    kept = [path for folder in ("repository", "state") for path in (tmp_path / folder).rglob("*")]
    opened = tmp_path / "state"
    for path in kept:
        if path.is_file() and not ("opened" in path.parts and path.is_relative_to(opened)):
            assert not [word for word in secret if word in path.read_bytes()], path
