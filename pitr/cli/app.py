# SPDX-License-Identifier: GPL-2.0-or-later
"""All commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr import __version__
from pitr.cli import (
    backup,
    catalog,
    demo,
    diff,
    doctor,
    drill,
    engine,
    export,
    files,
    gateway,
    import_,
    init,
    inspect,
    options,
    prune,
    restore,
    serve,
    verify,
)

app = typer.Typer(
    name="pitr",
    help="Point-in-time restore for oVirt VM disks.\n\n"
    "Back up VMs in full and incrementally into a repository, see every point in time that it holds, and restore "
    "any of them: each byte is written once.",
    epilog="Example: pitr backup web1 --incremental, then pitr restore web1 --at 2020-06-30T22:00",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"pitr {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    repo: options.RepoOption = None,
    output: options.OutputOption = None,
    debug: options.DebugOption = False,
    config: options.ConfigOption = None,
    engine_url: options.EngineUrlOption = None,
    username: options.UsernameOption = None,
    password_file: options.PasswordFileOption = None,
    cafile: options.CafileOption = None,
    insecure: options.InsecureOption = False,
) -> None:
    options.remember(
        options.Common(repo, output, debug, config, engine_url, username, password_file, cafile, insecure)
    )


app.command("init")(init.init)
app.command("backup")(backup.backup)
app.command("restore")(restore.restore)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("verify")(verify.verify)
app.command("prune")(prune.prune)
app.command("list")(inspect.list_points)
app.command("show")(inspect.show)
app.command("extents")(inspect.extents)
app.command("diff")(diff.diff)
app.add_typer(catalog.app, name="catalog")
app.add_typer(engine.app, name="engine")
app.add_typer(files.app, name="files")
app.command("drill")(drill.drill)
app.command("doctor")(doctor.doctor)
app.command("gateway")(gateway.gateway)
app.command("demo")(demo.demo)
