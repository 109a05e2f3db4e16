# SPDX-License-Identifier: GPL-2.0-or-later
"""The secrets of notices: read from files and variables, and kept out of everything that pitr prints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import quote, urlsplit

from pitr.errors import UsageError
from pitr.jobs.policy_run.policy import NoticeSettings
from pitr.system.home import expanded

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
#: What pitr itself uses to log in; CREDENTIALS_DIRECTORY is the folder of systemd's LoadCredential=.
_OWN_SECRETS: Final = re.compile(
    r"PITR_(PASSWORD|USERNAME|TOKEN)\w*|CREDENTIALS_DIRECTORY|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN)"
)

#: URLs that begin with the name of a host. In other services a token may stand there.
_WITH_HOST: Final = frozenset(
    f"{scheme}{s}"
    for scheme in (
        "mailto",
        "json",
        "xml",
        "form",
        "http",
        "ntfy",
        "gotify",
        "matrix",
        "mmost",
        "rocket",
        "syslog",
    )
    for s in ("", "s")
)
_SHORTEST_SECRET: Final = 6


def notice_urls(settings: NoticeSettings, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the URLs of services, complete with their secrets. Raises UsageError for a missing variable or file."""
    texts = [*settings.urls, *(_lines(settings.urls_file) if settings.urls_file else ())]
    return [_filled(text, environ) for text in texts]


def ping_url(settings: NoticeSettings, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL to ping, complete with its secrets; None if there is none. Raises UsageError."""
    text = settings.ping
    if text is None and settings.ping_file:
        text = next(iter(_lines(settings.ping_file)), "")
        if not text:
            raise UsageError(f"the file {settings.ping_file} of notify.ping_file is empty")
    if text is None:
        return None
    url = _filled(text, environ).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError("the URL of notify.ping is not an http or https URL")
    return url


def without_secrets(settings: NoticeSettings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without pitr's login and without the variables that the notices use."""
    environ = os.environ if environ is None else environ
    texts = [*settings.urls, settings.ping or ""]
    for path in (settings.urls_file, settings.ping_file):
        # The notices themselves tell why a file cannot be read.
        with suppress(UsageError):
            texts += _lines(path) if path else ()
    used = {name for text in texts for name in _VARIABLE.findall(text)}
    return {
        name: value
        for name, value in environ.items()
        if name not in used and not _OWN_SECRETS.fullmatch(name)
    }


def masked_service(url: str) -> str:
    """Return the URL of a service as pitr may show it: only its scheme, as some have their token as host."""
    scheme, separator, _ = url.partition("://")
    return f"{scheme}://…" if separator and "${" not in scheme else _only_variables(url)


def masked_ping(url: str) -> str:
    """Return a URL to ping as pitr may show it: without the path, which is the secret."""
    if "${" in url.partition("://")[2].partition("/")[0] or "://" not in url:
        return _only_variables(url)
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}/…"


def _only_variables(text: str) -> str:
    names = "".join(f"${{{name}}}" for name in _VARIABLE.findall(text))
    return names or "…"


def hides(text: str, secrets: Iterable[str]) -> bool:
    """Return whether a text contains no part of these URLs that could be a secret."""
    return not any(part in text for secret in secrets for part in _secret_parts(secret))


def _secret_parts(url: str) -> Iterator[str]:
    scheme, _, rest = url.partition("://")
    login, _, place = rest.rpartition("@")
    host, *others = re.split(r"[/?&=#]", place)
    yield from (part for part in (login, *login.split(":")) if part)
    if scheme.lower() not in _WITH_HOST:
        yield host
    # Short words such as "to" are no secrets, and would hide every message.
    yield from (part for part in others if len(part) >= _SHORTEST_SECRET)


def _filled(text: str, environ: Mapping[str, str] | None) -> str:
    environ = os.environ if environ is None else environ
    for name in _VARIABLE.findall(text):
        if not environ.get(name):
            raise UsageError(f"the notices need the variable {name}, which is not set", f"Set {name}.")
    # A password may have any characters, also those that end it in a URL.
    before, separator, login, after = _around_login(text)
    quoted = _VARIABLE.sub(lambda match: quote(environ[match[1]], safe=""), login)
    return "".join((_replaced(before, environ), separator, quoted, _replaced(after, environ)))


def _around_login(text: str) -> tuple[str, str, str, str]:
    """Split a URL before and after its user and password; both may be missing."""
    scheme, separator, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login = authority.rpartition("@")[0]
    return scheme, separator, login, rest.removeprefix(login)


def _replaced(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: environ[match[1]], text)


def _lines(path: str) -> list[str]:
    try:
        lines = expanded(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        raise UsageError(f"cannot read the file {path} of the notices: {reason}") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
