# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file: settings that you always use.

pitr reads `config.toml` from /etc/pitr and from the user's `pitr` folder. For each key, the user's file overrides the
system's, and options and environment variables override both. PITR_CONFIG names one file to read instead.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.errors import UsageError
from pitr.system.home import expanded, home_folder
from pitr.system.target_path import repository_folder

SYSTEM_FILE = Path("/etc/pitr/config.toml")
_RETENTION = ("keep_last", "keep_daily", "keep_weekly", "keep_monthly")
_MOST_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """The configured settings; None or empty if not set. `files` lists the configuration files.

    `retention` holds the rules of `pitr prune`: keep_last, keep_daily, keep_weekly and keep_monthly are numbers,
    keep_within is a time span such as "30d". The three commands write, read and delete external data.
    """

    repository: Path | None = None
    engine_section: str | None = None
    vms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    workers: int | None = None
    jobs: int | None = None
    retention: Mapping[str, int | str] = field(default_factory=dict)
    put_command: str | None = None
    get_command: str | None = None
    delete_command: str | None = None
    files: tuple[Path, ...] = ()


def load_settings(environ: Mapping[str, str] | None = None, system_file: Path = SYSTEM_FILE) -> Settings:
    """Read the configuration files. Raises UsageError with the file and the invalid key.

    A file may be missing unless PITR_CONFIG names it.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("PITR_CONFIG")
    paths = [expanded(named)] if named else [system_file, _user_file(environ)]
    merged: dict[str, Any] = {}
    read: list[Path] = []
    for path in paths:
        document = _read(path, must_exist=bool(named))
        if document is not None:
            merged |= _checked(path, document)
            read.append(path)
    return Settings(**merged, files=tuple(read))


def _user_file(environ: Mapping[str, str]) -> Path:
    folder = environ.get("XDG_CONFIG_HOME")
    home = environ.get("HOME")
    base = Path(folder) if folder else (Path(home) if home else home_folder()) / ".config"
    return base / "pitr" / "config.toml"


def _read(path: Path, *, must_exist: bool) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if not must_exist:
            return None
        raise UsageError(f"configuration file {path} not found", "Correct or unset PITR_CONFIG.") from None
    except OSError as error:
        raise UsageError(f"cannot read configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration file {path} is not valid TOML: {error}") from None


def _checked(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of one file as arguments of Settings."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    settings: dict[str, Any] = {}
    retention: dict[str, int | str] = {}
    for key, value in flat.items():
        if key not in _KEYS:
            raise UsageError(
                f"{path}: unknown setting {key!r}", f"Valid settings: {', '.join(sorted(_KEYS))}."
            )
        name, check = _KEYS[key]
        try:
            checked = check(value)
        except ValueError as error:
            raise UsageError(f"{path}: {key} {error}, not {value!r}") from None
        if name == "retention":
            retention[key.partition(".")[2]] = checked
        else:
            settings[name] = checked
    return settings | ({"retention": retention} if retention else {})


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError("must be a list of strings")
    return tuple(dict.fromkeys(value))


def _path(value: Any) -> Path:
    return repository_folder(str(expanded(_string(value))) if str(value).startswith("~") else _string(value))


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("must be a number of at least 1")
    return value


def _workers(value: Any) -> int:
    if _count(value) > _MOST_WORKERS:
        raise ValueError(f"must be a number from 1 to {_MOST_WORKERS}")
    return int(value)


_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "repository": ("repository", _path),
    "workers": ("workers", _workers),
    "jobs": ("jobs", _workers),
    "engine.section": ("engine_section", _string),
    "backup.vms": ("vms", _strings),
    "backup.tags": ("tags", _strings),
    **{f"retention.{key}": ("retention", _count) for key in _RETENTION},
    "retention.keep_within": ("retention", _string),
    "store.put_command": ("put_command", _string),
    "store.get_command": ("get_command", _string),
    "store.delete_command": ("delete_command", _string),
}
