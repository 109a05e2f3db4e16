# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every file of the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SKIPPED = {"build", "dist", "__pycache__"}

#: Machines' folders and package hosts; written so that this file does not hold them itself.
_FORBIDDEN = {
    "a machine's path": re.compile(r"(?<![\w.>}])/(?:work|root|home/\w+|opt)/(?!\.\.\.)\w"),
    "a package host": re.compile(r"py" r"pi\.org|python" r"hosted\.org|index-" r"url"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE " r"KEY-----"),
}


def _files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") for part in parts) and parts[0] not in (".ci", ".gitignore")
        if path.is_file() and not hidden and not _SKIPPED.intersection(parts):
            yield path


FILES = list(_files())
MODULES = [path for path in FILES if path.suffix == ".py"]
PITR = [path for path in MODULES if path.is_relative_to(ROOT / "pitr")]


def test_no_file_names_a_machine_a_package_host_or_a_key() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}: {match[0]}"
        for path in FILES
        if (text := _text(path)) is not None
        for what, pattern in _FORBIDDEN.items()
        for match in pattern.finditer(text)
    ]
    assert not found


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def test_each_source_file_says_its_license() -> None:
    programs = [ROOT / "Makefile", ROOT / ".ci/run", *MODULES]
    without = [path for path in programs if "SPDX-License-Identifier: GPL-2.0-or-later" not in _head(path)]
    assert not without


def _head(path: Path) -> str:
    return "\n".join(path.read_text().splitlines()[:3])


def test_each_module_says_what_it_is_for() -> None:
    without = [
        path
        for path in PITR
        if path.name != "__main__.py" and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not without


def test_no_module_grows_beyond_what_one_can_read() -> None:
    long = {path.name: count for path in PITR if (count := len(path.read_text().splitlines())) > 450}
    assert not long


# Layers: an arrow goes down only.

#: The wings from the ground up. Wings on one floor know nothing of each other.
_FLOORS = (
    ("errors",),
    ("model", "units", "times", "extents", "reporting", "text", "version"),
    ("system",),
    ("formats", "nbd", "guest"),
    ("copier",),
    ("ovirt", "repository"),
    ("endpoints",),
    ("jobs",),
    ("api", "fleet"),
    ("gateway",),
    ("cli",),
    ("__main__",),
)
_LEVELS = {f"pitr.{name}": level for level, names in enumerate(_FLOORS, 1) for name in names}
#: These are one wing, and know nothing of each other all the same.
_STRANGERS = [("pitr.ovirt.engine", "pitr.ovirt.imageio")]


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _level(module: str) -> int:
    return _LEVELS[_package(module)]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            # `from pitr.jobs import restore` may import a module.
            for alias in node.names:
                is_module = (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def _arrows() -> Iterator[tuple[str, str]]:
    for path in PITR:
        yield from ((_name(path), imported) for imported in _imports(path) if _is_in(imported, "pitr"))


ARROWS = sorted(set(_arrows()))


#: The front door leads to the API; the lab stands beside the house.
_OUTSIDE = ("pitr", "pitr.lab")


def test_each_module_belongs_to_a_wing() -> None:
    assert not {package for path in PITR if (package := _package(_name(path))) not in (*_LEVELS, *_OUTSIDE)}


def test_the_picture_of_the_wings_shows_the_floors() -> None:
    picture = (ROOT / "docs/design.md").read_text().split("## The wings")[1].split("```")[1]
    shown = {
        int(row[1]): set(re.findall(r"\w+", row[2])) for row in re.finditer(r"^ *(\d+) (.*)", picture, re.M)
    }
    wings = [names for names in _FLOORS if names != ("__main__",)]
    assert sorted(shown) == list(range(1, len(wings) + 1))
    assert not [name for level, names in enumerate(wings, 1) for name in names if name not in shown[level]]


def test_an_arrow_goes_down_only() -> None:
    upwards = [
        f"{module} imports {imported}"
        for module, imported in ARROWS
        if not {_package(module), _package(imported)}.intersection(_OUTSIDE)
        and _package(module) != _package(imported)
        and _level(imported) >= _level(module)
    ]
    assert not upwards


@pytest.mark.parametrize(("one", "other"), _STRANGERS)
def test_strangers_stay_strangers(one: str, other: str) -> None:
    between = [
        f"{module} imports {imported}"
        for module, imported in ARROWS
        if (_is_in(module, one) and _is_in(imported, other))
        or (_is_in(module, other) and _is_in(imported, one))
    ]
    assert not between


def test_only_the_demo_command_knows_the_lab() -> None:
    users = {module for module, imported in ARROWS if _is_in(imported, "pitr.lab")}
    assert {module for module in users if not _is_in(module, "pitr.lab")} == {"pitr.cli.commands.demo"}


#: Up to here the lab may use what it does not test.
_GROUND = 4


def test_the_lab_does_not_lean_on_what_it_tests() -> None:
    leaning = [
        f"{module} imports {imported}"
        for module, imported in ARROWS
        if _is_in(module, "pitr.lab") and not _is_in(imported, "pitr.lab") and _level(imported) > _GROUND
    ]
    assert not leaning
