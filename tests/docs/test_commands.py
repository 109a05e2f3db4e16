# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command is documented, and what documents show exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pitr import errors
from pitr.cli import reference
from pitr.cli.app import ENTRIES, GROUPS, CommandEntry, load
from pitr.cli.config import load_settings
from pitr.jobs.export import Exported
from pitr.jobs.policy_run.policy import choose_policy
from pitr.jobs.restore.restored import Restored
from pitr.lab.demo import Report, Step
from pitr.model import LeftOut
from pitr.repository.damage import Damage
from pitr.system.process import DEBIAN_PACKAGES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = reference.commands()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_with_an_example(name: str) -> None:
    text = " ".join((COMMANDS[name].help or "").split())
    assert len(text) > 20
    assert re.search(rf"Examples?: .*{name}\b", text), f"the help of '{name}' has no 'Example: {name} …'"


@pytest.mark.parametrize(("name", "entry"), ENTRIES.items())
def test_the_list_of_commands_shows_the_first_sentence_of_each_help(name: str, entry: CommandEntry) -> None:
    assert entry.help == load(name).get_short_help_str(limit=200)
    assert len(f"  {name:8}  {entry.help}") <= 80, "the library cuts it off"


def test_help_and_version_import_no_command() -> None:
    program = (
        "import sys\n"
        "from pitr.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    loaded = [name for name in sys.modules if name.startswith(('pitr.cli.commands.', 'pitr.jobs', 'numpy'))]\n"
        "    print(loaded, file=sys.stderr)\n"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_and_argument_has_a_help(name: str) -> None:
    without = [parameter.name for parameter in COMMANDS[name].params if not getattr(parameter, "help", None)]
    assert not without


def _readme_groups() -> list[list[str]]:
    """Return the commands of each row of the README's table of commands."""
    rows = README.split("## Commands\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[f"pitr {name}" for name in re.findall(r"`([^`]+)`", row.split("|")[2])] for row in rows]


def test_the_readme_has_each_command_once_in_four_groups_and_in_the_order_of_the_help() -> None:
    groups = _readme_groups()
    assert len(groups) == 4
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(COMMANDS)
    assert list(dict.fromkeys(name.split()[1] for name in names)) == list(ENTRIES)
    # Each row has whole groups of the help.
    ends = {list(entries)[-1] for entries in GROUPS.values()}
    assert {group[-1].split()[1] for group in groups} <= ends


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_section_in_the_reference(name: str) -> None:
    assert f"\n## {name}\n" in (ROOT / "docs/cli.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_json_document_is_described(name: str) -> None:
    table = (ROOT / "docs/json.md").read_text().split("## Documents")[1].split("Notes:")[0]
    command = name.removeprefix("pitr ")
    assert re.search(rf"^\|[^|]*`{command}`", table, re.MULTILINE), f"docs/json.md has no row for `{command}`"


def _json_keys() -> set[str]:
    """The keys that the documents of several commands are made of."""
    tree = ast.parse((ROOT / "pitr/jobs/documents.py").read_text())
    literal = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    return literal | {
        field.name for kind in (Damage, Exported, LeftOut, Restored, Report, Step) for field in fields(kind)
    }


@pytest.mark.parametrize("key", sorted(_json_keys()))
def test_each_key_of_the_json_documents_is_described(key: str) -> None:
    assert re.search(rf'"{key}"|`{key}`', (ROOT / "docs/json.md").read_text())


def test_the_reference_is_fresh() -> None:
    written = (ROOT / "docs/cli.md").read_text()
    assert written == reference.markdown(), "docs/cli.md is stale: run 'make docs'"


def test_every_exit_code_is_documented() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PitrError)
    }
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", reference.markdown(), re.MULTILINE)}
    assert codes <= documented


def _shown_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            found = re.match(r"(?:    )?(?:\$ )?(pitr [a-z].*)", line)
            if found and (line.startswith(("    ", "$ "))) and not line.endswith("[OPTION]..."):
                yield page.name, found[1]


@pytest.mark.parametrize(("page", "line"), list(_shown_commands()))
def test_commands_that_documents_show_exist_with_their_options(page: str, line: str) -> None:
    words = shlex.split(line.partition(" > ")[0].partition(" | ")[0], comments=True)
    name = next((" ".join(words[:length]) for length in (3, 2) if " ".join(words[:length]) in COMMANDS), None)
    assert name is not None, f"{page} shows a command that does not exist: {line}"
    known = {option for parameter in COMMANDS[name].params for option in _spellings(parameter)}
    unknown = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} - known
    assert not unknown, f"{page} shows options that '{name}' has not: {line}"


def _spellings(parameter: Any) -> list[str]:
    return [*parameter.opts, *getattr(parameter, "secondary_opts", [])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_documents_name_exist(page: Path) -> None:
    named = re.findall(r"`((?:pitr|tests|bench|schema|docs)/[\w./-]*)", page.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_configuration_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("\n".join(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)))
    settings = load_settings({"PITR_CONFIG": str(file)})
    assert settings.vms == ("web1", "db1")
    assert choose_policy(settings.policies, None).retention.daily == 30


def test_the_makefile_installs_all_programs_that_pitr_calls() -> None:
    lines = re.findall(r"^\w+_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(DEBIAN_PACKAGES.values()) <= {package for line in lines for package in line.split()}
