# SPDX-License-Identifier: GPL-2.0-or-later
"""pitr in the environments that users give it: ignored signals, texts that are not UTF-8, no home folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pitr.model import Backup
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points_of_images import store_states


@pytest.fixture
def point(repository: Repository) -> Backup:
    return store_states(repository, [[bytes(range(256)) * 256]])[0]


def started(
    command: Pitr, *arguments: str | bytes, ignored: signal.Signals | None = None
) -> subprocess.Popen[bytes]:
    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-m", "pitr", *arguments],
        env={**os.environ, **command.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=ignore,  # noqa: PLW1509 - one thread
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--at", "now"),
        ("catalog", "serve", "--port", "0"),
        ("gateway", "--port", "0", "--plain-http"),
    ],
)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    point: Backup, command: Pitr, arguments: tuple[str, ...]
) -> None:
    with started(command, *arguments, ignored=signal.SIGHUP) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"serving until" in line:
                break
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (b"list", b"caf\xe9"),
        (b"restore", b"--at", b"now", b"--to-file", b"/tmp/caf\xe9"),
        (b"show", b"\xff", b"--output", b"json"),
        (b"--repo", b"/tmp/caf\xe9", b"list"),
        (b"init", b"/tmp/caf\xe9-new"),
        (b"import", b"/tmp/caf\xe9"),
        (b"\xff",),
    ],
)
def test_an_argument_that_is_not_utf8_is_an_error(
    point: Backup, command: Pitr, arguments: tuple[bytes, ...]
) -> None:
    process = started(command, *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert b"UTF-8" in err and b"defect" not in err and b"Traceback" not in err
    assert len(err.splitlines()) == 1


def test_a_folder_that_is_not_utf8_is_shown_in_json(command: Pitr, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    done = subprocess.run(
        [sys.executable, "-m", "pitr", "init", "--repo", "inside", "--output", "json"],
        env={**os.environ, **command.environment},
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"caf" in done.stdout


def test_a_user_without_a_home_folder_gets_no_traceback(point: Backup, command: Pitr) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    program = "import pwd, sys; pwd.getpwuid = lambda uid: {}[uid]; from pitr.cli.main import main; sys.exit(main())"
    for arguments in (["list"], ["doctor", "--no-probe"], ["backup", "web1"], ["backup", "-c", "x", "web1"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment | command.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "defect" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 2)
    assert done.stderr.startswith("pitr: ")


def test_doctor_warns_of_passwords_that_others_can_read(
    command: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secret, section = tmp_path / "password", tmp_path / ".config" / "ovirt-img.conf"
    section.parent.mkdir()
    for path, mode, readers in (
        (secret, 0o644, "all users"),
        (section, 0o640, "the group"),
        (secret, 0o600, ""),
    ):
        path.write_text("")
        path.chmod(mode)
        document = command.json("doctor", "--no-probe", "--password-file", secret, code=1)
        (check,) = [check for check in document["checks"] if check["name"] == "passwords"]
        assert check["status"] == ("warning" if readers else "ok")
        assert readers in check["message"] and (str(path) in check["message"] or not readers)
        path.unlink()


def test_doctor_looks_where_root_has_its_programs(command: Pitr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (check,) = [
        check
        for check in command.json("doctor", "--no-probe", code=1)["checks"]
        if check["name"] == "programs"
    ]
    assert "e2fsck" not in check["message"] or check["status"] == "ok"


def test_an_option_before_the_command_overrides_its_variable(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    wrong = command.with_environment(PITR_REPO=str(tmp_path / "nothing"))
    assert wrong.json("--repo", repository.path, "list") == {"points": []}
    assert wrong.json("list", "--repo", repository.path) == {"points": []}
    wrong("list", code=1)
    wrong("--repo", repository.path, "list", "--repo", tmp_path / "nothing", code=1)
