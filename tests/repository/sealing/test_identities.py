# SPDX-License-Identifier: GPL-2.0-or-later
"""Where identities come from, and where they never go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pitr.errors import PitrError, UsageError
from pitr.repository import Repository
from pitr.repository.sealing.identities import PASSPHRASE_VARIABLE, VARIABLE, KeySettings
from tests.support.pitr import Pitr
from tests.support.sealed import ALICE, BOB, EVE, VM_NAME, SealedPlace

_DUMPS = """
import resource, sys
from pathlib import Path
from pitr.repository.sealing.identities import KeySettings
assert KeySettings((Path(sys.argv[1]),)).identities()
print(resource.getrlimit(resource.RLIMIT_CORE), Path("/proc/self/coredump_filter").read_text().strip())
"""


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "key.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_of_age_keygen_may_hold_several_identities_and_comments(tmp_path: Path) -> None:
    path = _file(tmp_path, "# created: today", "", ALICE.secret(), f"  {BOB.secret()}  ")
    read = KeySettings((path,)).identities()
    assert [each.recipient for each in read] == [ALICE.recipient, BOB.recipient]


@pytest.mark.parametrize(
    "line",
    ["", "age1abc", pytest.param(ALICE.secret()[:-1], id="cut"), "age1yubikey1qqqqqqqqqq", "\0"],
)
def test_what_is_no_identity_is_refused_without_quoting_it(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError) as refused:
        KeySettings((_file(tmp_path, line),)).identities()
    assert len(line) < 10 or line[15:30] not in f"{refused.value} {refused.value.advice}"


def test_files_come_before_the_variable_and_both_before_the_command(tmp_path: Path) -> None:
    path = _file(tmp_path, ALICE.secret())
    command = f"{sys.executable} -c \"print('{BOB.secret()}')\""
    both = KeySettings((path,), command)
    assert [each.recipient for each in both.identities()] == [ALICE.recipient]
    assert [each.recipient for each in KeySettings((), command).identities()] == [BOB.recipient]
    other = tmp_path / "other"
    assert both.with_environment({VARIABLE: str(other)}).identity_files == (path,)
    assert KeySettings((), command).with_environment({VARIABLE: str(other)}).identity_files == (other,)


def test_a_command_that_fails_keeps_what_it_printed_to_itself() -> None:
    command = f"{sys.executable} -c \"import sys; sys.exit('{ALICE.secret()}')\""
    with pytest.raises(UsageError) as refused:
        KeySettings((), command).identities()
    assert "printed no identity" in refused.value.message
    assert ALICE.secret()[16:] not in f"{refused.value} {refused.value.advice}"


def test_a_process_with_an_identity_writes_no_core_dump(tmp_path: Path) -> None:
    path = _file(tmp_path, ALICE.secret())
    run = subprocess.run(
        [sys.executable, "-c", _DUMPS, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert run.stdout.strip() == "(0, 0) 00000000"


def test_recipients_of_the_configuration_are_the_only_ones(sealed: SealedPlace, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    host = Pitr(
        {
            "PITR_REPO": str(sealed.path),
            "PITR_CONFIG": str(config),
            "XDG_STATE_HOME": str(tmp_path / "other"),
            "TZ": "UTC",
        }
    )
    key = sealed.key(ALICE)
    stream = str(tmp_path / "disk.sparse")
    disk = next(iter(sealed.vm.disks))
    config.write_text(f'[encryption]\nidentity_command = "cat {key}"\n')
    host("export", VM_NAME, "--at", "now", "--disk", disk, "--to", stream)
    command = ("import", stream, "--vm", "new", "--disk", "system")
    wrong = f'["{EVE.recipient}", "{ALICE.recipient}"]'
    config.write_text(f"[encryption]\nrecipients = {wrong}\n")
    assert EVE.recipient.fingerprint in host(*command, code=1).complaint
    config.write_text(f'[encryption]\nrecipients = ["{BOB.recipient}", "{ALICE.recipient}"]\n')
    host(*command)
    assert host("config", "show", "-o", "json").json["settings"]


def test_the_configuration_refuses_a_repository_in_the_open(
    sealed: SealedPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.create(tmp_path / "open"):
        pass
    config = tmp_path / "config.toml"
    config.write_text(f'[encryption]\nrecipients = ["{ALICE.recipient}"]\n')
    host = Pitr({"PITR_REPO": str(tmp_path / "open"), "PITR_CONFIG": str(config), "TZ": "UTC"})
    assert "not sealed" in host("list", code=1).complaint


def test_an_identity_is_in_no_log_and_no_message(sealed: SealedPlace, tmp_path: Path) -> None:
    log = tmp_path / "log"
    host = Pitr({"PITR_REPO": str(sealed.path), "XDG_STATE_HOME": str(tmp_path / "state"), "TZ": "UTC"})
    key, wrong = sealed.key(ALICE), _file(tmp_path, EVE.secret()[:-2])
    shown = host("list", "--debug", "--log-file", str(log), "--identity", str(key))
    refused = host("list", "--debug", "--log-file", str(log), "--identity", str(wrong), code=2)
    texts = (shown.stdout, shown.stderr, refused.stdout, refused.stderr, log.read_text())
    for identity in (ALICE, EVE):
        assert not [text for text in texts if identity.secret()[16:40] in text]


def test_an_encrypted_identity_file_needs_a_terminal_or_a_file_with_the_passphrase(tmp_path: Path) -> None:
    path, words = tmp_path / "key.age", tmp_path / "words"
    path.write_bytes(b"age-encryption.org/v1\n-> scrypt aaaa 18\n")
    words.write_text("some words")
    with pytest.raises(PitrError, match="no terminal"):
        KeySettings((path,)).identities()
    with pytest.raises(PitrError, match="is damaged"):
        KeySettings((path,)).with_environment({PASSPHRASE_VARIABLE: str(words)}).identities()
