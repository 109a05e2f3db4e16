# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr config show` and `pitr config check`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pitr.cli import config, sites
from pitr.cli.config import Settings
from pitr.cli.config_check import Problem
from pitr.cli.display import tables
from pitr.cli.options import DEFAULT_WORKERS, Common, with_common
from pitr.errors import UsageError
from pitr.jobs.policy_run import notices, secrets
from pitr.jobs.policy_run.policy import Policy
from pitr.ovirt.engine.config import api_url, is_configured_engine
from pitr.system.home import expanded

app = typer.Typer(help="Show or check the configuration.", no_args_is_help=True, rich_markup_mode=None)

_DEFAULT = "default"
#: The options and variables that override keys of the configuration.
_ENGINE_NAMES = {
    "url": ("engine_url", "--engine-url", "PITR_ENGINE_URL"),
    "username": ("username", "--username", "PITR_USERNAME"),
    "password_file": ("password_file", "--password-file", "PITR_PASSWORD_FILE"),
    "cafile": ("cafile", "--cafile", "PITR_CAFILE"),
    "section": ("config", "--config", ""),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that applies: its key, its value without secrets, and where it comes from."""

    key: str
    value: Any
    source: str


@app.command("show")
@with_common(engine=True)
def show(common: Common) -> None:
    """Show all settings that apply, and where each comes from.

    Options and variables override the configuration, and the user's file overrides the system's. Secrets are masked.

    Examples: pitr config show; pitr config show --config-file /etc/pitr/config.toml --output json
    """
    settings = common.settings
    found = list(_effective(common, settings))
    if common.out.json:
        common.out.document(
            {
                "files": [str(path) for path in settings.files],
                "settings": [{"key": each.key, "value": each.value, "source": each.source} for each in found],
            }
        )
        return
    common.out.show(
        tables.table(
            ("Setting", "Value", "From"),
            ((each.key, _in_words(each.value), each.source) for each in found),
            least={"Value": ("fold", 24), "From": ("fold", 16)},
        )
    )


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _effective(common: Common, settings: Settings) -> Iterator[Setting]:
    def from_file(key: str) -> str:
        return str(settings.sources[key])

    if common.repo is not None:
        given = os.environ.get("PITR_REPO") == str(common.repo)
        yield Setting("repository", str(common.repo), "PITR_REPO" if given else "--repo")
    elif settings.repository is not None:
        yield Setting("repository", str(settings.repository), from_file("repository"))
    yield from _engine(common, settings)
    for key, value, default in (
        ("workers", settings.workers, DEFAULT_WORKERS),
        ("jobs", settings.jobs, 1),
    ):
        yield Setting(key, value or default, from_file(key) if value else _DEFAULT)
    for key in ("vms", "tags"):
        if f"backup.{key}" in settings.sources:
            yield Setting(f"backup.{key}", list(getattr(settings, key)), from_file(f"backup.{key}"))
    tables = {"retention": settings.retention, "encryption": settings.encryption}
    for key, value in (pair for name, table in tables.items() for pair in _flat(name, table)):
        yield Setting(key, value, from_file(key))
    for key in ("put_command", "get_command", "delete_command"):
        if f"store.{key}" in settings.sources:
            yield Setting(f"store.{key}", getattr(settings, key), from_file(f"store.{key}"))
    for name, policy in settings.policies.items():
        for key, value in _flat(f"policy.{name}", policy):
            yield Setting(key, value, from_file(key))
    for name, site in settings.sites.items():
        for key, value in _flat(f"site.{name}", site):
            yield Setting(key, value, from_file(key))


def _engine(common: Common, settings: Settings) -> Iterator[Setting]:
    configured = settings.engine
    if not is_configured_engine(common.engine_settings(), configured):
        configured = {}
    for key, (attribute, option, variable) in _ENGINE_NAMES.items():
        given = getattr(common, attribute)
        if given:
            yield Setting(f"engine.{key}", str(given), option)
        elif variable and os.environ.get(variable):
            yield Setting(f"engine.{key}", os.environ[variable], variable)
        elif key in configured:
            yield Setting(f"engine.{key}", configured[key], str(settings.sources[f"engine.{key}"]))
    if "password_command" in configured and not (
        common.password_file or os.environ.get("PITR_PASSWORD_FILE")
    ):
        source = str(settings.sources["engine.password_command"])
        yield Setting("engine.password_command", configured["password_command"], source)


def _flat(parent: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a policy by their keys, without secrets."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{parent}.{key}", value)
        elif key in ("urls", "notify"):
            urls = [value] if isinstance(value, str) else value
            yield f"{parent}.{key}", [secrets.masked_service(url) for url in urls]
        elif key == "ping":
            yield f"{parent}.{key}", secrets.masked_ping(value)
        else:
            yield f"{parent}.{key}", value


@app.command("check")
@with_common(engine=True)
def check(common: Common) -> None:
    """Check the configuration, without the engine and the repository.

    pitr checks keys, types and values, and the policies. Mistakes exit with 2. Warnings are about this machine and this
    user: a file that cannot be read, a variable that is not set. 'pitr doctor' tries engine and repository.

    Example: pitr config check --config-file pitr.toml
    """
    files = config.read_files(named=common.config_file)
    mistakes = [(file.path, problem) for file in files for problem in file.problems]
    warnings: list[Problem] = []
    if not mistakes:
        settings = common.settings
        mistakes = list(_wrong_together(settings))
        warnings = list(_doubtful(settings))
    if common.out.json:
        common.out.document(
            {
                "ok": not mistakes,
                "files": [str(file.path) for file in files],
                "problems": [{"file": str(path), **_document(problem)} for path, problem in mistakes],
                "warnings": [_document(problem) for problem in warnings],
            }
        )
    else:
        _tell(common, [file.path for file in files], mistakes, warnings)
    if mistakes:
        raise typer.Exit(UsageError.exit_code)


def _document(problem: Problem) -> dict[str, str]:
    return {"key": problem.key, "message": problem.message, "advice": problem.advice}


def _tell(
    common: Common,
    files: Sequence[Path],
    mistakes: Sequence[tuple[Path, Problem]],
    warnings: Sequence[Problem],
) -> None:
    for problem in warnings:
        common.out.notify(f"warning: {problem.message}. {problem.advice}".strip())
    for path, problem in mistakes:
        common.out.notify(f"{path}: {problem.message}. {problem.advice}".strip())
    if not mistakes:
        where = ", ".join(map(str, files)) or "there is no configuration file"
        common.out.show(f"No mistakes found: {where}.")


def _wrong_together(settings: Settings) -> Iterator[tuple[Path, Problem]]:
    """Yield the mistakes of values that the schema allows."""
    for name, table in settings.policies.items():
        path = next(file for key, file in settings.sources.items() if key.startswith(f"policy.{name}."))
        try:
            for site in Policy.of(name, table).sites:
                sites.location_of(site, settings)
        except UsageError as error:
            yield path, Problem(f"policy.{name}", error.message, error.advice)
    if "url" in settings.engine:
        try:
            api_url(settings.engine["url"])
        except UsageError as error:
            advice = error.advice.replace("--username and --password-file", "username and password_file")
            yield settings.sources["engine.url"], Problem("engine.url", error.message, advice)


def _doubtful(settings: Settings) -> Iterator[Problem]:
    """Yield what may be wrong on this machine or for this user."""
    if isinstance(settings.repository, Path) and not settings.repository.is_dir():
        yield Problem(
            "repository", f"the repository {settings.repository} does not exist", "Run 'pitr init'."
        )
    for key in ("password_file", "cafile"):
        if key in settings.engine and not os.access(expanded(settings.engine[key]), os.R_OK):
            yield Problem(f"engine.{key}", f"cannot read {settings.engine[key]} of engine.{key}")
    for name, table in settings.policies.items():
        try:
            policy = Policy.of(name, table)
        except UsageError:
            continue
        if policy.retention.is_empty:
            yield Problem(
                f"policy.{name}",
                f"the policy {name} has no rule for old points, so they stay for ever",
                "Set keep_daily or another rule under it.",
            )
        for read in (secrets.notice_urls, secrets.ping_url):
            try:
                read(policy.notices)
            except UsageError as error:
                yield Problem(f"policy.{name}.notify", f"policy {name}: {error.message}", error.advice)
        if (policy.notices.urls or policy.notices.urls_file) and not notices.has_apprise():
            missing = notices.apprise_missing()
            yield Problem(f"policy.{name}.notify.urls", missing.message, missing.advice)
