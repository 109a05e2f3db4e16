# SPDX-License-Identifier: GPL-2.0-or-later
"""`make` installs the missing packages, no others, and says which packages it cannot install."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TEXT = (ROOT / "Makefile").read_text()


def _packages(name: str) -> list[str]:
    line = re.search(rf"^{name} := (.*)$", _TEXT, re.MULTILINE)
    assert line is not None
    return line[1].split()


BUILD, DEMO, TEST = (_packages(f"{what}_PACKAGES") for what in ("BUILD", "DEMO", "TEST"))
PACKAGES = [*BUILD, *DEMO, *TEST]
BROWSER = _packages("BROWSER")
CEPH = _packages("CEPH_PACKAGES")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return the folder of all programs of a machine without packages; the user is root."""
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


@pytest.mark.parametrize(
    ("target", "packages"),
    [
        ("install-demo", [*BUILD, *DEMO]),
        ("install-system", PACKAGES),
        ("install-test", [*PACKAGES, *BROWSER]),
        ("install-s3", [*PACKAGES, *CEPH]),
    ],
)
def test_a_target_installs_only_what_it_needs(machine: Path, target: str, packages: list[str]) -> None:
    _program(machine, "dpkg-query", "exit 1")
    assert _make(machine, target).returncode == 0
    assert _log(machine)[-1] == f"apt-get install -q -y --no-install-recommends {' '.join(packages)}"


def test_the_demo_needs_three_packages_and_those_that_pip_builds_with() -> None:
    assert DEMO == ["qemu-utils", "qemu-system-common", "e2fsprogs"]
    assert BUILD == ["gcc", "python3-dev", "python3-venv", "libxml2-dev"]


def _dry_run(target: str) -> str:
    make = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_demo_installs_nothing_for_the_tests() -> None:
    commands = _dry_run("demo")
    assert " ".join(DEMO) in commands
    assert not [package for package in (*TEST, *BROWSER, *CEPH) if re.search(rf"\b{package}\b", commands)]
    assert "--editable '.[lab]'" in commands


def test_the_tests_install_all_packages() -> None:
    commands = _dry_run("test")
    assert " ".join([*PACKAGES, *BROWSER]) in commands
    assert "--editable '.[dev]'" in commands
    # Only `make test-s3` needs Ceph.
    assert not [package for package in CEPH if re.search(rf"\b{package}\b", commands)]


def test_the_tests_of_object_storage_run_beside_a_real_gateway() -> None:
    commands = _dry_run("test-s3")
    assert " ".join([*PACKAGES, *CEPH]) in commands
    [line] = [line for line in commands.splitlines() if "tests.support.radosgw" in line]
    paths = [word for word in line.split() if word.startswith("tests/")]
    assert paths and all((ROOT / path).exists() for path in paths)


def test_nothing_is_asked_for_when_all_is_there(machine: Path) -> None:
    _program(machine, "dpkg-query", "printf installed")
    done = _make(machine, "install-system")
    assert (done.returncode, done.stdout, done.stderr, _log(machine)) == (0, "", "", [])


def test_a_package_that_was_removed_counts_as_missing(machine: Path) -> None:
    _program(machine, "dpkg-query", "printf config-files")
    assert _make(machine, "install-system").returncode == 0
    assert _log(machine)[-1].split()[-len(PACKAGES) :] == PACKAGES


def test_a_user_who_is_not_root_installs_with_sudo(machine: Path) -> None:
    _program(machine, "id", "echo 1000")
    _program(machine, "dpkg-query", "exit 1")
    assert _make(machine, "install-system").returncode == 0
    assert [line.split()[0] for line in _log(machine)] == ["sudo", "apt-get", "sudo", "apt-get"]


_ZSTD_MISSES = 'case "$*" in *zstd*) exit 1;; esac; printf installed'
_BY_ROOT = "As root, run: apt-get update && apt-get install -y --no-install-recommends zstd"


def test_without_root_and_sudo_it_says_which_command_root_must_run(machine: Path) -> None:
    _program(machine, "id", "echo 1000")
    _program(machine, "dpkg-query", _ZSTD_MISSES)
    (machine / "sudo").unlink()
    done = _make(machine, "install-system")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if not line.startswith("make")] == [_BY_ROOT]
    assert (done.stdout, _log(machine)) == ("", [])


def test_a_sudo_that_refuses_leads_to_the_same_line(machine: Path) -> None:
    _program(machine, "id", "echo 1000")
    _program(machine, "dpkg-query", _ZSTD_MISSES)
    _program(machine, "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    done = _make(machine, "install-system")
    assert done.returncode != 0
    assert _BY_ROOT in done.stderr.splitlines()
    assert _log(machine) == []


def test_a_failed_installation_fails(machine: Path) -> None:
    _program(machine, "dpkg-query", "exit 1")
    _program(machine, "apt-get", "exit 100")
    assert _make(machine, "install-system").returncode != 0


@pytest.mark.parametrize(("target", "zstd"), [("install-demo", False), ("install-system", True)])
def test_a_machine_without_debian_packages_names_the_missing_programs(
    machine: Path, target: str, zstd: bool
) -> None:
    done = _make(machine, target)
    assert done.returncode != 0
    assert done.stderr.startswith("This is not a Debian machine. Install these programs first:")
    assert "qemu-img" in done.stderr
    assert ("zstd" in done.stderr) == zstd
