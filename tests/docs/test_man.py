# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: one for each command, as generated, and accepted by groff."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pitr.cli import man
from pitr.cli.reference import commands

FOLDER = Path(__file__).parents[2] / "docs" / "man"


def test_the_pages_are_those_of_the_commands() -> None:
    stored = {path.name: path.read_text() for path in FOLDER.glob("*")}
    assert stored == man.pages(), "run: make man"
    assert {f"{name.replace(' ', '-')}.1" for name in commands()} | {"pitr.1"} == set(stored)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_prints_every_page_without_a_warning() -> None:
    for path in sorted(FOLDER.glob("*.1")):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tascii", "-P-cbou", path], capture_output=True, text=True, check=True
        )
        assert done.stderr == "" and "DESCRIPTION" in done.stdout, path.name
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", FOLDER / "pitr-prune.1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pitr prune web1 --keep-last 7" in shown


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_shows_a_page() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", FOLDER / "pitr-restore.1"], capture_output=True, text=True, check=False
    )
    if "minimized" in done.stdout + done.stderr:
        pytest.skip("this machine's man shows no pages")
    assert done.returncode == 0 and done.stderr == ""
    assert "no-network" in done.stdout


def test_an_installation_has_the_pages() -> None:
    settings = (FOLDER.parents[1] / "pyproject.toml").read_text()
    assert '"docs/man" = "share/man/man1"' in settings
