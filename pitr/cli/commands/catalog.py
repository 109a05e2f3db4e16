# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr catalog rebuild|check|query|serve`."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from pitr.cli import serve_options
from pitr.cli.display import tables
from pitr.cli.options import Common, with_common
from pitr.cli.serve_options import HostOption
from pitr.errors import DamageError, UsageError
from pitr.jobs.serve import catalog_site
from pitr.jobs.serve.catalog_site import ready_queries
from pitr.jobs.serve.catalog_site.ready_queries import READY_QUERIES
from pitr.jobs.upkeep.records_from_blobs import recover
from pitr.repository.catalog.comparison import CatalogDifferences
from pitr.system.sockets import tcp_listener
from pitr.text import counted

app = typer.Typer(
    help="Query, serve, check or rebuild the catalog of all points.\n\n"
    "The catalog is a SQLite database that pitr builds from the records.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SqlArgument = Annotated[
    str | None,
    typer.Argument(metavar="SQL|QUERY", help="A query, or the name of one. It cannot change the catalog."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A value of a ready-made query. Repeatable."),
]
PortOption = Annotated[
    int,
    typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 means any free port."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the catalog in a browser.")]
FromBlobsOption = Annotated[
    bool,
    typer.Option("--from-blobs", help="First restore lost records and indexes from the blobs."),
]


@app.command("query")
@with_common()
def query(common: Common, sql: SqlArgument = None, values: SetOption = None) -> None:
    """Query the catalog with SQL, or with a ready-made query.

    docs/format.md describes the tables point, stream and left_out. Without an argument, pitr lists the ready-made
    queries; they are those of 'pitr catalog serve'.

    Examples: pitr catalog query "SELECT vm_name, count(*) AS points FROM point GROUP BY vm_name";
    pitr catalog query; pitr catalog query growth_per_day; pitr catalog query vms_without_a_backup --set days=7
    """
    ready = ready_queries.named(sql) if sql is not None else None
    if values and ready is None:
        raise UsageError("--set goes with a ready-made query", "'pitr catalog query' lists them.")
    if sql is None:
        _list_queries(common)
        return
    if ready is not None:
        columns, rows = ready_queries.run(common.repository_location(), ready, _values(values or ()))
    elif any(char.isspace() for char in sql):
        with common.repository() as repository:
            columns, rows = repository.catalog.query(sql)
    else:
        raise UsageError(
            f"{sql!r} is neither SQL nor a ready-made query",
            "'pitr catalog query' lists the ready-made queries.",
        )
    if common.out.json:
        common.out.document({"rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        shown = (["" if cell is None else str(cell) for cell in row] for row in rows)
        common.out.show(tables.table(columns, shown, upright=True))


def _values(given: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} has no value", "Give NAME=VALUE, for example --set days=7.")
        values[name] = value
    return values


def _list_queries(common: Common) -> None:
    if common.out.json:
        listed = [
            {
                "name": each.name,
                "title": each.title,
                "description": each.description,
                "values": list(each.parameters),
            }
            for each in READY_QUERIES
        ]
        common.out.document({"queries": listed})
        return
    lines = [(each.name, each.description) for each in READY_QUERIES]
    common.out.show(tables.table(("Query", "Answer"), lines, least={"Answer": ("fold", 40)}))


@app.command("serve")
@with_common()
def serve(
    common: Common,
    port: PortOption = 8001,
    host: HostOption = None,
    open_browser: OpenOption = False,
) -> None:
    """Show the catalog in a browser, with Datasette.

    You see points, disks, streams, drills and prepared queries; each table and query also comes as JSON and CSV.
    pitr serves a read-only copy, and updates it when points come or go. Stop it with Ctrl-C or SIGTERM; it then exits
    with 0. It needs the extra 'web': pip install 'pitr[web]'.

    Examples: pitr catalog serve --open; pitr catalog serve --port 0
    """
    with (
        serve_options.until_stopped(common.out) as tell,
        tcp_listener(host or serve_options.LOOPBACK, port) as listener,
    ):

        def ready(address: str) -> None:
            tell({"serving": {"url": address}}, [f"the catalog is at {address}"])
            if open_browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        serve_options.warn_of_others(common.out, listener, "the catalog: it has no login")
        catalog_site.serve(common.repository_location(), listener, ready=ready, notify=common.out.notify)


@app.command("check")
@with_common()
def check(common: Common) -> None:
    """Compare the catalog with the records. If they differ, pitr exits with 3.

    Example: pitr catalog check
    """
    with common.repository() as repository:
        comparison = repository.check_catalog()
    _show(common, comparison, ok=not comparison.differences)


@app.command("rebuild")
@with_common()
def rebuild(common: Common, from_blobs: FromBlobsOption = False) -> None:
    """Rebuild the catalog from the records, and list the differences.

    The catalog remembers lost records; a rebuild forgets them, so run 'pitr verify' first. With --from-blobs, points
    without a record return from their blobs; facts that the blobs do not hold are then unknown.

    Example: pitr catalog rebuild
    """
    with common.repository() as repository:
        restored: list[str] = []
        failed: tuple[str, ...] = ()
        if from_blobs:
            brought = recover(repository)
            failed = brought.failed
            restored = [f"point {backup.backup_id}: recovered from its blobs" for backup in brought.backups]
            restored += [f"not restored: {line}" for line in failed]
        comparison = repository.rebuild_catalog()
        comparison = replace(comparison, differences=(*restored, *comparison.differences))
    # The rebuild has removed the differences; only damage is still a failure.
    _show(common, comparison, ok=not comparison.damaged and not failed)


def _show(common: Common, comparison: CatalogDifferences, *, ok: bool) -> None:
    if common.out.json:
        common.out.document(
            {
                "ok": ok,
                "points": comparison.points,
                "streams": comparison.streams,
                "differences": list(comparison.differences),
            }
        )
    else:
        points, streams = counted(comparison.points, "point"), counted(comparison.streams, "stream")
        common.out.show(f"The records hold {points} with {streams}.")
        common.out.show(*comparison.differences or ("The catalog and the records agree.",))
    if not ok:
        raise typer.Exit(DamageError.exit_code)
