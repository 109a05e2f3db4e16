# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository whose identity a plugin of age protects, as a hardware key would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.repository.sealing import bech32, identities, plugins
from pitr.repository.sealing.identities import KeySettings
from pitr.repository.sealing.keys import Identity
from tests.support.memory_engine import MemoryEngine
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE
from tests.support.stored_points import Stored

pytestmark = pytest.mark.skipif(
    shutil.which("age") is None, reason="the program age is missing; 'make test' installs it"
)

#: Speaks the protocol of plugins: it "wraps" with a byte that its recipient and its identity have.
_PLUGIN = """#!{python}
import sys
from base64 import b64decode, b64encode

def stanzas():
    while line := sys.stdin.readline():
        words, body = line.split()[1:], ""
        while (part := sys.stdin.readline().rstrip("\\n")) is not None:
            body += part
            if len(part) < 64:
                break
        yield words, b64decode(body + "=" * (-len(body) % 4))

def say(*words, body=b""):
    print("->", *words)
    print(b64encode(body).decode().rstrip("="), flush=True)

def mixed(data, key):
    return bytes(byte ^ ord(key[-8]) for byte in data)

keys, wrapped, read = [], [], stanzas()
for words, body in read:
    if words[0] in ("add-recipient", "add-identity"):
        keys.append(words[1].lower())
    elif words[0] == "wrap-file-key":
        wrapped.append(body)
    elif words[0] == "recipient-stanza" and words[2] == "fake":
        wrapped.append((words[3], body))
    elif words[0] == "done":
        break
with open({log!r}, "a") as log:
    print(sys.argv[1], file=log)
if "recipient-v1" in sys.argv[1]:
    for key in keys:
        say("recipient-stanza", "0", "fake", key[-8], body=mixed(wrapped[0], key))
        next(read)
else:
    for mark, body in wrapped:
        for key in keys:
            if key[-8] == mark:
                say("file-key", "0", body=mixed(body, key))
                next(read)
say("done")
"""
_DATA = (b"\x00\x01\x02\x03\x04", b"\x0f\x0e\x0d\x0c\x0b")


def _pair(number: int) -> tuple[str, str]:
    """Return a recipient and an identity of the plugin whose eighth letter from the end is the same."""
    recipient = bech32.encode("age1fake", _DATA[number])
    for first in range(1 << 16):
        identity = bech32.encode("age-plugin-fake-", first.to_bytes(2, "big"))
        if identity[-8] == recipient[-8]:
            return recipient, identity.upper()
    raise AssertionError


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Pitr]:
    """Run pitr where age finds the plugin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    plugin = folder / "age-plugin-fake"
    plugin.write_text(_PLUGIN.format(python=sys.executable, log=str(tmp_path / "calls")))
    plugin.chmod(0o755)
    folders = {"PITR_REPO": str(tmp_path / "repository"), "XDG_STATE_HOME": str(tmp_path / "state")}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    yield Pitr({"TZ": "UTC", "COLUMNS": "400", "PATH": path, **folders})
    identities.use(KeySettings())
    plugins._opened.cache_clear()


def test_a_plugin_opens_the_repository_once_for_each_command(
    host: Pitr, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipient, identity = _pair(0)
    made = host("init", "--encrypt", recipient, "--encrypt", str(ALICE.recipient), "-o", "json").json
    assert made["repository"]["new_identity"] is None
    monkeypatch.setenv("XDG_STATE_HOME", host.environment["XDG_STATE_HOME"])
    identities.use(KeySettings())
    for number in range(2):
        Stored(host.repository, memory_engine).back_up(memory_engine.add_vm(f"vm{number}", b"\x07" * 4096))
    key = tmp_path / "key"
    key.write_text(f"# a key\n{identity}\n")
    calls = tmp_path / "calls"
    assert calls.read_text().count("identity-v1") == 0
    names = [
        point["vm"]["name"] for point in host("list", "--identity", str(key), "-o", "json").json["points"]
    ]
    assert sorted(names) == ["vm0", "vm1"]
    assert calls.read_text().count("identity-v1") == 1
    host("restore", "vm0", "--at", "now", "--to-file", str(tmp_path / "image"), "--identity", str(key))
    host("verify", "--identity", str(key))

    # The identity is an age file for the plugin's recipient, and opens what the repository holds.
    [kept] = (host.repository / "keys").glob("plugin-*.age")
    done = subprocess.run(
        ["age", "-d", "-i", str(key), str(kept)],
        env={**os.environ, "PATH": host.environment["PATH"]},
        capture_output=True,
        check=True,
    )
    assert Identity.parse(done.stdout.decode().splitlines()[-1]).recipient.fingerprint in kept.name


def test_the_wrong_key_of_a_plugin_is_refused(host: Pitr, tmp_path: Path) -> None:
    recipient, _ = _pair(0)
    _, other = _pair(1)
    host("init", "--encrypt", recipient, "--encrypt", str(ALICE.recipient))
    key = tmp_path / "key"
    key.write_text(f"{other}\n")
    refused = host("key", "check", "--identity", str(key), code=1)
    assert "plugin" in refused.stderr and len(refused.stderr.splitlines()) <= 4
    assert other not in refused.stderr
    # Beside it, another identity opens the repository.
    key.write_text(f"{other}\n{ALICE.secret()}\n")
    host("key", "check", "--identity", str(key))


def test_a_missing_plugin_makes_no_repository(host: Pitr) -> None:
    unknown = bech32.encode("age1nosuchplugin", b"\x00\x01")
    refused = host("init", "--encrypt", unknown, "--encrypt", str(ALICE.recipient), code=1)
    assert "nosuchplugin" in refused.stderr
    assert not host.repository.exists()
