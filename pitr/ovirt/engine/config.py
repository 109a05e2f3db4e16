# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the engine's URL and login: in the command line, the environment and `ovirt-img.conf`, in this order."""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pitr.errors import UsageError
from pitr.system.home import expanded, home_folder

_API_PATH = "/ovirt-engine/api"
_BOOLEANS = configparser.RawConfigParser.BOOLEAN_STATES


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The URL and login of one engine. `url` ends in /ovirt-engine/api; `cafile` None means the system's CAs."""

    url: str
    username: str
    password: str = field(repr=False)
    cafile: Path | None = None
    secure: bool = True


@dataclass(frozen=True, slots=True)
class _Setting:
    """The three names of a setting: an `option` of the command line, a `variable`, and a `key` of the section."""

    option: str
    variable: str
    key: str


_ENGINE_URL = _Setting("--engine-url", "PITR_ENGINE_URL", "engine_url")
_USERNAME = _Setting("--username", "PITR_USERNAME", "username")
_PASSWORD_FILE = _Setting("--password-file", "PITR_PASSWORD_FILE", "password")
_CAFILE = _Setting("--cafile", "PITR_CAFILE", "cafile")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings from the command line, None if not given. `section` is a section of `ovirt-img.conf`."""

    section: str | None = None
    engine_url: str | None = None
    username: str | None = None
    password_file: Path | str | None = None
    cafile: Path | str | None = None
    insecure: bool = False


_NO_SETTINGS = EngineSettings()


def load_config(
    settings: EngineSettings = _NO_SETTINGS,
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    prompt: Callable[[str], str] | None = None,
) -> EngineConfig:
    """Return the URL and login of the engine, without connecting.

    The `settings` override `environ` (os.environ when None), which overrides the section of `config_file`
    (the user's `ovirt-img.conf` when None). If none of them has a password, `prompt(text)` asks for it;
    `prompt` is None without a terminal.

    Raises UsageError that names the option, the variable and the key of the missing or wrong setting.
    """
    environ = os.environ if environ is None else environ
    path = config_file or _default_config_file(environ)
    section = settings.section
    keys = _read_section(path, section) if section is not None else {}

    def pick(given: Path | str | None, setting: _Setting) -> str | None:
        return str(given) if given else environ.get(setting.variable) or keys.get(setting.key) or None

    def need(given: str | None, setting: _Setting, what: str) -> str:
        value = pick(given, setting)
        if value is None:
            raise UsageError(f"{what} is missing", _how_to_give(setting, path, section))
        return value

    url = api_url(need(settings.engine_url, _ENGINE_URL, "the engine's URL"))
    name = need(settings.username, _USERNAME, "the engine's user name")
    secret_file = (
        str(settings.password_file) if settings.password_file else environ.get(_PASSWORD_FILE.variable)
    )
    if secret_file:
        password = _read_password(expanded(secret_file))
    elif keys.get("password"):
        password = keys["password"]
    elif prompt is not None:
        password = prompt(f"Password of {name}: ")
    else:
        raise UsageError("the engine's password is missing", _how_to_give(_PASSWORD_FILE, path, section))
    if not password:
        raise UsageError("the engine's password is empty", _how_to_give(_PASSWORD_FILE, path, section))
    return EngineConfig(
        url=url,
        username=name,
        password=password,
        cafile=_checked_cafile(pick(settings.cafile, _CAFILE)),
        secure=not settings.insecure and _boolean(keys.get("secure", "true"), path, section),
    )


def secret_files(password_file: Path | None, environ: Mapping[str, str] | None = None) -> list[Path]:
    """Return the files that can hold the engine's password: the password file, and the user's `ovirt-img.conf`."""
    environ = os.environ if environ is None else environ
    named = str(password_file) if password_file else environ.get(_PASSWORD_FILE.variable)
    return [*([expanded(named)] if named else []), _default_config_file(environ)]


def api_url(text: str) -> str:
    """Return the URL of the engine's API for `text`, which can end after the host, /ovirt-engine or /api.

    Raises UsageError if `text` is not an http(s) URL, or contains a password.
    """
    example = "Write it like this: https://engine.example.com"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the engine's URL is not a URL: {error}", example) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the engine's URL must not contain a user name or password",
            "Give them with --username and --password-file.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"the engine's URL is not an http or https URL: {text}", example)
    if parts.path.rstrip("/") not in ("", "/ovirt-engine", _API_PATH) or parts.query or parts.fragment:
        raise UsageError(f"the engine's URL must not have this path: {text}", example)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{_API_PATH}"


def _default_config_file(environ: Mapping[str, str]) -> Path:
    folder = environ.get("XDG_CONFIG_HOME")
    if folder:
        return Path(folder) / "ovirt-img.conf"
    home = environ.get("HOME")
    return (Path(home) if home else home_folder()) / ".config" / "ovirt-img.conf"


def _read_section(path: Path, section: str) -> dict[str, str]:
    # Passwords can contain '%', so interpolation is off.
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration file {path}: {_reason(error)}") from None
    except configparser.Error as error:
        # Only name the class, because the message would show the line, which can contain the password.
        raise UsageError(f"the configuration file {path} is not valid: {type(error).__name__}") from None
    if not parser.has_section(section):
        known = ", ".join(parser.sections()) or "none"
        raise UsageError(f"section [{section}] not found in {path}", f"Its sections: {known}.")
    return dict(parser.items(section))


def _read_password(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the password file {path}: {_reason(error)}") from None


def _checked_cafile(text: str | None) -> Path | None:
    if text is None:
        return None
    path = expanded(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise UsageError(
            f"cannot read the CA file {path}: {_reason(error)}",
            f"Check {_CAFILE.option}, {_CAFILE.variable} or the key '{_CAFILE.key}'.",
        ) from None


def _boolean(text: str, path: Path, section: str | None) -> bool:
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise UsageError(f"'secure' in section [{section}] of {path} must be true or false, not {text!r}")
    return value


def _how_to_give(setting: _Setting, path: Path, section: str | None) -> str:
    where = f"of section [{section}]" if section is not None else "of a section (-c SECTION)"
    key = f"the key '{setting.key}' {where} in {path}"
    return f"Set {setting.option}, the variable {setting.variable}, or {key}."


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
