# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in the shell: VM names and point ids from the catalog of a repository in a folder, and policies.

A completion must be quick and must never print an error: without a catalog that can be read, nothing is offered.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.models import ParameterInfo

from pitr import times
from pitr.cli import repository_location
from pitr.cli.config import load_settings

if TYPE_CHECKING:
    from pitr.repository.catalog import Catalog

_MOST_POINTS = 20

Complete = Callable[[typer.Context, str], list[tuple[str, str]]]


def is_of_environment(context: typer.Context, name: str) -> bool:
    """Return whether the value of a parameter comes from a variable, and was not typed."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def offer(parameter: inspect.Parameter) -> None:
    """Let the shell complete VMs and points, wherever the help of a parameter speaks of one."""
    for info in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(info, ParameterInfo) and info.autocompletion is None:
            info.autocompletion = _of_metavar(info.metavar)


def _of_metavar(metavar: str | None) -> Complete | None:
    """Return what completes a value that the help calls `metavar`; None for values that pitr does not know."""
    parts = set((metavar or "").split("|"))
    if "POLICY" in parts:
        return _policies
    with_vms, with_points = "VM" in parts, bool(parts & {"POINT", "ID"})
    if not with_vms and not with_points:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        return _completed(ctx, incomplete, with_vms=with_vms, with_points=with_points)

    return complete


def _completed(
    ctx: typer.Context, incomplete: str, *, with_vms: bool, with_points: bool
) -> list[tuple[str, str]]:
    try:
        catalog = _catalog(ctx)
        if catalog is None:
            return []
        with closing(catalog):
            found = list(_vms(catalog, incomplete)) if with_vms else []
            return [*found, *(_points(catalog, incomplete) if with_points else ())]
    except Exception:  # noqa: BLE001 - a shell that waits for completions must get no traceback
        return []


def _policies(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    try:
        names = load_settings(named=_config_file(ctx)).policies
    except Exception:  # noqa: BLE001 - as above
        return []
    return [(name, "policy") for name in names if name.startswith(incomplete)]


def _config_file(ctx: Any) -> Path | None:
    """Return the file that --config-file names before or after the command's name."""
    each = ctx
    while each is not None:
        if each.params.get("config_file"):
            return Path(each.params["config_file"])
        each = each.parent
    return None


def _vms(catalog: Catalog, incomplete: str) -> Iterator[tuple[str, str]]:
    vms = catalog.vms()
    names = [vm.name for vm in vms]
    for vm in vms:
        # A name that two VMs have names neither of them.
        value = vm.name if names.count(vm.name) == 1 else vm.id
        if value.startswith(incomplete) and value.isprintable():
            yield value, "VM" if value == vm.name else vm.name


def _points(catalog: Catalog, incomplete: str) -> Iterator[tuple[str, str]]:
    if incomplete:
        backups = catalog.with_prefix(incomplete)
    else:
        newest = [
            catalog.newest_until(vm.id, datetime.max.replace(tzinfo=UTC))
            for vm in catalog.vms()[:_MOST_POINTS]
        ]
        backups = [backup for backup in newest if backup is not None]
    for backup in backups:
        yield backup.backup_id, f"{backup.vm.name}, {times.for_people(backup.point)}"


def _catalog(ctx: typer.Context) -> Catalog | None:
    """Open the catalog of the repository that the command line, the environment or the configuration names."""
    location = _location(ctx)
    if not isinstance(location, Path) or not (location / "catalog.db").is_file():
        return None
    from pitr.repository.catalog import Catalog  # noqa: PLC0415 - `pitr --help` must start quickly

    return Catalog.open(location / "catalog.db", read_only=True)


def _location(ctx: Any) -> Any:
    each = ctx
    while each is not None:
        if each.params.get("repo") and not is_of_environment(each, "repo"):
            return each.params["repo"]
        each = each.parent
    given = os.environ.get("PITR_REPO")
    return repository_location.parsed(given) if given else load_settings(named=_config_file(ctx)).repository
