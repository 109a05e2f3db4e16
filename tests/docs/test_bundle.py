# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bundle` gives one archive that installs pitr without a network, and the installer says what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 900


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle as a machine gets it: unpacked, without the checkout."""
    folder = tmp_path_factory.mktemp("bundle")
    built = subprocess.run(
        ["sh", ROOT / "packaging/bundle.sh", sys.executable, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
    )
    if built.returncode and re.search(r"No matching distribution|Temporary failure|Connection", built.stderr):
        pytest.skip("pip cannot download the packages")
    assert built.returncode == 0, built.stderr
    archive = Path(built.stdout.splitlines()[-1])
    assert list(folder.iterdir()) == [archive]
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    [unpacked] = folder.iterdir()
    return unpacked


def _install(
    script: Path, *arguments: str | Path, environment: dict[str, str] | None = None, offline: bool = True
) -> subprocess.CompletedProcess[str]:
    # Root can take the network away; other users rely on --no-index.
    alone = ["unshare", "--net"] if offline and os.geteuid() == 0 and shutil.which("unshare") else []
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [*alone, "sh", script, *arguments],
        env=clean if environment is None else environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
    )


def test_a_bundle_installs_pitr_without_a_network(bundle: Path, tmp_path: Path) -> None:
    assert "--no-index" in (bundle / "install.sh").read_text()
    for again in range(2):  # the second time is an update, after a change of the distribution's Python
        if again:
            (tmp_path / "a b" / "bin" / "python").unlink()
        done = _install(
            bundle / "install.sh",
            "--python",
            sys.executable,
            "--to",
            tmp_path / "a b",
            "--link",
            tmp_path / "bin",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Installed: pitr ")
        pages = tmp_path / "share" / "man" / "man1"
        assert (pages / "pitr.1").read_text().startswith(".TH") and (pages / "pitr-restore.1").exists()
        assert not (pages / "pitr-gone.1").is_symlink()
        (pages / "pitr-gone.1").symlink_to(tmp_path / "a b" / "share" / "gone")
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    program = tmp_path / "bin" / "pitr"
    said = subprocess.run(
        [program, "--version"], env=clean, capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"pitr \d+\.\d+.*\n", said)
    for command in ("init", "list", "verify"):
        subprocess.run(
            [program, command, "--repo", tmp_path / "repository"], env=clean, capture_output=True, check=True
        )


def test_a_folder_with_other_files_is_not_touched(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = _install(bundle / "install.sh", "--python", sys.executable, "--to", tmp_path, "--link", "")
    _refused(done, "is not empty and no virtual environment")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_bundle_says_what_it_is_for_and_names_no_machine(bundle: Path) -> None:
    for_what = dict(line.split("=", 1) for line in (bundle / "BUILT_FOR").read_text().splitlines())
    assert for_what["python"] == "{}.{}".format(*sys.version_info[:2])
    assert for_what["machine"] == os.uname().machine and for_what["extras"] == ""
    assert {path.name for path in bundle.iterdir()} == {
        "BUILT_FOR",
        "LICENSE",
        "README.md",
        "SHA256SUMS",
        "install.sh",
        "wheels",
    }
    names = [path.name for path in (bundle / "wheels").iterdir()]
    assert all(name.endswith(".whl") for name in names)
    assert len([name for name in names if name.startswith("pitr-")]) == 1


@pytest.mark.parametrize(
    ("line", "complaint"), [("python=3.99", "for Python 3.99"), ("glibc=99.1", "glibc 99.1")]
)
def test_a_bundle_for_another_machine_is_refused_in_one_line(
    bundle: Path, tmp_path: Path, line: str, complaint: str
) -> None:
    other = _copy_without_wheels(bundle, tmp_path)
    what = line.partition("=")[0]
    text = (other / "BUILT_FOR").read_text()
    (other / "BUILT_FOR").write_text(re.sub(rf"^{what}=.*$", line, text, flags=re.MULTILINE))
    _refused(_install(other / "install.sh", "--python", sys.executable, "--to", tmp_path / "venv"), complaint)
    assert not (tmp_path / "venv").exists()


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = _copy_without_wheels(bundle, tmp_path)
    done = _install(other / "install.sh", "--python", sys.executable, "--to", tmp_path / "venv")
    assert done.returncode == 1 and "the bundle is damaged: copy it again" in done.stderr


def _copy_without_wheels(bundle: Path, folder: Path) -> Path:
    other = folder / "other"
    shutil.copytree(bundle, other, ignore=shutil.ignore_patterns("*.whl"))
    return other


def _refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(rf"install\.sh: .*{re.escape(complaint)}.*\n", done.stderr), done.stderr


_NEEDED = ("cat", "cut", "dirname", "head", "ls", "mktemp", "sed", "sh", "sort", "tail", "uname")


def _machine(folder: Path, programs: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a machine that has only the basic programs and these ones."""
    place = folder / "programs"
    place.mkdir()
    for name in (*_NEEDED, *programs):
        found = shutil.which(name)
        (place / name).symlink_to(found or "/bin/true")
    return {"PATH": str(place), "HOME": "/nonexistent"}


def _python(folder: Path, answer: str) -> Path:
    """Return a Python that gives this answer to the question about its headers."""
    program = folder / "python3.11"
    program.write_text(
        f'#!/bin/sh\ncase "$2" in *sysconfig*) echo "{answer}";; *) exec {sys.executable} "$@";; esac\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("programs", "packages"),
    [
        ([], "apt-get install gcc python3-dev libxml2-dev"),
        (["dnf"], "dnf install gcc python{}.{}-devel libxml2-devel".format(*sys.version_info[:2])),
    ],
)
def test_a_missing_compiler_or_header_is_told_in_one_line_with_the_packages(
    tmp_path: Path, programs: Sequence[str], packages: str
) -> None:
    script = ROOT / "packaging/install.sh"
    environment = _machine(tmp_path, programs)
    python = _python(tmp_path, str(tmp_path))
    done = _install(
        script, "--python", python, "--to", tmp_path / "venv", environment=environment, offline=False
    )
    _refused(done, packages)
    assert "a C compiler, Python.h" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("programs", "packages"),
    [([], "apt-get install python3 python3-venv"), (["dnf"], "dnf install python3.11")],
)
def test_a_missing_python_is_told_with_its_package(
    tmp_path: Path, programs: Sequence[str], packages: str
) -> None:
    done = _install(ROOT / "packaging/install.sh", environment=_machine(tmp_path, programs), offline=False)
    _refused(done, packages)


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    done = _install(ROOT / "packaging/install.sh", "--prefix", "/usr", offline=False)
    assert done.returncode == 2 and "Usage:" in done.stderr


def test_make_bundle_calls_the_script() -> None:
    make = ["make", "--dry-run", "--no-print-directory", "bundle", "EXTRAS=files,gateway"]
    commands = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^sh packaging/bundle\.sh \S+/python dist files,gateway$", commands, re.MULTILINE)


def _packages(name: str) -> set[str]:
    found = re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return set(found[1].split())


def test_the_containerfile_installs_what_the_page_and_the_makefile_name() -> None:
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    built, ran = (
        set(line.split()) for line in re.findall(r"install -y --no-install-recommends ([^&\n]*)", text)
    )
    assert built == _packages("BUILD_PACKAGES")
    assert {"qemu-utils", "e2fsprogs"} <= ran & _packages("DEMO_PACKAGES")
    assert (ROOT / "packaging/install.sh").exists() and "packaging/install.sh" in text
