# SPDX-License-Identifier: GPL-2.0-or-later
"""`make` installs what is missing, asks for no more, and says what it cannot install."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINE = re.search(r"^PACKAGES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
PACKAGES = _LINE[1].split() if _LINE else []


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The folder of all programs of a machine that is root's and has no packages at all."""
    folder = tmp_path / "bin"
    folder.mkdir()
    env = shutil.which("env")
    assert env is not None
    (folder / "env").symlink_to(env)
    _program(folder, "id", "echo 0")
    _program(folder, "apt-get", f'echo "apt-get $*" >> {tmp_path}/log')
    _program(folder, "sudo", f'echo sudo >> {tmp_path}/log; exec "$@"')
    return folder


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _make(machine: Path, target: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, "--no-print-directory", target],
        cwd=ROOT,
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
        check=False,
    )


def _log(machine: Path) -> list[str]:
    log = machine.parent / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_only_missing_packages_are_installed(machine: Path) -> None:
    _program(machine, "dpkg-query", 'case "$*" in *zstd*|*gcc*) exit 1;; esac; printf installed')
    assert _make(machine, "install-system").returncode == 0
    assert _log(machine) == [
        "apt-get update -q",
        "apt-get install -q -y --no-install-recommends gcc zstd",
    ]


def test_only_the_tests_need_a_browser() -> None:
    for target, needed in (("test", True), ("demo", False)):
        make = ["make", "--dry-run", "--no-print-directory", target]
        done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
        assert ("chromium" in done.stdout) == needed


def test_nothing_is_asked_for_when_all_is_there(machine: Path) -> None:
    _program(machine, "dpkg-query", "printf installed")
    done = _make(machine, "install-system")
    assert (done.returncode, done.stdout, done.stderr, _log(machine)) == (0, "", "", [])


def test_a_package_that_was_removed_counts_as_missing(machine: Path) -> None:
    _program(machine, "dpkg-query", "printf config-files")
    assert _make(machine, "install-system").returncode == 0
    assert _log(machine)[-1].split()[-len(PACKAGES) :] == PACKAGES


def test_who_is_not_root_installs_with_sudo(machine: Path) -> None:
    _program(machine, "id", "echo 1000")
    _program(machine, "dpkg-query", "exit 1")
    assert _make(machine, "install-system").returncode == 0
    assert [line.split()[0] for line in _log(machine)] == ["sudo", "apt-get", "sudo", "apt-get"]


def test_a_failed_installation_fails(machine: Path) -> None:
    _program(machine, "dpkg-query", "exit 1")
    _program(machine, "apt-get", "exit 100")
    assert _make(machine, "install-system").returncode != 0


def test_another_machine_than_debians_is_told_which_programs_it_lacks(machine: Path) -> None:
    done = _make(machine, "install-system")
    assert done.returncode != 0
    assert done.stderr.startswith("Not a Debian machine: install these programs first:")
    assert "qemu-img" in done.stderr
