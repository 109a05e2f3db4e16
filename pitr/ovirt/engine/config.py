# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the engine's URL and login.

Each setting comes from the first of these that has it: the command line, the environment, the table [engine] of pitr's
configuration, and the section of `ovirt-img.conf`.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pitr.errors import PitrError, UsageError
from pitr.system.home import expanded, home_folder
from pitr.system.process import run

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
    """The names of a setting: an `option`, a `variable`, a `key` of the section, and one of the table [engine]."""

    option: str
    variable: str
    key: str
    configured: str


_ENGINE_URL = _Setting("--engine-url", "PITR_ENGINE_URL", "engine_url", "url")
_USERNAME = _Setting("--username", "PITR_USERNAME", "username", "username")
_PASSWORD_FILE = _Setting("--password-file", "PITR_PASSWORD_FILE", "password", "password_file")
_CAFILE = _Setting("--cafile", "PITR_CAFILE", "cafile", "cafile")
#: A password manager may ask you to unlock it.
_PASSWORD_COMMAND_TIMEOUT_S = 120.0


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
_NOT_CONFIGURED: Mapping[str, str] = {}


def load_config(
    settings: EngineSettings = _NO_SETTINGS,
    *,
    configured: Mapping[str, str] = _NOT_CONFIGURED,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    prompt: Callable[[str], str] | None = None,
) -> EngineConfig:
    """Return the URL and login of the engine, without connecting.

    The `settings` override `environ` (os.environ when None), which overrides `configured`, the table [engine] of
    pitr's configuration, which overrides the section of `config_file` (the user's `ovirt-img.conf` when None). If the
    settings name another engine or a section, `configured` is left out. If no source has a password, `prompt(text)`
    asks for it; `prompt` is None without a terminal.

    Raises UsageError that names the option, the variable and the key of the missing or wrong setting.
    """
    environ = os.environ if environ is None else environ
    path = config_file or _default_config_file(environ)
    if not is_configured_engine(settings, configured, environ):
        configured = _NOT_CONFIGURED
    section = settings.section or configured.get("section")
    keys = _read_section(path, section) if section is not None else {}

    def pick(given: Path | str | None, setting: _Setting) -> str | None:
        return (
            (str(given) if given else environ.get(setting.variable))
            or configured.get(setting.configured)
            or keys.get(setting.key)
            or None
        )

    def need(given: str | None, setting: _Setting, what: str) -> str:
        value = pick(given, setting)
        if value is None:
            raise UsageError(f"{what} is missing", _how_to_give(setting, path, section))
        return value

    url = api_url(need(settings.engine_url, _ENGINE_URL, "the engine's URL"))
    name = need(settings.username, _USERNAME, "the engine's user name")
    secret_file = str(settings.password_file or environ.get(_PASSWORD_FILE.variable) or "")
    if not secret_file and "password_command" in configured:
        password = _password_from(configured["password_command"])
    elif secret_file := secret_file or configured.get("password_file", ""):
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


def is_configured_engine(
    settings: EngineSettings, configured: Mapping[str, str], environ: Mapping[str, str] | None = None
) -> bool:
    """Return whether the settings mean the engine of `configured`, so that its login may go there."""
    environ = os.environ if environ is None else environ
    url = settings.engine_url or environ.get(_ENGINE_URL.variable)
    if not configured or settings.section is not None:
        return False
    return not url or ("url" in configured and api_url(url) == api_url(configured["url"]))


def secret_files(
    password_file: Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    configured: Mapping[str, str] = _NOT_CONFIGURED,
) -> list[Path]:
    """Return the files that can hold the engine's password: the password file, and the user's `ovirt-img.conf`."""
    environ = os.environ if environ is None else environ
    named = str(password_file or environ.get(_PASSWORD_FILE.variable) or configured.get("password_file", ""))
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


def _password_from(command: str) -> str:
    """Return the first line that the command prints. Raises UsageError; its output is in no message."""
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        return run(words, timeout_s=_PASSWORD_COMMAND_TIMEOUT_S).partition("\n")[0].rstrip("\r")
    except (ValueError, OSError, PitrError) as error:
        # The output of a failed command is in the message, and may hold the password.
        reason = error.message.partition(": ")[0] if isinstance(error, PitrError) else str(error)
        raise UsageError(
            f"password_command under [engine] printed no password: {reason}", "Run the command by hand."
        ) from None


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
            f"Check {_CAFILE.option}, {_CAFILE.variable} and the keys '{_CAFILE.key}'.",
        ) from None


def _boolean(text: str, path: Path, section: str | None) -> bool:
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise UsageError(f"'secure' in section [{section}] of {path} must be true or false, not {text!r}")
    return value


def _how_to_give(setting: _Setting, path: Path, section: str | None) -> str:
    where = f"of section [{section}]" if section is not None else "of a section (-c SECTION)"
    key = f"the key '{setting.key}' {where} in {path}"
    return (
        f"Set {setting.option}, the variable {setting.variable}, '{setting.configured}' under [engine] in pitr's "
        f"config.toml, or {key}."
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
