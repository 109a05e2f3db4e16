# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file: settings that you always use, and policies.

pitr reads `config.toml` from /etc/pitr and from the user's `pitr` folder. For each key, the user's file overrides the
system's, and options and environment variables override both. The tables [engine], [retention] and [encryption], each
policy and each site come whole from one file, so that two engines or two sets of rules are never mixed. --config-file
or PITR_CONFIG names one file to read instead.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pitr.cli import repository_location
from pitr.cli.config_check import Problem, problems
from pitr.errors import UsageError
from pitr.system.home import expanded, home_folder

if TYPE_CHECKING:
    from pitr.repository.location import Location

SYSTEM_FILE = Path("/etc/pitr/config.toml")


@dataclass(frozen=True, slots=True)
class Settings:
    """The configured settings; None or empty if not set. `files` lists the configuration files.

    `engine` is the table [engine], `retention` the rules of `pitr prune` by their names (keep_last: a number,
    keep_within: a time span such as "30d"). `policies` has the table of each policy by its name
    (pitr/jobs/policy_run/policy.py reads it), `sites` that of each site (pitr/cli/sites.py). The three commands
    write, read and delete external data. `sources` has
    the file of each setting by its key ("policy.nightly.drills").
    """

    repository: Location | None = None
    engine: Mapping[str, str] = field(default_factory=dict)
    vms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    workers: int | None = None
    jobs: int | None = None
    retention: Mapping[str, int | str] = field(default_factory=dict)
    encryption: Mapping[str, Any] = field(default_factory=dict)
    put_command: str | None = None
    get_command: str | None = None
    delete_command: str | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file that exists: its settings, and all that is wrong with them."""

    path: Path
    document: Mapping[str, Any]
    problems: tuple[Problem, ...]


def load_settings(
    environ: Mapping[str, str] | None = None, system_file: Path = SYSTEM_FILE, *, named: Path | None = None
) -> Settings:
    """Read the configuration files. Raises UsageError with the file and the invalid key.

    A file may be missing unless `named` (--config-file) or PITR_CONFIG names it.
    """
    files = read_files(environ, system_file, named=named)
    for file in files:
        if file.problems:
            first = file.problems[0]
            more = len(file.problems) - 1
            hint = f" 'pitr config check' shows {more} more." if more else ""
            raise UsageError(f"{file.path}: {first.message}", f"{first.advice}{hint}".strip())
    return _merged(files)


def read_files(
    environ: Mapping[str, str] | None = None, system_file: Path = SYSTEM_FILE, *, named: Path | None = None
) -> list[ConfigFile]:
    """Read the configuration files that exist, the most important last, and list what is wrong in them.

    Raises UsageError for a file that cannot be read or is not TOML, and for a named file that is missing.
    """
    environ = os.environ if environ is None else environ
    if named is None and environ.get("PITR_CONFIG"):
        named = expanded(environ["PITR_CONFIG"])
    paths = [named] if named is not None else [system_file, user_file(environ)]
    files = []
    for path in paths:
        stored = _stored(path, must_exist=named is not None)
        if stored is not None:
            files.append(_parsed(path, stored))
    return files


def user_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the user's configuration file."""
    folder = environ.get("XDG_CONFIG_HOME")
    home = environ.get("HOME")
    base = Path(folder) if folder else (Path(home) if home else home_folder()) / ".config"
    return base / "pitr" / "config.toml"


def _stored(path: Path, *, must_exist: bool) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not must_exist:
            return None
        raise UsageError(
            f"configuration file {path} not found", "Correct --config-file or PITR_CONFIG, or unset it."
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read configuration file {path}: {error.strerror}") from None


@lru_cache(maxsize=8)
def _parsed(path: Path, stored: bytes) -> ConfigFile:
    """Parse a file. A command asks for its settings several times."""
    try:
        document = tomllib.loads(stored.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration file {path} is not valid TOML: {error}") from None
    found = problems(document) if document else []
    if not found:
        found = _beyond_the_schema(document)
    return ConfigFile(path, document, tuple(found))


def _beyond_the_schema(document: Mapping[str, Any]) -> list[Problem]:
    """Return what a schema cannot say."""
    found = []
    try:
        repository_location.configured(document.get("repository", "/"))
    except UsageError as error:
        found.append(Problem("repository", f"repository: {error.message}", error.advice))
    if {"password_file", "password_command"} <= document.get("engine", {}).keys():
        found.append(
            Problem(
                "engine.password_command",
                "engine.password_file and engine.password_command exclude each other",
                "Remove one of them.",
            )
        )
    return found


def _merged(files: list[ConfigFile]) -> Settings:
    merged: dict[str, Any] = {}
    policies: dict[str, Mapping[str, Any]] = {}
    sites: dict[str, Mapping[str, Any]] = {}
    sources: dict[str, Path] = {}
    for file in files:
        document = dict(file.document)
        for name, policy in document.pop("policy", {}).items():
            policies[name] = policy
            _note_sources(sources, f"policy.{name}", policy, file.path)
        for name, site in document.pop("site", {}).items():
            sites[name] = site
            _note_sources(sources, f"site.{name}", site, file.path)
        for name in ("engine", "retention", "encryption"):
            if name in document:
                merged[name] = document.pop(name)
                _note_sources(sources, name, merged[name], file.path)
        for name in ("backup", "store"):
            document |= {f"{name}.{key}": value for key, value in document.pop(name, {}).items()}
        merged |= {key.partition(".")[2] or key: value for key, value in document.items()}
        sources |= dict.fromkeys(document, file.path)
    if "repository" in merged:
        merged["repository"] = repository_location.configured(merged["repository"])
    for name in {"vms", "tags"} & merged.keys():
        merged[name] = tuple(dict.fromkeys(merged[name]))
    return Settings(
        **merged,
        policies=policies,
        sites=sites,
        files=tuple(file.path for file in files),
        sources=sources,
    )


def _note_sources(sources: dict[str, Path], table: str, settings: Mapping[str, Any], path: Path) -> None:
    """Note the file of each setting of a table; the table of another file is gone."""
    for key in [key for key in sources if key.startswith(f"{table}.")]:
        del sources[key]
    for key, value in settings.items():
        if isinstance(value, dict):
            sources |= {f"{table}.{key}.{inner}": path for inner in value}
        else:
            sources[f"{table}.{key}"] = path
