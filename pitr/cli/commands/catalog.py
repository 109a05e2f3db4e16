# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr catalog rebuild|check|query|serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli import serve_options
from pitr.cli.options import Common, with_common
from pitr.cli.serve_options import HostOption
from pitr.errors import DamageError

if TYPE_CHECKING:
    from pitr.repository.cached_catalog import CatalogDifferences

app = typer.Typer(
    help="Look into the catalog of all points, or make it again. It is a SQLite database, made from the records.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("query")
@with_common()
def query(
    common: Common,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A query; nothing can be changed with it.")],
) -> None:
    """Query the catalog with SQL. The tables point, stream and left_out are described in docs/format.md.

    Example: pitr catalog query "SELECT vm_name, count(*) AS points FROM point GROUP BY vm_name"
    """
    with common.repository() as repository:
        columns, rows = repository.catalog.query(sql)
    if common.out.json:
        common.out.document({"rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        from pitr.cli.display import tables

        shown = (["" if cell is None else str(cell) for cell in row] for row in rows)
        common.out.show(tables.table(columns, shown, upright=True))


@app.command("serve")
@with_common()
def serve(
    common: Common,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 is any that is free.")
    ] = 8001,
    host: HostOption = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser on it.")] = False,
) -> None:
    """Show the catalog in a browser, with Datasette.

    Points, disks, streams, rehearsals, and ready-made queries. Needs the extra 'web': pip install 'pitr[web]'. It
    serves a copy that is brought up to date when points come or go; nothing can be changed through it. Each table and
    query comes as JSON and CSV, too. Ctrl-C or SIGTERM ends it, with exit code 0.

    Examples: pitr catalog serve --open; pitr catalog serve --port 0
    """
    from pitr.jobs.serve import catalog_site as site
    from pitr.system.sockets import tcp_listener

    with (
        serve_options.until_stopped(common.out) as tell,
        tcp_listener(host or serve_options.LOOPBACK, port) as listener,
    ):

        def ready(address: str) -> None:
            tell({"serving": {"url": address}}, [f"the catalog is at {address}"])
            if open_browser:
                import threading
                import webbrowser

                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        serve_options.warn_of_others(common.out, listener, "the catalog: there is no login")
        site.serve(common.repository_path(), listener, ready=ready, notify=common.out.notify)


@app.command("check")
@with_common()
def check(common: Common) -> None:
    """Compare the catalog with the commit records. Exit code 3 when they differ.

    Example: pitr catalog check
    """
    with common.repository() as repository:
        comparison = repository.check_catalog()
    _show(common, comparison, ok=not comparison.differences)


@app.command("rebuild")
@with_common()
def rebuild(
    common: Common,
    from_blobs: Annotated[
        bool,
        typer.Option(
            "--from-blobs", help="First make records and indexes again that are lost, from the blobs."
        ),
    ] = False,
) -> None:
    """Make the catalog again from the commit records. What was different is told.

    The catalog remembers records that are gone; a rebuild forgets them: run 'pitr verify' first. With --from-blobs
    points without a record come back from their blobs; what those do not tell is then unknown.

    Example: pitr catalog rebuild
    """
    from dataclasses import replace

    with common.repository() as repository:
        told: list[str] = []
        failed: tuple[str, ...] = ()
        if from_blobs:
            from pitr.jobs.upkeep.records_from_blobs import bring_back

            brought = bring_back(repository)
            failed = brought.failed
            told = [f"point {backup.backup_id}: brought back from its blobs" for backup in brought.backups]
            told += [f"not brought back: {line}" for line in failed]
        comparison = repository.rebuild_catalog()
        comparison = replace(comparison, differences=(*told, *comparison.differences))
    # What was different is mended now; only what is damaged remains a reason to fail.
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
        common.out.show(f"The records hold {comparison.points} points with {comparison.streams} streams.")
        common.out.show(*comparison.differences or ("The catalog and the records agree.",))
    if not ok:
        raise typer.Exit(DamageError.exit_code)
