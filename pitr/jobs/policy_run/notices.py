# SPDX-License-Identifier: GPL-2.0-or-later
"""Send notices: to services through apprise, to a ping service, and to a command.

Nothing here fails a run. Secrets are in no message.
"""

from __future__ import annotations

import importlib.util
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from pitr.errors import PitrError, ProgramFailed, ProgramMissing
from pitr.jobs.policy_run import secrets
from pitr.jobs.policy_run.policy import NoticeSettings
from pitr.system.limited_shell import run_limited
from pitr.system.retry import retrying
from pitr.version import __version__

Event = Literal["failure", "recovery", "unusual", "late", "success", "test"]
Sign = Literal["start", "success", "fail"]

_TIMEOUT_S: Final = 15.0
_PING_RETRIES: Final = 2
_COMMAND_TIMEOUT_S: Final = 120.0
#: Services cut longer texts in their own ways.
_MOST_CHARACTERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell: the event, a subject of one line, and the text."""

    event: Event
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The result for one channel; `via` names the channel without its secrets."""

    via: str
    event: str
    error: PitrError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def has_apprise() -> bool:
    """Return whether the library is installed that sends to services."""
    return importlib.util.find_spec("apprise") is not None


def apprise_missing() -> ProgramMissing:
    """Return the error for the missing library."""
    return ProgramMissing(
        "notices to the URLs of services need apprise, which is not installed",
        "Install it beside pitr: pip install 'pitr[notice]'",
    )


def send(settings: NoticeSettings, policy: str, notice: Notice) -> list[Sent]:
    """Send a notice to all services and to the command; return the result of each. Raises Interrupted."""
    return [*_to_services(settings, notice), *_to_command(settings, policy, notice)]


def ping(settings: NoticeSettings, sign: Sign, text: str = "") -> list[Sent]:
    """Tell the ping service, if there is one, that a run started or how it ended. Raises Interrupted."""
    event = {"start": "start", "success": "success", "fail": "failure"}[sign]
    try:
        url = secrets.ping_url(settings)
    except PitrError as error:
        return [Sent("ping", event, error)]
    if url is None:
        return []
    via = f"ping {secrets.masked_ping(url)}"
    # A service that counts the time without a ping takes the plain URL for success.
    return [Sent(via, event, _requested(url if sign == "success" else f"{url}/{sign}", text))]


def _requested(url: str, text: str) -> PitrError | None:
    request = urllib.request.Request(  # noqa: S310 - ping_url allows http and https only
        url,
        data=text[:_MOST_CHARACTERS].encode(),
        headers={"User-Agent": f"pitr/{__version__}", "Content-Type": "text/plain; charset=utf-8"},
    )

    def attempt() -> None:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            answer.read(1024)

    try:
        retrying(attempt, transient=_is_transient, retries=_PING_RETRIES)
    except urllib.error.HTTPError as error:
        return PitrError(f"the server answers {error.code} {error.reason}", "Check the URL.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return PitrError(
            f"the server is unreachable: {getattr(reason, 'strerror', None) or type(reason).__name__}"
        )
    return None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return isinstance(error, OSError)


def _to_services(settings: NoticeSettings, notice: Notice) -> Iterator[Sent]:
    if not settings.urls and not settings.urls_file:
        return
    try:
        urls = secrets.notice_urls(settings)
        if not has_apprise():
            raise apprise_missing()
    except PitrError as error:
        yield Sent("services", notice.event, error)
        return
    for url in urls:
        via = secrets.masked_service(url)
        yield Sent(via, notice.event, _delivered(url, notice))


def _delivered(url: str, notice: Notice) -> PitrError | None:
    """Send a notice to one service; return what failed. The library logs the reason, which may hold secrets."""
    import apprise  # noqa: PLC0415 - installed only for this

    with _collected_log(apprise.logger.name) as lines:
        service = apprise.Apprise()
        if not service.add(url):
            return PitrError(
                "apprise does not know this kind of URL", "See the list of URLs in apprise's manual."
            )
        kind = apprise.NotifyType
        kinds: Mapping[str, Any] = {
            "failure": kind.FAILURE,
            "recovery": kind.SUCCESS,
            "success": kind.SUCCESS,
            "unusual": kind.WARNING,
            "late": kind.WARNING,
        }
        sent = service.notify(
            title=notice.subject,
            body=notice.text[:_MOST_CHARACTERS],
            notify_type=kinds.get(notice.event, kind.INFO),
            body_format=apprise.NotifyFormat.TEXT,
        )
    if sent:
        return None
    reasons = [line for line in lines if secrets.hides(line, [url])]
    return PitrError(
        f"apprise could not deliver it: {'; '.join(reasons) or 'the service gave no reason that is free of secrets'}",
        "Check the URL, and try it with 'pitr notice test'.",
    )


@contextmanager
def _collected_log(name: str) -> Iterator[list[str]]:
    """Collect what a library logs while the block runs; nothing of it is printed."""
    lines: list[str] = []
    logger = logging.getLogger(name)
    collector = logging.Handler(logging.WARNING)
    collector.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def _to_command(settings: NoticeSettings, policy: str, notice: Notice) -> Iterator[Sent]:
    if settings.command is None:
        return
    told = {"PITR_EVENT": notice.event, "PITR_SUBJECT": notice.subject, "PITR_POLICY": policy}
    error: PitrError | None = None
    try:
        ended = run_limited(
            settings.command,
            env={**secrets.without_secrets(settings), **told},
            timeout_s=_COMMAND_TIMEOUT_S,
            text=f"{notice.text}\n",
        )
        if ended.code:
            error = ProgramFailed(f"it exited with {ended.code}: {ended.tail or 'without output'}")
    except ProgramFailed as failed:
        error = failed
    yield Sent("command", notice.event, error)
