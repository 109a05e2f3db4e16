# SPDX-License-Identifier: GPL-2.0-or-later
"""The sites of the configuration: places for copies of the repository, and how to reach them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pitr.cli import repository_location
from pitr.errors import UsageError
from pitr.system.home import expanded
from pitr.times import parse_span

if TYPE_CHECKING:
    from pitr.cli.config import Settings
    from pitr.repository.location import Location
    from pitr.repository.store.s3 import S3Location

_MAX_BEHIND: Final = "2d"


@dataclass(frozen=True, slots=True)
class ConfiguredSite:
    """A site: its place as `pitr replicate` names it, and how far (time) it may be behind."""

    name: str
    place: str
    max_behind: timedelta


def reachable(location: Location, settings: Settings) -> Location:
    """Return the location with what the configuration and the environment say about reaching it. Raises UsageError.

    The settings of a site with the same URL count, else those of [repository].
    """
    if not isinstance(location, Path) and location.endpoint is None:
        for name, table in settings.sites.items():
            named = _named(table)
            if not isinstance(named, Path) and named.url == location.url:
                of_site: S3Location = _configured(name, table)
                return of_site.with_environment(os.environ)
    return repository_location.reachable(location, settings.repository)


def location_of(name: str, settings: Settings) -> Location:
    """Return where a site is. Raises UsageError for an unknown one."""
    if name not in settings.sites:
        known = ", ".join(sorted(settings.sites)) or "none"
        raise UsageError(
            f"the configuration has no site {name!r}", f"Add [site.{name}] with its url. The sites: {known}."
        )
    location = _configured(name, settings.sites[name])
    return location if isinstance(location, Path) else location.with_environment(os.environ)


def configured_sites(settings: Settings) -> Iterator[ConfiguredSite]:
    """Yield the sites by name. Raises UsageError."""
    from pitr.repository.location import full_text  # noqa: PLC0415 - `pitr --help` must start quickly

    for name, table in sorted(settings.sites.items()):
        span = parse_span(f"site.{name}.max_behind", table.get("max_behind", _MAX_BEHIND))
        yield ConfiguredSite(name, full_text(_named(table)), span)


def _named(table: Any) -> Any:
    url: str = table["url"]
    return repository_location.parsed(str(expanded(url)) if url.startswith("~") else url)


def _configured(name: str, table: Any) -> Any:
    settings = {key: value for key, value in table.items() if key != "max_behind"}
    return repository_location.configured(settings, f"site.{name}")
