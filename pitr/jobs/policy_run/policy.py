# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies of the configuration as values (schema/config.schema.json says what their keys mean)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from pitr.errors import UsageError
from pitr.jobs.upkeep.retention import Retention
from pitr.times import parse_span, parse_wait

DEFAULT_NAME: Final = "default"
DEFAULT_EVENTS: Final = ("failure", "recovery", "unusual", "late")
_HOOK_TIMEOUT: Final = "10m"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which VMs: by name or id, by tag, or `every` one; the others are exceptions (patterns or ids; tags)."""

    vms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    every: bool = False
    exclude: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    exclude_disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HookCommands:
    """The shell commands of each hook, in order, and how long (seconds) one of them may run."""

    before_run: tuple[str, ...] = ()
    after_run: tuple[str, ...] = ()
    before_vm: tuple[str, ...] = ()
    after_vm: tuple[str, ...] = ()
    on_error: tuple[str, ...] = ()
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """The channels of notices, secrets still as `${NAME}` or in files, and the events that they tell."""

    urls: tuple[str, ...] = ()
    urls_file: str | None = None
    ping: str | None = None
    ping_file: str | None = None
    command: str | None = None
    events: tuple[str, ...] = DEFAULT_EVENTS

    @property
    def has_channel(self) -> bool:
        return bool(self.urls or self.urls_file or self.ping or self.ping_file or self.command)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run does. None means that the policy does not say it, an empty `retention` that nothing is removed.

    `sites` are the names of the sites that the policy copies to.
    """

    name: str
    choice: Choice
    retention: Retention = field(default_factory=Retention)
    full_every: timedelta | None = None
    sites: tuple[str, ...] = ()
    verify_every: timedelta | None = None
    drills: int = 0
    max_age: timedelta | None = None
    limit_rate: str | None = None
    workers: int | None = None
    jobs: int | None = None
    hooks: HookCommands = field(default_factory=HookCommands)
    notices: NoticeSettings = field(default_factory=NoticeSettings)

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any]) -> Policy:
        """Return the policy of a table that the schema allows. Raises UsageError if it chooses no VM."""
        choice = Choice(
            vms=_texts(table, "vms"),
            tags=_texts(table, "tags"),
            every=bool(table.get("all")),
            exclude=_texts(table, "exclude"),
            exclude_tags=_texts(table, "exclude_tags"),
            exclude_disks=_texts(table, "exclude_disks"),
        )
        if not (choice.vms or choice.tags or choice.every):
            raise UsageError(
                f"the policy {name} chooses no VM", f"Set vms, tags or all = true under [policy.{name}]."
            )
        return cls(
            name=name,
            choice=choice,
            retention=Retention.of({key: value for key, value in table.items() if key.startswith("keep_")}),
            full_every=_span(name, table, "full_every"),
            sites=_texts(table, "replicate"),
            verify_every=_span(name, table, "verify_every"),
            drills=table.get("drills", 0),
            max_age=_span(name, table, "max_age"),
            limit_rate=table.get("limit_rate"),
            workers=table.get("workers"),
            jobs=table.get("jobs"),
            hooks=_hooks(table.get("hooks", {})),
            notices=_notices(table.get("notify", {})),
        )


def choose_policy(policies: Mapping[str, Mapping[str, Any]], name: str | None) -> Policy:
    """Return the named policy; without a name the only one, or the one named "default". Raises UsageError."""
    known = ", ".join(sorted(policies))
    if not policies:
        raise UsageError(
            "the configuration has no policy",
            "Add [policy.nightly] to pitr's config.toml; docs/configuration.md has an example.",
        )
    if name is None:
        name = next(iter(policies)) if len(policies) == 1 else DEFAULT_NAME
        if name not in policies:
            raise UsageError("the configuration has several policies", f"Name one of them: {known}.")
    if name not in policies:
        raise UsageError(f"there is no policy {name!r}", f"The configuration has: {known}.")
    return Policy.of(name, policies[name])


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(table.get(key, ())))


def _span(name: str, table: Mapping[str, Any], key: str) -> timedelta | None:
    return parse_span(f"policy.{name}.{key}", table[key]) if key in table else None


def _hooks(table: Mapping[str, Any]) -> HookCommands:
    def commands(key: str) -> tuple[str, ...]:
        value = table.get(key, ())
        return (value,) if isinstance(value, str) else tuple(value)

    return HookCommands(
        before_run=commands("before_run"),
        after_run=commands("after_run"),
        before_vm=commands("before_vm"),
        after_vm=commands("after_vm"),
        on_error=commands("on_error"),
        timeout_s=parse_wait("hooks.timeout", table.get("timeout", _HOOK_TIMEOUT)),
    )


def _notices(setting: Mapping[str, Any] | list[str] | str) -> NoticeSettings:
    urls = [setting] if isinstance(setting, str) else setting
    table: Mapping[str, Any] = {"urls": urls} if isinstance(urls, list) else urls
    return NoticeSettings(
        urls=tuple(table.get("urls", ())),
        urls_file=table.get("urls_file"),
        ping=table.get("ping"),
        ping_file=table.get("ping_file"),
        command=table.get("command"),
        events=tuple(table.get("on", DEFAULT_EVENTS)),
    )
