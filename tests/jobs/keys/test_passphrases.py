# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository whose identity is kept in it, protected by a passphrase."""

from __future__ import annotations

import getpass
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyrage  # type: ignore[import-untyped]
import pytest

from pitr.cli import key_options
from pitr.errors import UsageError
from pitr.repository.sealing import identities, keys, passphrases
from pitr.repository.sealing.identities import KeySettings
from pitr.repository.sealing.keys import Identity
from tests.support.memory_engine import MemoryEngine
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, BOB
from tests.support.stored_points import Stored

WORDS = "seven random words of nobody's poem"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Protect new identities with little work."""
    monkeypatch.setattr(keys, "WORK_FACTOR", 8)
    yield
    key_options._typed.cache_clear()
    passphrases._text.cache_clear()
    identities.use(KeySettings())


@pytest.fixture
def host(tmp_path: Path) -> Pitr:
    """Run pitr with a file that holds the passphrase, and no terminal."""
    (tmp_path / "words").write_text(f"{WORDS}\n")
    folders = {"PITR_REPO": "repository", "XDG_STATE_HOME": "state", "PITR_PASSPHRASE_FILE": "words"}
    return Pitr({"TZ": "UTC", "COLUMNS": "400"} | {name: str(tmp_path / at) for name, at in folders.items()})


def _filled(host: Pitr, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store a point, as a host without the passphrase does."""
    monkeypatch.setenv("XDG_STATE_HOME", host.environment["XDG_STATE_HOME"])
    identities.use(KeySettings())
    stored = Stored(host.repository, engine)
    stored.back_up(engine.add_vm("paymaster", b"\x07" * 4096))


def _without(host: Pitr) -> Pitr:
    return Pitr({key: value for key, value in host.environment.items() if key != "PITR_PASSPHRASE_FILE"})


def test_a_passphrase_opens_the_repository_that_was_sealed_with_it(
    host: Pitr, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = host("init", "--encrypt", "passphrase", "--encrypt", str(ALICE.recipient), "-o", "json").json
    assert made["repository"]["new_identity"] is None and len(made["repository"]["recipients"]) == 2
    _filled(host, memory_engine, monkeypatch)
    assert host("list", "-o", "json").json["points"][0]["vm"]["name"] == "paymaster"
    host("key", "check")
    host("verify")
    host("restore", "--at", "now", "--to-file", str(tmp_path / "image"))

    closed = _without(host)
    assert closed("list", "-o", "json").json["points"][0]["vm"]["name"] is None
    refused = closed("restore", "--at", "now", "--to-file", str(tmp_path / "other"), code=1)
    assert "--identity passphrase" in refused.stderr and len(refused.stderr.splitlines()) <= 4
    # There is no terminal to ask for it.
    untold = closed("list", "--identity", "passphrase", code=2)
    assert "PITR_PASSPHRASE_FILE" in untold.stderr
    (tmp_path / "words").write_text("other words than before\n")
    wrong = host("restore", "--at", "now", "--to-file", str(tmp_path / "other"), code=1)
    assert "other words" not in wrong.stderr
    assert not (tmp_path / "other").exists()
    for path in tmp_path.rglob("*"):
        assert path.name == "words" or not path.is_file() or WORDS.encode() not in path.read_bytes()


def test_the_protected_identity_is_a_plain_age_file(host: Pitr, tmp_path: Path) -> None:
    host("init", "--encrypt", "passphrase", "--encrypt", str(ALICE.recipient))
    [kept] = (host.repository / "keys").glob("identity-*.age")
    text = pyrage.passphrase.decrypt(kept.read_bytes(), WORDS).decode()
    identity = Identity.parse(text.splitlines()[-1])
    assert identity.recipient.fingerprint in kept.name
    copy = tmp_path / "copy"
    _without(host)("replicate", str(host.repository), str(copy))
    assert host("key", "check", "--repo", str(copy), "-o", "json").json["epochs"][0]["recipients"][0]["opens"]


def test_keys_change_to_a_passphrase_and_back(host: Pitr) -> None:
    host("init", "--encrypt", str(ALICE.recipient), "--encrypt", str(BOB.recipient))
    assert host("key", "add", "passphrase", "-o", "json").json["epoch"] == 2
    checked = host("key", "check", "-o", "json").json["epochs"]
    assert [any(each["opens"] for each in epoch["recipients"]) for epoch in checked] == [False, True]
    host("key", "rotate", "--encrypt", "passphrase", "--encrypt", str(ALICE.recipient))
    assert len(list((host.repository / "keys").glob("identity-*.age"))) == 2
    host("key", "check")
    host("key", "rotate", "--encrypt", str(BOB.recipient), "--encrypt", str(ALICE.recipient))
    host("key", "check", code=1)


def test_a_damaged_or_foreign_protected_identity_is_refused(host: Pitr) -> None:
    host("init", "--encrypt", "passphrase", "--encrypt", str(ALICE.recipient))
    [kept] = (host.repository / "keys").glob("identity-*.age")
    kept.chmod(0o600)
    data = kept.read_bytes()
    for changed in (data[:-1], data[:40], data[:-1] + bytes([data[-1] ^ 1]), b"", b"no age file"):
        kept.write_bytes(changed)
        assert "--identity" in host.run("list").complaint
    # Somebody who can write to the repository puts an identity of his own there: it is no recipient.
    kept.write_bytes(passphrases.protected(Identity.generate(), WORDS)[1])
    host("key", "check", code=1)


def test_an_identity_file_may_be_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "key.age"
    ask: list[str] = []
    for armored in (False, True):
        _, data = passphrases.protected(ALICE, WORDS)
        lines = [
            "-----BEGIN AGE ENCRYPTED FILE-----",
            b64encode(data).decode(),
            "-----END AGE ENCRYPTED FILE-----",
        ]
        path.write_bytes("\n".join(lines).encode() if armored else data)

        def typed(question: str) -> str:
            ask.append(question)
            return WORDS

        [read] = KeySettings((path,), ask=typed).identities()
        assert read.recipient == ALICE.recipient
        with pytest.raises(UsageError, match="no terminal"):
            KeySettings((path,)).identities()
    assert len(ask) == 2 and str(path) in ask[0]


def test_a_new_passphrase_is_typed_twice_and_has_several_words(
    host: Pitr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    answers: dict[str, str] = {}
    monkeypatch.setattr(getpass, "getpass", lambda question: answers[question])
    typing, command = _without(host), ("init", "--encrypt", "passphrase")
    for first, second in (("short", "short"), (WORDS, "something else"), ("", "")):
        answers |= {"New passphrase: ": first, "The same again: ": second}
        key_options._typed.cache_clear()
        typing(*command, code=2)
        assert not host.repository.exists()
    answers |= {"New passphrase: ": WORDS, "The same again: ": WORDS, "Passphrase of the repository: ": WORDS}
    key_options._typed.cache_clear()
    made = typing(*command, "-o", "json").json["repository"]
    # The other one, to keep on paper.
    assert made["new_identity"].startswith("AGE-SECRET-KEY-1")
    typing("key", "check", "--identity", "passphrase")
    typing("key", "check", code=1)
