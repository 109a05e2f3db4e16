# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor looks at the keys of a sealed repository."""

from __future__ import annotations

from typing import Any

from pitr.repository.sealing.keys import Identity
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, BOB, EVE, SealedPlace


def _checks(host: Pitr, *options: str) -> dict[str, Any]:
    """Return the checks by name. Without an engine, doctor fails, but it has looked at the keys before."""
    checks = {check["name"]: check for check in host.json("doctor", "--no-probe", *options, code=1)["checks"]}
    assert all(check["advice"] for check in checks.values() if check["status"] in ("warning", "failed"))
    return checks


def _state(checks: dict[str, Any], *names: str) -> list[str | None]:
    return [checks[name]["status"] if name in checks else None for name in names]


def test_doctor_looks_at_the_keys(sealed: SealedPlace) -> None:
    host = Pitr({"PITR_REPO": str(sealed.path), "XDG_STATE_HOME": str(sealed.folder / "state"), "TZ": "UTC"})
    names = ("recipients", "second recipient", "identity", "key files")
    closed = _checks(host)
    assert _state(closed, *names) == ["ok", None, "ok", None]
    assert "not read" in closed["identity"]["message"]

    key = sealed.key(ALICE)
    key.chmod(0o600)
    opened = _checks(host, "--identity", str(key))
    assert _state(opened, *names) == ["ok", None, "ok", None]
    key.chmod(0o644)
    exposed = _checks(host, "--identity", str(key))
    assert _state(exposed, *names) == ["ok", None, "ok", "warning"]
    assert "all users" in exposed["key files"]["message"]
    wrong = _checks(host, "--identity", str(sealed.key(EVE)))
    assert _state(wrong, "recipients", "identity") == ["ok", "failed"]
    assert BOB.recipient.fingerprint in wrong["identity"]["message"]

    other = host.with_environment(XDG_STATE_HOME=str(sealed.folder / "other"))
    untrusted = _checks(other)
    assert _state(untrusted, "recipients") == ["failed"]
    assert "--trust-recipients" in untrusted["recipients"]["advice"]

    new = Identity.generate()
    host("key", "rotate", "--encrypt", str(new.recipient), "--encrypt", str(EVE.recipient))
    host("key", "remove", EVE.recipient.fingerprint)
    assert _state(_checks(host), *names[:3]) == ["ok", "warning", "ok"]
    assert _state(_checks(host, "--identity", str(sealed.key(ALICE))), "identity") == ["failed"]
    assert _state(_checks(host, "--identity", str(sealed.key(new))), "identity") == ["warning"]


def test_doctor_says_nothing_of_keys_in_the_open(command: Pitr) -> None:
    assert not {"recipients", "identity"} & set(_checks(command))
