# SPDX-License-Identifier: GPL-2.0-or-later
"""`pip install .` gives a program that works, with all that it needs beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the sources: a build leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pitr", "schema"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, sources)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder, sources],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, is neither installed nor to be had")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_page_of_installation_names_each_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs/install.md").read_text()
    assert [name for name in extras if name not in ("dev", "bench") and f"| `{name}` |" not in page] == []


def test_the_wheel_holds_the_schemas_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    schemas = {path.name for path in (ROOT / "schema").iterdir()}
    assert {Path(name).name for name in names if name.startswith("pitr/schema/")} == schemas
    assert not [name for name in names if name.startswith(("tests", "bench", "docs"))]
    shipped = {".py", ".html", ".css", ".js"}
    parts = {str(path.relative_to(ROOT)) for path in (ROOT / "pitr").rglob("*") if path.suffix in shipped}
    assert (
        parts <= set(names)
        and len([name for name in parts if name.startswith("pitr/jobs/diff/page/page.")]) == 3
    )


def test_an_installed_pitr_works(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    installed = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel],
        check=True,
    )
    # The dependencies of this very installation; nothing is downloaded.
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pitr(*arguments: str) -> str:
        command = [str(place / "bin" / "pitr"), *arguments, "--repo", str(tmp_path / "repository")]
        # Isolated from the checkout: neither its folder nor PYTHONPATH.
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
        ).stdout

    where = subprocess.run(
        [python, "-I", "-c", "import pitr; print(pitr.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert where.startswith(str(installed))
    assert json.loads(pitr("init", "--output", "json"))["repository"]["format"] == 2
    assert json.loads(pitr("list", "--output", "json")) == {"points": []}
    assert json.loads(pitr("catalog", "check", "--output", "json"))["ok"]
    assert json.loads(pitr("verify", "--output", "json"))["ok"]
