# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain values of the command line are converted without pydantic; invalid ones get the library's words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pitr.repository import Repository
from tests.support.pitr import Pitr

_PROGRAM = (
    "import gc, sys\n"
    "gc.disable()\n"
    "from pitr.cli.main import main\n"
    "code = main(sys.argv[1:])\n"
    "print('pydantic' in sys.modules, gc.isenabled(), file=sys.stderr)\n"
    "sys.exit(code)\n"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["status", "--output", "json"],
        ["list", "--output", "json"],
        ["verify", "--quick", "--max-workers", "3"],
        ["prune", "--keep-last", "7", "--dry-run"],
        # Its defaults are numbers of both kinds. Without an engine it is refused.
        ["backup", "nobody"],
    ],
    ids=" ".join,
)
def test_common_commands_do_not_load_pydantic_and_collect_garbage(
    repository: Repository, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments, "--repo", str(repository.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if arguments[0] == "backup" else 0), done.stderr
    assert done.stderr.splitlines()[-1] == "False True"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "--max-workers", "0"], "'--max-workers'"),
        (["verify", "--max-workers", "65"], "'--max-workers'"),
        (["verify", "--max-workers", "many"], "'--max-workers'"),
        (["verify", "--sample", "101"], "'--sample'"),
        (["list", "--output", "xml"], "'xml' is not one of 'text', 'json'"),
        (["status", "--output", "xml"], "'nagios'"),
        (["list", "--repo", ""], "empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_values_are_refused_in_the_words_of_the_library(
    command: Pitr, arguments: list[str], words: str
) -> None:
    assert words in command(*arguments, code=2).complaint


def test_values_arrive_as_what_they_are(command: Pitr, tmp_path: Path) -> None:
    file = tmp_path / "out"
    command("status", "--output", "json", "--to", file)
    assert file.read_text().startswith("{")
    assert command.json("prune", "--keep-last", "3", "--keep-within", "2d", "--dry-run")["removed"] == []
    assert command("forget", "a", "b", code=4).complaint
