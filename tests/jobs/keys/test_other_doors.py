# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed repository through the gateway, through the Python API, and in a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr import Repository, copy, open_sink, open_source
from pitr.errors import NoFittingIdentity
from pitr.repository.sealing import identities
from tests.support.gateway import running
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, BOB, VM_NAME, SealedPlace


def _host(sealed: SealedPlace) -> Pitr:
    return Pitr({"PITR_REPO": str(sealed.path), "XDG_STATE_HOME": str(sealed.folder / "state"), "TZ": "UTC"})


def _last(sealed: SealedPlace) -> tuple[str, str, bytes]:
    """Return the newest point, one of its disks, and what that holds."""
    point, disks = list(sealed.stored.contents.items())[-1]
    disk, content = next(iter(disks.items()))
    return point, disk, content


def test_the_gateway_gives_what_its_identity_opens(sealed: SealedPlace, tmp_path: Path) -> None:
    point, disk, content = _last(sealed)
    image = f"/points/{point}/disks/{disk}?format=raw"
    with running(_host(sealed).environment, tmp_path / "closed") as gateway:
        assert {each["vm"]["name"] for each in gateway.get("/points").json["points"]} == {None}
        refused = gateway.get(image, status=403)
        assert refused.error["type"] == "NoFittingIdentity"
        assert BOB.recipient.fingerprint in refused.error["message"]
        assert gateway.get(f"/points?vm={VM_NAME}", status=403).error["type"] == "NamesSealed"
    key = sealed.key(ALICE)
    with running(_host(sealed).environment, tmp_path / "opened", "--identity", key) as gateway:
        assert {each["vm"]["name"] for each in gateway.get(f"/points?vm={VM_NAME}").json["points"]} == {
            VM_NAME
        }
        assert gateway.get(image).body == content


def test_python_programs_name_an_identity_in_the_environment(
    sealed: SealedPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, disk, content = _last(sealed)
    with (
        Repository.open(sealed.path) as repository,
        pytest.raises(NoFittingIdentity, match=ALICE.recipient.fingerprint),
        open_source(repository, point=point, disk=disk),
    ):
        pass
    monkeypatch.setenv(identities.VARIABLE, str(sealed.key(ALICE)))
    read = bytearray(len(content))
    with (
        Repository.open(sealed.path) as repository,
        open_source(repository, point=point, disk=disk) as source,
        open_sink(read, len(content)) as sink,
    ):
        copy(source, sink)
    assert read == content


def test_retired_vms_have_no_names_without_an_identity(sealed: SealedPlace) -> None:
    host = _host(sealed)
    vm = {"id": sealed.vm.id, "name": None}
    assert host.json("forget", "--retire", sealed.vm.id)["retired"] == [vm]
    assert host.json("forget", "--unretire", sealed.vm.id)["unretired"] == [vm]
